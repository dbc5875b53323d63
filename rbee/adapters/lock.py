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
from typing import IO

from rbee.core.errors import Conflict, RbeeError


@contextmanager
def held(path: Path, doing: str, since: str) -> Iterator[None]:
    """Hold the lock at `path` while the block runs; `since` is RFC 3339, `doing` the command for people.

    Raises Conflict `locked` naming holder, command and time when someone else holds it. The kernel drops the
    lock when the holder dies, however it dies.
    """
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                f"Another rbee is at work on this machine: {_holder(path)}.",
                code="locked",
                mend="Wait for it to end, or stop it (Ctrl-C there).",
            ) from None
        os.ftruncate(file.fileno(), 0)
        user = "?"
        with suppress(OSError, KeyError):
            user = getpass.getuser()
        holder = {"pid": os.getpid(), "user": user, "host": socket.gethostname(), "doing": doing, "since": since}
        with suppress(OSError):  # on a full disk the lock still holds: it only cannot say whose it is
            os.write(file.fileno(), json.dumps(holder).encode())
        try:
            yield
        finally:
            os.ftruncate(file.fileno(), 0)


def _opened(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab", buffering=0)
    except OSError as e:
        raise RbeeError(f"The lock {path} cannot be made: {e.strerror}.", code="no_lock") from None


def _holder(path: Path) -> str:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return f"`{told['doing']}` of {told['user']}@{told['host']} (pid {told['pid']}) since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said who it is"
