# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports that a test gives to a daemon before it starts. Each program that asks has a block of its own, away from those
that the kernel gives out by itself, so that no other run and no connection takes one between the choice and the bind.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

#: Below the ephemeral ports of Linux (32768) and macOS (49152), above rbee's own.
FIRST, LAST, BLOCK = 10240, 32767, 512
#: Its lock is held for the life of this program, however that ends; programs it starts do not inherit it.
_held: list[IO[bytes]] = []


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on, and that nobody else will choose for the next few hundred."""
    return free_range(1, host)[0]


def free_range(count: int = 8, host: str = "127.0.0.1") -> tuple[int, int]:
    """First and last of so many neighbouring ones."""
    run: list[int] = []
    for port in itertools.islice(_ports(), 2 * BLOCK):
        if run and port != run[-1] + 1:
            run = []
        run = [*run, port] if _is_free(host, port) else []
        if len(run) == count:
            return run[0], run[-1]
    raise RuntimeError("no free ports")


@cache
def _ports() -> Iterator[int]:
    """Round and round: the one that was given longest ago comes next."""
    start = _claim()
    return itertools.cycle(range(start, start + BLOCK))


def _claim() -> int:
    """The first port of a block that is nobody's."""
    folder = Path(tempfile.gettempdir()) / f"rbee-test-ports-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for start in range(FIRST, LAST + 2 - BLOCK, BLOCK):
        lock = (folder / str(start)).open("wb")
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _held.append(lock)
            return start
        lock.close()
    raise RuntimeError("all blocks of ports are taken")


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        # As servers do: what ended a moment ago does not keep its port.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError:
            return False
    return True
