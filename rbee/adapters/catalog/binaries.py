# SPDX-License-Identifier: GPL-3.0-or-later
"""The engines installed on a machine: put there by `rbee apply`, only read by its hive."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

from rbee.adapters.catalog.filesystem import FilesystemCatalog
from rbee.core.providers import EngineProvider
from rbee.core.records import WorkerBinary


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryEntry:
    """What a worker binary's metadata.json says; `provider` is None only when that file cannot be read."""

    artifact: WorkerBinary
    provider: EngineProvider | None = None
    added_at: str = ""
    last_accessed: str = ""

    def runs(self, worker_type: str, model_format: str) -> bool:
        """Whether it can serve models of that format on devices of that type."""
        if self.provider is None or self.artifact.status != "available" or model_format not in self.provider.formats:
            return False
        return worker_type == self.artifact.worker_type or (
            worker_type == "cpu" and "cpu" in self.provider.worker_types
        )


def _broken(folder: Path, reason: str) -> BinaryEntry:
    return BinaryEntry(
        artifact=WorkerBinary(
            id=folder.name,
            engine="",
            version="",
            worker_type="",
            platform="",
            path=str(folder),
            status="failed",
            error=reason,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a refresh found; `added` and `removed` are ids."""

    found: tuple[WorkerBinary, ...]
    added: frozenset[str]
    removed: tuple[str, ...]


class WorkerBinaryCatalog:
    """Installed engines. Blocks on the disk; safe to call from several threads."""

    def __init__(self, root: Path) -> None:
        self._files = FilesystemCatalog(root, BinaryEntry, _broken)
        #: Ids of the last refresh.
        self._known: frozenset[str] = frozenset()
        self._refreshing = threading.Lock()

    def refresh(self) -> Scan:
        """Look at the disk, and compare with the refresh before this one; the first has nothing before it.

        Everything else here reads the disk each time as well: an engine is there for a spawn as soon as it is
        installed, refreshed or not.
        """
        with self._refreshing:
            found = tuple(self.list())
            ids = frozenset(binary.id for binary in found)
            scan = Scan(found=found, added=ids - self._known, removed=tuple(sorted(self._known - ids)))
            self._known = ids
        return scan

    def entries(self) -> list[BinaryEntry]:
        """Every engine; one whose interpreter is gone is `failed` and says so."""
        return [_checked(entry) for entry in self._files.entries()]

    def list(self) -> list[WorkerBinary]:
        return [_described(entry) for entry in self.entries()]


def _described(entry: BinaryEntry) -> WorkerBinary:
    """With what its provider says, and when it came."""
    formats = entry.provider.formats if entry.provider is not None else ()
    added_at = entry.artifact.added_at or entry.added_at
    return replace(entry.artifact, formats=entry.artifact.formats or formats, added_at=added_at)


def _checked(entry: BinaryEntry) -> BinaryEntry:
    python = entry.artifact.python
    if entry.artifact.status != "available" or not python or Path(python).exists():
        return entry
    reason = f"Its Python is gone: {python}. Run `rbee apply` to install it again."
    return replace(entry, artifact=replace(entry.artifact, status="failed", error=reason))
