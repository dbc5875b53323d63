# SPDX-License-Identifier: GPL-3.0-or-later
"""Models that are on this machine already: `file:/path/model.gguf` and `builtin:NAME`."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event
from urllib.parse import unquote

from rbee.adapters import shipped
from rbee.adapters.sources.base import Located, SourceFile, safe_filename
from rbee.core.errors import Insufficient, Interrupted, InvalidRequest, NotFound

CHUNK = 2**20
#: Linux: make a file share all blocks of another.
_FICLONE = 0x40049409
OnBytes = Callable[[int, "int | None"], None]


class LocalFile:
    """A file of the hive's machine, by its absolute path."""

    name = "local file"

    def supports(self, source: str) -> bool:
        return source.startswith("file:")

    async def locate(self, source: str, revision: str | None) -> Located:
        path = Path(unquote(source[7:]) if source.startswith("file://") else source[5:])
        if not path.is_absolute():
            raise InvalidRequest(f"The source {source!r} has no absolute path.", mend="Write file:/absolute/path.gguf.")
        if not path.exists():
            raise NotFound(f"There is no file {path} on the hive's machine.")
        if not path.is_file():
            raise InvalidRequest(f"{path} is not a file.")
        found = SourceFile(filename=safe_filename(path.name), path=path.resolve(), size=path.stat().st_size)
        return Located(files=(found,))


class Builtin:
    """A model that comes with rbee."""

    name = "builtin"

    def supports(self, source: str) -> bool:
        return source.startswith("builtin:")

    async def locate(self, source: str, revision: str | None) -> Located:
        path = shipped.builtin_model(source.removeprefix("builtin:"))
        return Located(files=(SourceFile(filename=path.name, path=path, size=path.stat().st_size),))


def place(path: Path, target: Path, on_bytes: OnBytes, cancelled: Event, *, ours: bool = False) -> str:
    """Bring a local file to `target`; its SHA-256. Blocks.

    One of `ours` (pushed by apply, in rbee's own folder) is hard-linked. Anybody else's is copied, sharing blocks
    where the file system can: whoever writes to it later must not change what was verified, under a worker's eyes.
    A file that is `target` already stays as it is. Raises Insufficient when the disk is full, Interrupted when
    `cancelled` is set meanwhile; then `target` is as it was.
    """
    if target.exists() and target.samefile(path):
        return _read(path, None, on_bytes, cancelled)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        if (ours and _linked(path, part)) or _cloned(path, part):
            digest = _read(part, None, on_bytes, cancelled)
        else:
            free, size = shutil.disk_usage(target.parent).free, path.stat().st_size
            if free < size:
                raise Insufficient(f"{path} needs {size} bytes, {target.parent} has {free} free.")
            digest = _read(path, part, on_bytes, cancelled)
        part.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    return digest


def _linked(path: Path, part: Path) -> bool:
    try:
        os.link(path, part)
    except OSError:
        return False
    return True


def _cloned(path: Path, part: Path) -> bool:
    """A copy that shares its blocks (btrfs, XFS, bcachefs); False where there is no such thing."""
    try:
        with path.open("rb") as source, part.open("wb") as copy:
            fcntl.ioctl(copy, _FICLONE, source.fileno())
            os.fsync(copy.fileno())
    except OSError:
        return False
    return True


def _read(path: Path, copy_to: Path | None, on_bytes: OnBytes, cancelled: Event) -> str:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as f, contextlib.ExitStack() as stack:
        out = stack.enter_context(copy_to.open("wb")) if copy_to else None
        while chunk := f.read(CHUNK):
            if cancelled.is_set():
                raise Interrupted("Cancelled.")
            digest.update(chunk)
            if out is not None:
                out.write(chunk)
            done += len(chunk)
            on_bytes(done, total)
        if out is not None:
            out.flush()
            os.fsync(out.fileno())
    return digest.hexdigest()
