# SPDX-License-Identifier: GPL-3.0-or-later
"""The models of a hive."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rbee.adapters.catalog.filesystem import FilesystemCatalog
from rbee.adapters.catalog.folders import shown
from rbee.adapters.catalog.listing import Listing
from rbee.core.records import DownloadProgress, ModelRecord
from rbee.core.slug import slug


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """What a model's metadata.json says."""

    artifact: ModelRecord
    added_at: str = ""
    last_accessed: str = ""


class ModelCatalog:
    """Models by id. Blocks on the disk; safe to call from several threads and processes."""

    def __init__(self, root: Path) -> None:
        self._files = FilesystemCatalog(root, ModelEntry, _broken, _checked)
        self._listing = Listing(b'{"models":[', b"]}")

    def folder(self, model_id: str) -> Path:
        return self._files.folder(model_id)

    def list(self) -> list[ModelRecord]:
        """Every model; one whose file is gone or has another size is `failed` and says so.

        A file that is cut short in place, its folder untouched, may be found some lists later in a big catalog
        (`get` finds it at once).
        """
        return [entry.artifact for entry in self._files.entries()]

    def listed(self, downloads: Mapping[str, DownloadProgress]) -> tuple[Sequence[ModelRecord], bytes]:
        """`list`, with how far the downloads of models are, by their ids; and the JSON `{"models":[...]}` of it."""
        found = [
            replace(record, download_progress=downloads[record.id]) if record.id in downloads else record
            for record in self.list()
        ]
        return found, self._listing.text(found)

    def get(self, model_id: str) -> ModelRecord | None:
        entry = self._files.get(model_id)
        return None if entry is None or entry.artifact.id != model_id else entry.artifact

    def holder(self, model_id: str) -> str | None:
        """Whose id the folder of an id is of, as its metadata.json has it: another's where two ids have one folder
        (an id that is the folder's name of another, or differs by capitals only, on a disk that tells none apart).
        None when it is of nobody, or cannot be read."""
        entry = self._files.get(model_id, raw=True)
        return None if entry is None or entry.artifact.path == str(self.folder(model_id)) else entry.artifact.id

    def put(self, record: ModelRecord, now: str) -> None:
        """Add or replace a model; keeps when it was first added and last used."""

        def made(known: ModelEntry | None) -> ModelEntry:
            added = record.added_at or (known.added_at if known else "") or now
            used = (known.last_accessed if known else "") or record.last_accessed or now
            told = replace(record, added_at=added, updated_at=now, last_accessed=used, download_progress=None)
            return ModelEntry(artifact=told, added_at=added, last_accessed=used)

        self._files.change(record.id, made)

    def written(self, model_id: str) -> ModelRecord | None:
        """The record as its metadata.json has it, whatever has become of the files since; None of one that cannot
        be read."""
        entry = self._files.get(model_id, raw=True)
        return None if entry is None or entry.artifact.id != model_id else entry.artifact

    def change(self, before: ModelRecord, after: ModelRecord, now: str) -> bool:
        """Replace a record as it was `written`; False when it is another one by now, or gone."""

        def made(known: ModelEntry | None) -> ModelEntry | None:
            if known is None or known.artifact != before:
                return None
            return replace(known, artifact=replace(after, updated_at=now))

        return self._files.change(before.id, made, raw=True)

    def touch(self, model_id: str, now: str) -> None:
        """Note that the model was used; of one that is not there, nothing."""

        def made(known: ModelEntry | None) -> ModelEntry | None:
            if known is None or known.artifact.id != model_id:
                return None
            return replace(known, artifact=replace(known.artifact, last_accessed=now), last_accessed=now)

        self._files.change(model_id, made, raw=True)

    def remove(self, model_id: str) -> bool:
        """Remove a model and its files; whether it was there."""
        return self._files.remove(model_id)

    def sweep(self) -> None:
        """At start: finish removals that were cut short."""
        self._files.sweep()


def _broken(folder: Path, reason: str) -> ModelEntry:
    name = folder.name
    return ModelEntry(
        artifact=ModelRecord(id=name, name=name, path=str(folder), size_bytes=0, status="failed", error=reason)
    )


def _checked(folder: str, entry: ModelEntry) -> tuple[ModelEntry, bool]:
    record = entry.artifact
    if slug(record.id) != folder.rpartition("/")[2]:
        reason = f"Its metadata.json is of the model {record.id!r}, whose folder is {slug(record.id)}."
        return _broken(Path(shown(folder)), reason), True
    # A metadata.json of an older release, or of somebody else's hand, has them only beside the record.
    added, used = record.added_at or entry.added_at, record.last_accessed or entry.last_accessed
    if (added, used, None) != (record.added_at, record.last_accessed, record.download_progress):
        record = replace(record, added_at=added, last_accessed=used, download_progress=None)
    lasting = True
    if record.status == "available":
        for path, size in _files(record):
            reason, here = _wrong(path, size, folder)
            lasting = lasting and here
            if reason:
                record = replace(record, status="failed", error=reason)
                break
    return entry if record is entry.artifact else replace(entry, artifact=record), lasting


def _files(record: ModelRecord) -> Iterator[tuple[str, int]]:
    """Path and size of each of the model's files."""
    if not record.files:
        yield record.path, record.size_bytes
        return
    inside = record.path if record.format == "mlc" else os.path.dirname(record.path)
    for file in record.files:
        yield f"{inside}/{file.name}", file.size_bytes


def _wrong(path: str, size: int, folder: str) -> tuple[str, bool]:
    """What is wrong with a file, or ''; and whether the folder's times tell when it goes."""
    here = os.path.dirname(path) == folder
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            here, found = False, os.stat(path)
    except OSError as e:
        return f"The model's file cannot be found: {e.strerror}: {path}.", here
    except ValueError as e:  # a NUL in it
        return f"The model's path is none: {e}.", here
    if not stat.S_ISREG(found.st_mode):
        return f"The model's file is not a file: {path}.", here
    if found.st_size != size:
        return f"The model's file has {found.st_size} bytes, not {size}: {path}. Download it again.", here
    return "", here
