# SPDX-License-Identifier: GPL-3.0-or-later
"""The folders of a catalog, whatever their names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """Their names, in order, as the system calls take them (they may hold bytes that are no UTF-8); which of them
    are links, that may lead nowhere."""

    names: tuple[str, ...] = ()
    links: frozenset[str] = frozenset()


def scan(root: Path) -> Folders:
    """The folders of `root` and its links; hidden ones are no entries. Raises OSError when it cannot be read."""
    names: list[str] = []
    links: set[str] = set()
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name)
                elif entry.is_symlink():
                    names.append(entry.name)
                    links.add(entry.name)
    except FileNotFoundError:
        return Folders()
    names.sort()
    return Folders(tuple(n for n in names if n[0] != "."), frozenset(links))


def shown(name: str) -> str:
    r"""A folder's name as it can be told in JSON: bytes that are no UTF-8 as `\xff`."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")
