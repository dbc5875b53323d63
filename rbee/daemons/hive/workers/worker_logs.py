# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker and its engine have written: the end of it, and what comes, however often the log is turned over."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from rbee.core.logs_window import LONGEST, Line, Reader, newer
from rbee.daemons.hive.workers.files import older_log

#: At most so many bytes are looked at for the last lines.
WINDOW: Final = 8 * 2**20
#: Bytes read at once: of the end, and of what comes.
_BLOCK: Final = 65_536
STEP: Final = 65_536
#: Whoever follows and is further behind than this goes on nearer to the end.
BEHIND: Final = 2**20
#: Seconds between looks, when there was nothing new and when there is more.
QUIET, BUSY = 0.25, 0.1
#: Bytes before the place that was read last, by which a log that was turned over is known.
_MARK = 64


@dataclass(frozen=True, slots=True)
class Found:
    """`skipped` bytes were left out before `lines`, -1 when nobody knows how many. `behind`: there is more now."""

    lines: tuple[Line, ...] = ()
    skipped: int = 0
    behind: bool = False


class LogReader:
    """Reads one worker's log, `worker.log.1` before `worker.log`. Blocks; safe to close while another thread reads.

    The log is turned over by copying it to `.1` and cutting it to nothing, at any moment. The file is held open, so
    that the last words of a worker whose folder goes are still read.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._closed = False
        #: Read up to here; the bytes before that; what the file looked like then.
        self._at = 0
        self._mark = b""
        self._stamp = (-1, -1)
        self._rest = b""
        self._reader = Reader()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def tail(self, count: int, since: datetime | None, *, whole: bool) -> tuple[Line, ...]:
        """The last `count` lines that are not before `since`; `more` goes on after them.

        `whole`: a last line without its end is left for `more`. Raises OSError.
        """
        with self._lock:
            data = b""
            if self._opened():
                assert self._fd is not None
                size = os.fstat(self._fd).st_size
                data = _end_of(self._fd, size, count, WINDOW)
                self._passed(data, size)
            if data.count(b"\n") <= count and len(data) < WINDOW:
                data = _end_of_file(older_log(self._log), count - data.count(b"\n"), WINDOW - len(data)) + data
            raw = data.split(b"\n")
            self._rest = raw.pop()
            if not whole and self._rest:
                raw.append(self._rest)
                self._rest = b""
            lines = list(newer(self._reader.lines(raw), since))
            return tuple(lines[len(lines) - count :] if count < len(lines) else lines)

    def more(self) -> Found:
        """What was written since, at most about `STEP` bytes of it. Raises OSError."""
        with self._lock:
            if self._closed or not self._opened():
                return Found()
            assert self._fd is not None
            seen = os.fstat(self._fd)
            stamp = (seen.st_size, seen.st_mtime_ns)
            if stamp == self._stamp:
                self._let_go_of_another(seen)
                return Found()
            before, skipped, cut = b"", 0, False
            if seen.st_size < self._at or os.pread(self._fd, len(self._mark), self._at - len(self._mark)) != self._mark:
                before, skipped = self._turned_over()
            ahead = seen.st_size - self._at
            if ahead > BEHIND:
                skipped = skipped if skipped < 0 else skipped + ahead - STEP
                self._at, self._rest, before, cut = seen.st_size - STEP, b"", b"", True
            data = os.pread(self._fd, STEP, self._at)
            self._passed(data, self._at + len(data))
            data = _from_a_line(data) if cut else data
            behind = self._at < seen.st_size
            if not behind:
                self._stamp = stamp
            return Found(self._lines(before + data), skipped, behind)

    def last(self) -> tuple[Line, ...]:
        """A last line that never got its end."""
        rest, self._rest = self._rest, b""
        return tuple(self._reader.lines([rest]))

    def _opened(self) -> bool:
        if self._fd is None and not self._closed:
            with contextlib.suppress(FileNotFoundError):
                self._fd = _open(self._log)
        return self._fd is not None

    def _passed(self, data: bytes, at: int) -> None:
        self._at = at
        self._mark = (self._mark + data)[-_MARK:]
        self._mark = self._mark[-at:] if at else b""

    def _lines(self, data: bytes) -> tuple[Line, ...]:
        *raw, self._rest = (self._rest + data).split(b"\n")
        lines = list(self._reader.lines(raw))
        if len(self._rest) > STEP:
            cut, self._rest = self._rest[:-LONGEST], self._rest[-LONGEST:]
            lines += self._reader.lines([cut], unfinished=True)
        return tuple(lines)

    def _turned_over(self) -> tuple[bytes, int]:
        """The log was cut: what of the old one was not read yet stands in the older file, if that is its copy."""
        at, mark = self._at, self._mark
        self._at, self._mark = 0, b""
        try:
            fd = _open(older_log(self._log))
        except OSError:
            return b"", -1
        try:
            if os.pread(fd, len(mark), at - len(mark)) != mark:
                return b"", -1
            left = os.fstat(fd).st_size - at
            if left <= BEHIND:
                return os.pread(fd, left, at), 0
            self._rest = b""
            return _from_a_line(os.pread(fd, STEP, at + left - STEP)), left - STEP
        finally:
            os.close(fd)

    def _let_go_of_another(self, seen: os.stat_result) -> None:
        """A log that somebody removed or replaced: all of it is read, the next look opens what stands there now."""
        try:
            now = self._log.stat()
        except OSError:
            return
        if (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino) and self._fd is not None:
            os.close(self._fd)
            self._fd, self._at, self._mark, self._stamp = None, 0, b"", (-1, -1)


def _open(path: Path) -> int:
    """For reading, never waiting. Raises OSError, also for what is no plain file: that is not a log."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "It is no plain file", str(path))
    return fd


def _end_of(fd: int, size: int, count: int, limit: int) -> bytes:
    """The end of a file, from the beginning of a line: of its last `count` lines, or as much as `limit` allows."""
    blocks: list[bytes] = []
    at, lines = size, 0
    # One more than asked for: it is the end of the line before.
    while at > 0 and lines <= count and size - at < limit:
        step = min(_BLOCK, at, limit - (size - at))
        at -= step
        block = os.pread(fd, step, at)
        lines += block.count(b"\n")
        blocks.append(block)
    data = b"".join(reversed(blocks))
    return _from_a_line(data) if at > 0 and lines > count else data


def _from_a_line(data: bytes) -> bytes:
    """Without the part of a line that it begins with; as it is when it is all one line."""
    return data[data.find(b"\n") + 1 :]


def _end_of_file(path: Path, count: int, limit: int) -> bytes:
    try:
        fd = _open(path)
    except OSError:
        return b""
    try:
        return _end_of(fd, os.fstat(fd).st_size, count, limit)
    finally:
        os.close(fd)


async def pause(found: Found) -> None:
    """Until the next look."""
    await asyncio.sleep(BUSY if found.behind else QUIET)
