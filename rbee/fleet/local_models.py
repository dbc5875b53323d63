# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of this machine (`file:`): the files that they are made of."""

from __future__ import annotations

from pathlib import Path

from rbee.core.model_files import mlc_files, shards


def parts(path: Path) -> tuple[Path, ...]:
    """All files of a model, in the order that a hive's source gives them: every part of a split GGUF, all of an MLC
    folder. Raises NotFound for a folder that is none, OSError."""
    if path.is_dir():
        names = [p.name for p in path.iterdir() if p.is_file()]
        return tuple(path / name for name in mlc_files(names, f"The folder {path}"))
    return tuple(path.parent / name for name in shards(path.name))
