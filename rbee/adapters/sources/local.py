# SPDX-License-Identifier: GPL-3.0-or-later
"""Models that are on this machine already: `file:/path/model.gguf`, `local:/path/folder-MLC`, `builtin:NAME`."""

from __future__ import annotations

import asyncio
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
from rbee.core import model_files
from rbee.core.errors import Conflict, Insufficient, Interrupted, InvalidRequest, NotFound
from rbee.core.sources import SourceProvider, rest_of, supports

CHUNK = 2**20
#: Linux: make a file share all blocks of another.
_FICLONE = 0x40049409
OnBytes = Callable[[int, "int | None"], None]


class LocalFile:
    """A file or an MLC folder of the hive's machine, by its absolute path; of a split GGUF, any part."""

    def __init__(self, provider: SourceProvider, config_dir: Path) -> None:
        self.provider = provider
        self.name = provider.title

    def supports(self, source: str) -> bool:
        return supports(self.provider, source)

    async def locate(self, source: str, revision: str | None) -> Located:
        """Raises InvalidRequest, NotFound."""
        rest = rest_of(self.provider, source)
        path = Path(unquote(rest[2:]) if rest.startswith("//") else rest)
        if not path.is_absolute() or "\0" in rest:
            raise InvalidRequest(f"The source {source!r} has no absolute path.", mend="Write file:/absolute/path.gguf.")
        return await asyncio.to_thread(_located, path)


class Builtin:
    """A model that comes with rbee."""

    def __init__(self, provider: SourceProvider, config_dir: Path) -> None:
        self.provider = provider
        self.name = provider.title

    def supports(self, source: str) -> bool:
        return supports(self.provider, source)

    async def locate(self, source: str, revision: str | None) -> Located:
        path = shipped.builtin_model(rest_of(self.provider, source))
        return Located(files=(SourceFile(filename=path.name, path=path, size=path.stat().st_size),))


def _located(path: Path) -> Located:
    where = f"The folder {path.parent}"
    if path.is_dir():
        return _folder(path)
    names = model_files.shards(path.name)
    if len(names) == 1 and not path.exists():
        raise NotFound(f"There is no file {path} on the hive's machine.")
    if path.exists() and not path.is_file():
        raise InvalidRequest(f"{path} is not a file.")
    present = [n for n in names if (path.parent / n).is_file()]
    if not present:
        raise NotFound(f"There is no file {path} on the hive's machine.")
    return Located(files=tuple(_file(path.parent / n) for n in model_files.whole(path.name, present, where)))


def _folder(path: Path) -> Located:
    names = sorted(p.name for p in path.iterdir() if p.is_file())
    if model_files.is_mlc(names):
        files = model_files.mlc_files(names, f"The folder {path}")
        return Located(files=tuple(_file(path / n) for n in files), format="mlc")
    ggufs = [n for n in names if model_files.is_weights(n)]
    named = f" It has {', '.join(ggufs[:5])}." if ggufs else ""
    raise InvalidRequest(
        f"{path} is a folder, and no MLC model.{named}", mend="Name the .gguf file in it." if ggufs else ""
    )


def _file(path: Path) -> SourceFile:
    size = path.stat().st_size
    if not size:
        # Also what only looks like a file: those of /proc have no end.
        raise InvalidRequest(f"{path} is empty.")
    return SourceFile(filename=safe_filename(path.name), path=path.resolve(), size=size)


def unchanged(path: Path, copy: Path) -> bool:
    """Whether a file that was placed at `copy` is still as it was then, by size and time of its last change."""
    try:
        now, then = path.stat(), copy.stat()
    except OSError:
        return False
    # Some disks keep no parts of a second.
    tick = 1 if then.st_mtime_ns % 10**9 else 10**9
    same = now.st_mtime_ns // tick == then.st_mtime_ns // tick
    return path.samefile(copy) or (same and now.st_size == then.st_size)


def place(path: Path, target: Path, on_bytes: OnBytes, cancelled: Event, *, ours: bool = False) -> str:
    """Bring a local file to `target`; its SHA-256. Blocks.

    One of `ours` (pushed by apply, in rbee's own folder) is hard-linked. Anybody else's is copied, sharing blocks
    where the file system can: whoever writes to it later must not change what was verified, under a worker's eyes.
    A file that is `target` already stays as it is. Raises Insufficient when the disk is full, Interrupted when
    `cancelled` is set meanwhile, Conflict when the file is being written; then `target` is as it was.
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
        if not part.samefile(path):
            # By which `unchanged` tells.
            os.utime(part, ns=(part.stat().st_atime_ns, path.stat().st_mtime_ns))
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
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as f, contextlib.ExitStack() as stack:
        before = os.fstat(f.fileno())
        total = before.st_size
        out = stack.enter_context(copy_to.open("wb")) if copy_to else None
        while chunk := f.read(CHUNK):
            if cancelled.is_set():
                raise Interrupted("Cancelled.")
            digest.update(chunk)
            if out is not None:
                out.write(chunk)
            done += len(chunk)
            if done > total:
                break
            on_bytes(done, total)
        after = os.fstat(f.fileno())
        if done != total or (after.st_size, after.st_mtime_ns) != (total, before.st_mtime_ns):
            raise Conflict(f"{path} is being written.", code="source_busy", mend="Try again when it is whole.")
        if out is not None:
            out.flush()
            os.fsync(out.fileno())
    return digest.hexdigest()
