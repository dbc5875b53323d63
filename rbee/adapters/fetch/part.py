# SPDX-License-Identifier: GPL-3.0-or-later
"""The beginning of a file on the disk: its bytes, what is known of them, and their digest as they come."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil

from rbee.adapters.fetch.ranges import Range, Ranges
from rbee.adapters.paths import write_atomic
from rbee.contracts import codec
from rbee.core.errors import Insufficient

CHUNK = 2**20
#: Pieces that may wait for their digest in memory; more is read back from the file.
_HELD = 8 * 2**20
#: Pieces for one call of the system.
_PIECES = 512
#: Left free on the disk beside the file itself.
SPARE = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Beside a `.part`: what it is the beginning of. A part of anything else is thrown away.

    `done` tells which ranges are here once several connections have written; before that it is None, and the file is
    as long as what is here. `boot` is the machine's boot that wrote them: ranges are noted without waiting for the
    disk, so a later boot believes them only where a digest will tell.
    """

    url: str
    #: Strong ETag or Last-Modified, for If-Range.
    validator: str | None = None
    size: int | None = None
    sha256: str | None = None
    done: tuple[Range, ...] | None = None
    boot: str = ""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Digest:
    """SHA-256 (and MD5 where asked) of a file that is being written: follows the first missing byte.

    `offer` and `frontier` belong to the writer, `catch_up` to a thread; pieces that came in order are hashed from
    memory, the others are read back.
    """

    def __init__(self, part: Path, *, md5: bool) -> None:
        self._part = part
        self._sha256: _Hash = hashlib.sha256()
        self._md5: _Hash | None = hashlib.md5(usedforsecurity=False) if md5 else None
        self._waiting: deque[tuple[int, Sequence[bytes]]] = deque()
        self._held = 0
        self._lock = threading.Lock()
        self._hashed = 0
        self._stop = threading.Event()

    @property
    def hashed(self) -> int:
        return self._hashed

    def offer(self, start: int, pieces: Sequence[bytes]) -> None:
        size = sum(map(len, pieces))
        with self._lock:
            if self._held + size <= _HELD:
                self._held += size
                self._waiting.append((start, pieces))

    def stop(self) -> None:
        self._stop.set()

    def catch_up(self, frontier: int) -> None:
        """Hash all up to `frontier`. Blocks."""
        while self._hashed < frontier and not self._stop.is_set():
            start, pieces = self._waiting[0] if self._waiting else (frontier, ())
            if start <= self._hashed and pieces:
                with self._lock:
                    self._waiting.popleft()
                    self._held -= sum(map(len, pieces))
                if start == self._hashed:
                    for piece in pieces:
                        self._update(piece)
            else:
                self._read_back(min(start if start > self._hashed else frontier, frontier))

    def _read_back(self, end: int) -> None:
        with self._part.open("rb") as f:
            f.seek(self._hashed)
            while self._hashed < end and not self._stop.is_set():
                piece = f.read(min(CHUNK, end - self._hashed))
                if not piece:
                    raise OSError(errno.EIO, "the part is shorter than it was", str(self._part))
                self._update(piece)

    def _update(self, piece: bytes) -> None:
        self._sha256.update(piece)
        if self._md5 is not None:
            self._md5.update(piece)
        self._hashed += len(piece)

    def held_against(self, sha256: str | None, md5: str | None) -> tuple[str, str]:
        """The SHA-256 of all that was hashed, and what of it is not as wanted, or ''."""
        found = self._sha256.hexdigest()
        if sha256 is not None and found != sha256:
            return found, f"SHA-256 {found}, not {sha256}"
        if self._md5 is not None and self._md5.hexdigest() != md5:
            return found, f"MD5 {self._md5.hexdigest()}, not {md5}"
        return found, ""


class Part:
    """A `.part` and its note. Blocks; one thread at a time, but `write` from any."""

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = path
        self.note = path.with_name(f"{path.name}.json")
        self.origin = origin
        self.ranges = Ranges()
        self._fd = -1

    def take_up(self) -> None:
        """Continue an earlier try, if it was of the same file and the rest can be told to belong to it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A kill while a note was written.
        for left in self.path.parent.glob(f".{self.note.name}.*"):
            left.unlink(missing_ok=True)
        wanted = self.origin
        known = _read_note(self.note)
        same = known is not None and (
            known.sha256 == wanted.sha256 if wanted.sha256 else known.url == wanted.url and known.validator is not None
        )
        if known is None or not same or not self.path.is_file():
            return self.forget()
        if known.done is not None and known.boot != _boot() and wanted.sha256 is None:
            return self.forget()
        # Another address of the same bytes knows nothing of this validator.
        self.origin = replace(known, url=wanted.url, validator=known.validator if known.url == wanted.url else None)
        size = self.path.stat().st_size
        self.ranges = Ranges(((0, size),) if known.done is None else ((a, min(b, size)) for a, b in known.done))
        return None

    def open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self, start: int, pieces: Sequence[bytes]) -> int:
        """How many bytes were written: all. Raises Insufficient when the disk is full, OSError."""
        size = sum(map(len, pieces))
        try:
            written = 0
            if hasattr(os, "pwritev") and len(pieces) <= _PIECES:
                written = os.pwritev(self._fd, pieces, start)
            if written < size:
                rest = memoryview(b"".join(pieces))[written:]
                while rest:
                    put = os.pwrite(self._fd, rest, start + written)
                    written, rest = written + put, rest[put:]
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise Insufficient(
                    f"The disk of {self.path.parent} takes no more ({os.strerror(e.errno or 0)}), after "
                    f"{self.ranges.count / 1e6:.1f} MB of {self.path.name.removesuffix('.part')}; they are kept.",
                    mend="Make room, then download it again: it goes on from there.",
                ) from None
            raise
        return size

    def save_note(self, *, gaps: bool) -> None:
        origin = replace(self.origin, done=self.ranges.done if gaps else None, boot=_boot())
        write_atomic(self.note, codec.encode_pretty(origin), 0o600)

    def room_for(self, total: int) -> None:
        """Raises Insufficient."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        free, need = shutil.disk_usage(self.path.parent).free, total - self.ranges.count
        if free < need + SPARE:
            raise no_room(need, self.path.parent, free)

    def forget(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.ranges = Ranges()

    def publish(self, target: Path) -> None:
        """Whole and right: under its name."""
        self.close()
        self.path.replace(target)
        self.note.unlink(missing_ok=True)


def kept(part: Path) -> int:
    """Bytes of an unfinished download that will not be fetched again. Blocks."""
    note = _read_note(part.with_name(f"{part.name}.json"))
    try:
        size = part.stat().st_size
    except OSError:
        return 0
    if note is None:
        return 0
    return size if note.done is None else Ranges(note.done).count


def said_size(part: Path) -> int | None:
    """How large its server said that it will be. Blocks."""
    note = _read_note(part.with_name(f"{part.name}.json"))
    return note.size if note is not None else None


def no_room(need: int, where: Path, free: int) -> Insufficient:
    return Insufficient(
        f"The download needs {need / 1e6:.1f} MB more, {where} has {free / 1e6:.1f} MB free.",
        mend="Make room, or delete models that are not used.",
    )


def _read_note(note: Path) -> Origin | None:
    try:
        return codec.decode(Origin, note.read_bytes())
    except (OSError, codec.CodecError):
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))
