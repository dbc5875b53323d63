# SPDX-License-Identifier: GPL-3.0-or-later
"""The engines installed on a machine: put there by `rbee apply`, only read by its hive."""

from __future__ import annotations

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


class WorkerBinaryCatalog:
    """Installed engines. Blocks on the disk; safe to call from several threads."""

    def __init__(self, root: Path) -> None:
        self._files = FilesystemCatalog(root, BinaryEntry, _broken)

    def entries(self) -> list[BinaryEntry]:
        """Every engine; one whose interpreter is gone is `failed` and says so."""
        return [_checked(entry) for entry in self._files.entries()]

    def list(self) -> list[WorkerBinary]:
        return [entry.artifact for entry in self.entries()]


def _checked(entry: BinaryEntry) -> BinaryEntry:
    python = entry.artifact.python
    if entry.artifact.status != "available" or not python or Path(python).exists():
        return entry
    reason = f"Its Python is gone: {python}. Run `rbee apply` to install it again."
    return replace(entry, artifact=replace(entry.artifact, status="failed", error=reason))
