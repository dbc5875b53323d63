# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in the page cache: read into it, measured, locked there, dropped.

Mappings are made and locked by a program of its own, the keeper (this module, run as a script). So the locked pages
count as the keeper's memory and not as the daemon's, the kernel kills the keeper first when memory ends, a lock is
given back by ending it, and a file that somebody truncates cannot take the daemon down with SIGBUS. It ends with
its maker, whose end of the pipe it reads. Standard library only: it runs without the site packages.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

#: Read, locked and told at once.
CHUNK = 8 * 2**20
#: Measured at once: a byte is needed for each page.
_WINDOW = 2**30
_SAMPLE, _SAMPLES = 4 * 2**20, 64
PAGE = os.sysconf("SC_PAGE_SIZE")
_PROT_READ = 1
_MAP_SHARED = 1
_FAILED = ctypes.c_void_p(-1).value


class Changed(OSError):
    """The file is no longer what it was: shorter, or another."""


def _library() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    size, address = ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.restype = address
    libc.mmap.argtypes = [address, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
    libc.munmap.argtypes = [address, size]
    libc.mlock.argtypes = [address, size]
    libc.mincore.argtypes = [address, size, address]
    return libc


_libc = _library()


@contextlib.contextmanager
def mapped(fd: int, offset: int, length: int) -> Iterator[int]:
    """The address of a part of a file, mapped for reading; nothing is read by it. Raises OSError.

    Must not be looked into: a page beyond the file's end is a SIGBUS.
    """
    address = _libc.mmap(None, length, _PROT_READ, _MAP_SHARED, fd, offset)
    if address is None or address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        yield address
    finally:
        _libc.munmap(address, length)


def resident(path: Path) -> int | None:
    """Bytes of a file that are in memory now. Blocks for about 40 ms a GB, reads nothing of it.

    None where the kernel does not tell: only who owns a file, or may write it, is told. Raises OSError.
    """
    found = _look(path, lambda size: ((offset, min(_WINDOW, size - offset)) for offset in range(0, size, _WINDOW)))
    return None if found is None else found[0]


def share(path: Path) -> float | None:
    """About what share of a file is in memory, 0 to 1, by samples all over it: quick whatever its size.

    None and raises as `resident` does; an empty file is all there.
    """

    def samples(size: int) -> Iterator[tuple[int, int]]:
        count = -(-size // _SAMPLE)
        for i in range(min(count, _SAMPLES)):
            offset = i * count // min(count, _SAMPLES) * _SAMPLE
            yield offset, min(_SAMPLE, size - offset)

    found = _look(path, samples)
    return None if found is None else found[0] / found[1] if found[1] else 1.0


def _look(path: Path, parts: Callable[[int], Iterator[tuple[int, int]]]) -> tuple[int, int] | None:
    """Bytes in memory and bytes looked at, of the parts (offset, length) of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        seen = os.fstat(fd)
        if sys.platform == "linux" and os.geteuid() not in (0, seen.st_uid) and not os.access(path, os.W_OK):
            return None
        here = looked = 0
        for offset, length in parts(seen.st_size):
            here += _resident_part(fd, offset, length)
            looked += length
        return here, looked
    finally:
        os.close(fd)


def _resident_part(fd: int, offset: int, length: int) -> int:
    pages = bytearray(-(-length // PAGE))
    with mapped(fd, offset, length) as address:
        if _libc.mincore(address, length, (ctypes.c_char * len(pages)).from_buffer(pages)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    absent = pages.count(0) if max(pages) <= 1 else sum(1 for page in pages if not page & 1)
    here = (len(pages) - absent) * PAGE
    # The last page is rarely full.
    return here - (-length % PAGE if pages[-1] & 1 else 0)


def drop(path: Path) -> None:
    """Ask the kernel to give up the file's pages that nobody has mapped, locked or still to write. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


class Reader:
    """Reads files into the page cache and locks them there where it may. For a process that does nothing else."""

    def __init__(self, files: Sequence[tuple[str, int]], tell: Callable[[int], None]) -> None:
        """`files`: path and expected size of each. `tell` hears how many bytes are read."""
        self._files = files
        self._tell = tell
        self._buffer = bytearray(CHUNK)
        self._read = 0
        self._locks: list[tuple[int, int]] = []
        self.locked = bool(files)

    def run(self) -> None:
        """Raises OSError; Changed when a file is not as long as it was said to be."""
        for path, size in self._files:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if os.fstat(fd).st_size != size:
                    raise Changed(f"{path} has another size than the catalog says")
                self._file(fd, path, size)
            finally:
                os.close(fd)

    def _file(self, fd: int, path: str, size: int) -> None:
        address = self._map(fd, size) if self.locked and size else None
        for offset in range(0, size, CHUNK):
            length = min(CHUNK, size - offset)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, offset + length, 2 * CHUNK, os.POSIX_FADV_WILLNEED)
            got = 0
            while got < length:
                some = os.preadv(fd, [memoryview(self._buffer)[: length - got]], offset + got)
                if some == 0:
                    raise Changed(f"{path} became shorter")
                got += some
            if self.locked and address is not None and _libc.mlock(address + offset, length) != 0:
                self._unlock()
            self._read += length
            self._tell(self._read)

    def _map(self, fd: int, size: int) -> int | None:
        address: int | None = _libc.mmap(None, size, _PROT_READ, _MAP_SHARED, fd, 0)
        if address is None or address == _FAILED:
            self._unlock()
            return None
        self._locks.append((address, size))
        return address

    def _unlock(self) -> None:
        """All or nothing: half a locked model only takes memory from the other half."""
        self.locked = False
        for address, size in self._locks:
            _libc.munmap(address, size)
        self._locks.clear()


def _keep(source: IO[str], told: IO[str]) -> None:
    """The keeper: a line of JSON with the files comes in; numbers go out, then `locked`, `read` or an error."""

    def tell(line: object) -> None:
        told.write(f"{line}\n")
        told.flush()

    with contextlib.suppress(OSError):  # it may be raised by anyone
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
    try:
        reader = Reader([(str(path), int(size)) for path, size in json.loads(source.readline())], tell)
        reader.run()
    except OSError as e:
        tell(f"error {e}")
        return
    tell("locked" if reader.locked else "read")
    if reader.locked:
        source.read()  # until the maker lets go, or ends


if __name__ == "__main__":  # pragma: no cover - in the keeper
    try:
        _keep(sys.stdin, sys.stdout)
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
