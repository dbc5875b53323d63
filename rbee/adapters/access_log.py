# SPDX-License-Identifier: GPL-3.0-or-later
"""A file of JSON lines that a busy process writes: one thread, whole lines, rotated by size."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from pathlib import Path

from rbee.contracts import defaults

log = logging.getLogger(__name__)

#: Lines that may wait for a slow disk; what comes beyond is counted and left out.
MOST_WAITING = 20_000
#: Seconds between two writes.
_EVERY = 0.5


class LineFile:
    """`add` is for one thread (the event loop) and never blocks; `start` and `close` once each.

    Beside PATH there are at most `kept` older ones: PATH.1 is the newest of them. A disk that is full costs lines,
    which `lost` counts, and nothing else.
    """

    def __init__(self, path: Path, size: int = defaults.LOG_BYTES * 5, kept: int = 3) -> None:
        self._path = path
        self._size = size
        self._kept = kept
        self._waiting: deque[bytes] = deque()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False
        self.lost = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._write_on, name="rbee-access-log", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """A line without its end."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(line)
        else:
            self.lost += 1

    def close(self) -> None:
        """Writes what waits. Blocks for a moment."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _write_on(self) -> None:
        while not self._stop.wait(_EVERY):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = []
        while self._waiting:
            lines.append(self._waiting.popleft())
        if not lines:
            return
        try:
            self._rotate()
            with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", 0) as file:
                self._append(file.fileno(), b"\n".join(lines) + b"\n")
            self._failing = False
        except OSError as e:
            self.lost += len(lines)
            if not self._failing:
                log.warning("%s cannot be written: %s", self._path, e)
            self._failing = True

    @staticmethod
    def _append(file: int, data: bytes) -> None:
        """All of it or nothing: a line that was cut by a full disk would spoil the next one too."""
        before = os.fstat(file).st_size
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(file, before)
            raise

    def _rotate(self) -> None:
        try:
            if self._path.stat().st_size < self._size:
                return
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._kept + 1))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
