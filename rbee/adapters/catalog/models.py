# SPDX-License-Identifier: GPL-3.0-or-later
"""The models of a hive."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from rbee.adapters.catalog.filesystem import FilesystemCatalog
from rbee.core.records import ModelRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """What a model's metadata.json says."""

    artifact: ModelRecord
    added_at: str = ""
    last_accessed: str = ""


def _broken(folder: Path, reason: str) -> ModelEntry:
    return ModelEntry(
        artifact=ModelRecord(
            id=folder.name, name=folder.name, path=str(folder), size_bytes=0, status="failed", error=reason
        )
    )


class ModelCatalog:
    """Models by id. Blocks on the disk; safe to call from several threads."""

    def __init__(self, root: Path) -> None:
        self._files = FilesystemCatalog(root, ModelEntry, _broken)

    def folder(self, model_id: str) -> Path:
        return self._files.folder(model_id)

    def list(self) -> list[ModelRecord]:
        """Every model; one whose file is gone or has another size is `failed` and says so."""
        return [_checked(entry.artifact) for entry in self._files.entries()]

    def get(self, model_id: str) -> ModelRecord | None:
        entry = self._files.get(model_id)
        return None if entry is None else _checked(entry.artifact)

    def put(self, record: ModelRecord, now: str) -> None:
        """Add or replace a model; keeps when it was first added."""
        known = self._files.get(record.id)
        added = record.added_at or (known.added_at if known else "") or now
        self._files.put(
            record.id, ModelEntry(artifact=replace(record, added_at=added), added_at=added, last_accessed=now)
        )

    def touch(self, model_id: str, now: str) -> None:
        """Note that the model was used."""
        entry = self._files.get(model_id)
        if entry is not None and entry.artifact.id == model_id:
            self._files.put(model_id, replace(entry, last_accessed=now))

    def remove(self, model_id: str) -> bool:
        """Remove a model and its files; whether it was there."""
        return self._files.remove(model_id)

    def sweep(self) -> None:
        """At start: finish removals that were cut short."""
        self._files.sweep()


def _checked(record: ModelRecord) -> ModelRecord:
    if record.status != "available":
        return record
    try:
        size = os.stat(record.path).st_size  # noqa: PTH116 - as in FilesystemCatalog
    except OSError as e:
        return replace(record, status="failed", error=f"The model's file cannot be found: {e.strerror}: {record.path}.")
    except ValueError as e:  # a NUL in it
        return replace(record, status="failed", error=f"The model's path is none: {e}.")
    if size != record.size_bytes:
        return replace(
            record,
            status="failed",
            error=f"The model's file has {size} bytes, not {record.size_bytes}: {record.path}. Download it again.",
        )
    return record
