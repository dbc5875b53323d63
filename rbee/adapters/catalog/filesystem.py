# SPDX-License-Identifier: GPL-3.0-or-later
"""One folder for each artifact, with a `metadata.json`: the folder is the truth, there is no index to go wrong."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from rbee.adapters.paths import write_atomic
from rbee.contracts import codec
from rbee.core.slug import slug

E = TypeVar("E")
METADATA = "metadata.json"


class FilesystemCatalog(Generic[E]):
    """Entries of type `E`, one in each folder of `root`.

    Survives any crash: metadata is written whole or not at all, a folder leaves by one rename. What cannot be read
    becomes an entry made by `broken(folder, reason)`, so that one bad file never hides the others. Folders without
    metadata are no entries (a first download that has not ended). Safe to call from several threads.
    """

    def __init__(self, root: Path, kind: type[E], broken: Callable[[Path, str], E]) -> None:
        self.root = root
        self._kind = kind
        self._broken = broken
        #: Entries as last read, by folder name, with the stamp of the file they were read from.
        self._seen: dict[str, tuple[tuple[int, int, int], E]] = {}

    def folder(self, artifact_id: str) -> Path:
        """The folder of an id, made or not; always directly under the root."""
        return self.root / slug(artifact_id)

    def entries(self) -> list[E]:
        """All entries, in the order of their folder names."""
        try:
            with os.scandir(self.root) as found:
                names = sorted(e.name for e in found if not e.name.startswith(".") and e.is_dir())
        except FileNotFoundError:
            names = []
        for gone in set(self._seen) - set(names):
            self._seen.pop(gone, None)
        return [entry for name in names if (entry := self._read(name)) is not None]

    def get(self, artifact_id: str) -> E | None:
        """The entry of an id; None when there is none."""
        return self._read(slug(artifact_id))

    def put(self, artifact_id: str, entry: E) -> None:
        """Add or replace an entry. Raises OSError (disk full, no permission); then nothing changed."""
        write_atomic(self.folder(artifact_id) / METADATA, codec.encode_pretty(entry))

    def remove(self, artifact_id: str) -> bool:
        """Remove an entry and its files; whether it was there. A link is unlinked, what it points to stays."""
        folder = self.folder(artifact_id)
        self._seen.pop(folder.name, None)
        if folder.is_symlink():
            folder.unlink()
            return True
        leaving = self.root / f".removed-{secrets.token_hex(4)}"
        try:
            folder.rename(leaving)
        except FileNotFoundError:
            return False
        shutil.rmtree(leaving, ignore_errors=True)
        return True

    def sweep(self) -> None:
        """Remove what removals that were cut short have left behind."""
        for left in self.root.glob(".removed-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _read(self, name: str) -> E | None:
        # Plain strings: a catalog may have ten thousand entries, and `Path` costs more than the system call.
        file = f"{self.root}/{name}/{METADATA}"
        try:
            stat = os.stat(file)  # noqa: PTH116
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            known = self._seen.get(name)
            if known is not None and known[0] == stamp:
                return known[1]
            entry = codec.decode(self._kind, Path(file).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, codec.CodecError) as e:
            return self._broken(self.root / name, f"{METADATA} cannot be read: {e}")
        self._seen[name] = (stamp, entry)
        return entry
