# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on the disk of a download that has not ended, so that the next hive can go on with it. Blocks.

In the model's folder: `.download.json` (what was asked for and how far it is), a `.part` with its note for each file
that is being fetched, and `.whole/` with the files that are whole. Files get their own places only when all of them
are whole and right: until then a model that was there before stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rbee.adapters.fetch.part import kept, said_size
from rbee.adapters.paths import write_atomic
from rbee.contracts import codec
from rbee.contracts.operations.downloads import DownloadStatus
from rbee.contracts.operations.models import ModelDownload
from rbee.core.records import ModelFile, ModelRecord
from rbee.core.redact import HIDDEN

STATE = ".download.json"
STAGE = ".whole"
METADATA = "metadata.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """`request` holds no secret: one in its source is hidden, and then it can only be gone on with by asking again.

    `commit` is what the source pointed to; `finished` are the files in `.whole/`. `publishing` is the model's record
    from the moment on that they get their places: whoever finds it finishes that.
    """

    model_id: str
    request: ModelDownload
    status: DownloadStatus
    started_at: str
    error: str | None = None
    total_bytes: int | None = None
    commit: str | None = None
    finished: tuple[ModelFile, ...] = ()
    publishing: ModelRecord | None = None

    @property
    def hidden(self) -> bool:
        return HIDDEN in self.request.model


@dataclass(frozen=True, slots=True)
class DownloadFolder:
    """The folder of a model that is being downloaded."""

    path: Path

    @property
    def stage(self) -> Path:
        return self.path / STAGE

    def save(self, state: Unfinished) -> None:
        write_atomic(self.path / STATE, codec.encode_pretty(state), 0o600)

    def load(self) -> Unfinished | None:
        """None when there is none, or it cannot be read: then what is left is taken up by its notes alone."""
        try:
            return codec.decode(Unfinished, (self.path / STATE).read_bytes())
        except (OSError, codec.CodecError):
            return None

    def part(self, name: str) -> Path:
        return self.path / f"{name}.part"

    def kept(self) -> int:
        """Bytes that need not be fetched again."""
        staged = [p.stat().st_size for p in self._in(self.stage) if p.is_file() and not p.name.endswith(".part")]
        return sum(staged) + sum(kept(p) for p in self._in(self.path) if p.name.endswith(".part"))

    def total(self) -> int | None:
        """Bytes of the file that is being fetched, as its server said; None when there are several, or none."""
        parts = [p for p in self._in(self.path) if p.name.endswith(".part")]
        return said_size(parts[0]) if len(parts) == 1 else None

    def discard(self) -> None:
        """Throw away what was fetched, not the model that was there before. The state goes last."""
        shutil.rmtree(self.stage, ignore_errors=True)
        for path in self._in(self.path):
            unfinished = path.name.endswith(".part") or ".part.json" in path.name
            if unfinished or path.name.startswith(f".{STATE}."):
                path.unlink(missing_ok=True)
        (self.path / STATE).unlink(missing_ok=True)

    def publish(self, record: ModelRecord, put: Callable[[ModelRecord], None]) -> None:
        """Give the staged files their own names and the model its record. May be done again after it was cut short."""
        names = [f.name for f in record.files] or [Path(record.path).name]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                _sync(self.stage / name)
                (self.stage / name).replace(self.path / name)
        put(record)
        self.sweep(names)

    def sweep(self, names: Iterable[str]) -> None:
        """What an earlier file of this model, or an unfinished other one, has left. The state goes last."""
        mine = {METADATA, STATE, *names}
        for other in self._in(self.path):
            if other.name not in mine and other.is_dir() and not other.is_symlink():
                if other.name == STAGE:
                    shutil.rmtree(other, ignore_errors=True)
            elif other.name not in mine and not other.name.startswith(f".{METADATA}."):
                other.unlink(missing_ok=True)
        (self.path / STATE).unlink(missing_ok=True)

    @staticmethod
    def _in(folder: Path) -> list[Path]:
        try:
            return list(folder.iterdir())
        except OSError:
            return []


def _sync(path: Path) -> None:
    """On the disk for good: a model that is told as available is so after a power cut too."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def find_unfinished(root: Path) -> list[tuple[DownloadFolder, Unfinished]]:
    """All of them under the models' folder."""
    found = [DownloadFolder(p.parent) for p in root.glob(f"[!.]*/{STATE}")]
    return [(folder, state) for folder in found if (state := folder.load()) is not None]
