# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of a catalog as they are on the disk now, each read again only when it may have changed.

A folder's times change when something in it is made, replaced or removed, so one look at each folder is enough to
know that its metadata and files are those of last time, and one at the root that the folders are. It is not enough
for what is written in place (a file cut short by hand): such things are found by looking closely at a part of the
folders on every listing, at all of them in a catalog of up to `_CLOSELY`, and at one asked for by its id.

Paths are plain strings in here: a catalog may have ten thousand entries, and `Path` costs more than the system call.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from rbee.adapters.catalog.folders import Folders, scan, shown
from rbee.contracts import codec

E = TypeVar("E")
METADATA: Final = "metadata.json"
#: More than any record has.
_MOST: Final = 16 * 2**20
#: So many folders, or a thirty-second of all, are looked at closely in one listing.
_CLOSELY: Final = 256
#: A folder that was changed less than this before it was read may change again without its times telling so.
_RECENT: Final = 2 * 10**9
_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Seen(Generic[E]):
    """`folder` is None when its times prove nothing; `raw` is what metadata.json says, `entry` that when checked."""

    folder: _Stamp | None
    file: _Stamp
    raw: E
    entry: E


class Reading(Generic[E]):
    """`checked(folder's path, entry)` gives the entry as it is to be told, and whether that holds until the folder
    changes.

    Safe to call from several threads.
    """

    def __init__(
        self,
        root: Path,
        kind: type[E],
        broken: Callable[[Path, str], E],
        checked: Callable[[str, E], tuple[E, bool]] | None,
    ) -> None:
        self._root = root
        self._kind = kind
        self._broken = broken
        self._checked = checked
        self._seen: dict[str, _Seen[E]] = {}
        self._turn = 0
        self._listed: tuple[_Stamp, Folders] | None = None

    def forget(self, name: str) -> None:
        self._seen.pop(name, None)

    def all(self) -> list[E]:
        """The entries of all folders, by their names. Raises OSError when the root cannot be read."""
        folders = self._folders()
        count = len(folders.names)
        window = max(_CLOSELY, count // 32)
        begin = self._turn % count if count > window else 0
        self._turn = begin + window
        found: list[E] = []
        seen, root, look = self._seen, f"{self._root}/", os.stat
        for number, name in enumerate(folders.names):
            known = seen.get(name)
            if known is not None and known.folder is not None and (number - begin) % count >= window:
                try:
                    same = _stamp(look(root + name)) == known.folder
                except OSError:
                    same = False
                if same:
                    found.append(known.entry)
                    continue
            entry = self.one(name, link=name in folders.links)
            if entry is not None:
                found.append(entry)
        return found

    def _folders(self) -> Folders:
        """As of last time when the root's own times say that none came or went."""
        now = time.time_ns()
        try:
            stamp = _stamp(os.stat(self._root))
        except FileNotFoundError:
            return Folders()
        if self._listed is not None and self._listed[0] == stamp:
            return self._listed[1]
        folders = scan(self._root)
        self._listed = (stamp, folders) if max(stamp[:2]) < now - _RECENT else None
        for gone in self._seen.keys() - set(folders.names):
            self.forget(gone)
        return folders

    def one(self, name: str, *, link: bool = True, raw: bool = False) -> E | None:
        """The entry in one folder, looked at closely; None when there is none. `link`: it may be one. `raw`: as its
        metadata.json has it."""
        folder = f"{self._root}/{name}"
        try:
            stamp = _stamp(os.stat(folder))
        except OSError as e:
            if not link or not os.path.islink(folder):
                return None
            return self._failed(name, f"It is a link that leads nowhere ({e.strerror}).")
        try:
            seen = self._read(name, folder, stamp)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as e:  # a codec's error is one of the latter
            return self._failed(name, f"{METADATA} cannot be read: {e}")
        self._seen[name] = seen
        return seen.raw if raw else seen.entry

    def _read(self, name: str, folder: str, stamp: _Stamp) -> _Seen[E]:
        file = f"{folder}/{METADATA}"
        now, found = time.time_ns(), os.stat(file)
        known = self._seen.get(name)
        if known is not None and known.file == _stamp(found):
            raw = known.raw
        elif not stat.S_ISREG(found.st_mode) or found.st_size > _MOST:
            raise ValueError(f"it is not a file of up to {_MOST:,} bytes")
        else:
            with open(file, "rb") as opened:
                raw = codec.decode(self._kind, opened.read())
        entry, lasting = (raw, False) if self._checked is None else self._checked(folder, raw)
        if known is not None and known.entry == entry:
            entry = known.entry
        old = max(stamp[:2]) < now - _RECENT
        return _Seen(stamp if lasting and old else None, _stamp(found), raw, entry)

    def _failed(self, name: str, reason: str) -> E:
        self.forget(name)
        return self._broken(Path(shown(str(self._root / name))), reason)


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
