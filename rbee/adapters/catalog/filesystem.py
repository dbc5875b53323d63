# SPDX-License-Identifier: GPL-3.0-or-later
"""One folder for each artifact, with a `metadata.json`: the folder is the truth, there is no index to go wrong."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from rbee.adapters.catalog.folders import scan, shown
from rbee.adapters.catalog.reading import METADATA, Reading
from rbee.adapters.paths import write_atomic
from rbee.contracts import codec
from rbee.core.slug import slug

E = TypeVar("E")
_LEAVING = ".removed-"


class FilesystemCatalog(Generic[E]):
    """Entries of type `E`, one in each folder of `root`.

    Survives any crash: metadata is written whole or not at all, a folder leaves by one rename. What cannot be read
    becomes an entry made by `broken(folder, reason)`, so that one bad file never hides the others; such an entry is
    found and removed by its folder's name. Folders without metadata are no entries (a first download that
    has not ended). `checked` looks at what an entry tells of, see `Reading`.

    Safe to call from several threads and processes: writers take turns by a lock on the root, readers need none.
    """

    def __init__(
        self,
        root: Path,
        kind: type[E],
        broken: Callable[[Path, str], E],
        checked: Callable[[str, E], tuple[E, bool]] | None = None,
    ) -> None:
        self.root = root
        self._reading = Reading(root, kind, broken, checked)

    def folder(self, artifact_id: str) -> Path:
        """The folder of an id, made or not; always directly under the root."""
        return self.root / slug(artifact_id)

    def entries(self) -> list[E]:
        """All entries, in the order of their folder names. Raises OSError when the root cannot be read."""
        return self._reading.all()

    def get(self, artifact_id: str, *, raw: bool = False) -> E | None:
        """The entry of an id, looked at closely; None when there is none. `raw`: as it is written, not `checked`."""
        return self._reading.one(self._found(artifact_id), raw=raw)

    def put(self, artifact_id: str, entry: E) -> None:
        """Add or replace an entry. Raises OSError (disk full, no permission); then nothing changed."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self._writing():
            self._write(artifact_id, entry)

    def change(self, artifact_id: str, how: Callable[[E | None], E | None], *, raw: bool = False) -> bool:
        """Replace an entry by what `how` makes of it, with no other writer between; False, and nothing is done, when
        that is None. `raw`: `how` gets it as it is written, not `checked`."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self._writing():
            made = how(self._reading.one(slug(artifact_id), raw=raw))
            if made is not None:
                self._write(artifact_id, made)
        return made is not None

    def _write(self, artifact_id: str, entry: E) -> None:
        write_atomic(self.folder(artifact_id) / METADATA, codec.encode_pretty(entry))

    def remove(self, artifact_id: str) -> bool:
        """Remove an entry and its files; whether it was there. A link is unlinked, what it points to stays.

        Raises OSError when it cannot be taken away; then it is as it was.
        """
        if not self.root.is_dir():
            return False
        with self._writing():
            folder = self.root / self._found(artifact_id)
            self._reading.forget(folder.name)
            if folder.is_symlink():
                folder.unlink()
                return True
            leaving = self.root / f"{_LEAVING}{secrets.token_hex(4)}"
            try:
                folder.rename(leaving)
            except FileNotFoundError:
                return False
        _clear(leaving)
        return True

    def sweep(self) -> None:
        """Remove what writes and removals that were cut short have left behind."""
        with contextlib.suppress(OSError), self._writing():
            for left in self.root.glob(f"{_LEAVING}*"):
                _clear(left)
            for left in self.root.glob(f"*/.{METADATA}.*"):
                left.unlink(missing_ok=True)

    def _found(self, artifact_id: str) -> str:
        """The name of its folder; of one that is not called as ids are, the name that it is told by."""
        name = slug(artifact_id)
        if name == artifact_id or os.path.lexists(self.root / name):
            return name
        return next((n for n in scan(self.root).names if shown(n) == artifact_id), name)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, of all threads and processes; a killed one holds nothing. Raises OSError where there
        is no root."""
        held = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A file system without locks: then only threads of one process that collide within microseconds lose.
            with contextlib.suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_EX)
            yield
        finally:
            os.close(held)


def _clear(folder: Path) -> None:
    """Remove a folder that has left. What cannot go, or is written to by somebody who still has it open, stays for
    the next sweep."""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
