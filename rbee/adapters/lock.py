# SPDX-License-Identifier: GPL-3.0-or-later
"""One apply at a time: a lock that dies with its holder, and says who holds it and since when."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rbee.core.errors import Conflict


@contextmanager
def held(path: Path, doing: str, since: str) -> Iterator[None]:
    """Hold the lock at `path` while the block runs; `since` is RFC 3339, `doing` the command for people.

    Raises Conflict `locked` naming holder, command and time when someone else holds it. The kernel drops the
    lock when the holder dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                f"Another rbee is at work on this machine: {_holder(path)}.",
                code="locked",
                mend="Wait for it to end, or stop it (Ctrl-C there).",
            ) from None
        file.seek(0)
        file.truncate()
        user = "?"
        with suppress(OSError, KeyError):
            user = getpass.getuser()
        json.dump(
            {"pid": os.getpid(), "user": user, "host": socket.gethostname(), "doing": doing, "since": since}, file
        )
        file.flush()
        try:
            yield
        finally:
            file.seek(0)
            file.truncate()


def _holder(path: Path) -> str:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return f"`{told['doing']}` of {told['user']}@{told['host']} (pid {told['pid']}) since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said who it is"
