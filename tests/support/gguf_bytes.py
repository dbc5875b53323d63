# SPDX-License-Identifier: GPL-3.0-or-later
"""GGUF headers written byte by byte, true or hostile, for tests that need no weights."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def field(key: str | bytes, kind: int, value: bytes) -> bytes:
    """One field whose value is given as it stands in the file."""
    return text(key) + struct.pack("<I", kind) + value


def fields(values: Mapping[str, Any]) -> list[bytes]:
    """Texts, whole numbers (u32), and lists of either."""
    return [_field(key, value) for key, value in values.items()]


def _field(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return field(key, 8, text(value))
    if isinstance(value, int):
        return field(key, 4, struct.pack("<I", value))
    head = struct.pack("<IQ", 8 if value and isinstance(value[0], str) else 4, len(value))
    return field(key, 9, head + b"".join(text(v) if isinstance(v, str) else struct.pack("<I", v) for v in value))


def tensor(name: str, shape: Iterable[int], kind: int, offset: int) -> bytes:
    dims = tuple(shape)
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def header(parts: Iterable[bytes], tensors: Iterable[bytes] = (), *, version: int = 3, order: str = "<") -> bytes:
    said, held = list(parts), list(tensors)
    return b"GGUF" + struct.pack(f"{order}IQQ", version, len(held), len(said)) + b"".join(said) + b"".join(held)


def write_parts(folder: Path, count: int = 3, *, name: str = "big", tensors: int | None = None) -> list[Path]:
    """A model split into parts as llama.cpp splits one: all fields and no tensors in the first, one tensor of
    32x4 16-bit floats in each other."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for no in range(count):
        said: dict[str, Any] = {"split.no": no, "split.count": count, "split.tensors.count": tensors or count - 1}
        if no == 0:
            said = {"general.architecture": "llama", "llama.block_count": 7, **said}
        held = [tensor(f"blk.{no}.weight", (32, 4), 1, 0)] if no else []
        data = header(fields(said), held)
        data += b"\0" * (-len(data) % 32) + b"\1" * (256 if no else 0)
        path = folder / f"{name}-{no + 1:05d}-of-{count:05d}.gguf"
        path.write_bytes(data)
        made.append(path)
    return made
