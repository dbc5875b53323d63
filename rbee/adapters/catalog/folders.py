# SPDX-License-Identifier: GPL-3.0-or-later
"""The folders of a catalog, whatever their names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Folder(NamedTuple):
    """`name` may hold bytes that are no UTF-8, as the system calls take them."""

    name: str
    is_link: bool


def scan(root: Path) -> list[Folder]:
    """The folders of `root`, links too (also such as lead nowhere), by name; hidden ones are no entries."""
    found: list[Folder] = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name[0] == ".":
                    continue
                if entry.is_symlink():
                    found.append(Folder(entry.name, True))
                elif entry.is_dir(follow_symlinks=False):
                    found.append(Folder(entry.name, False))
    except FileNotFoundError:
        return []
    found.sort()
    return found


def shown(name: str) -> str:
    r"""A folder's name as it can be told in JSON: bytes that are no UTF-8 as `\xff`."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")
