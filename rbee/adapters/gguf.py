# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the headers of a GGUF model, in one file or in several: what it is, without its weights.

A file from the network may be hostile: nothing is allocated by a number in it that has not been checked against the
bytes that are really there, and every count has a bound. The first megabytes of a big file are enough.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rbee.adapters.gguf_header import GgufHeader, parse_header, parse_template
from rbee.adapters.gguf_reader import BadGguf

__all__ = ["BadGguf", "GgufHeader", "chat_template", "check_whole", "parse_header", "parts", "read_header"]

#: How the parts of a split model are called: llama.cpp finds the others by it.
_PART = re.compile(r"(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})(?P<end>\.gguf)", re.DOTALL | re.IGNORECASE)


def read_header(path: Path) -> GgufHeader:
    """The header of the file at `path` alone. Blocks; reads the header only. Raises BadGguf, OSError."""
    _regular(path)
    with path.open("rb") as file:
        return parse_header(file, str(path))


def chat_template(path: Path) -> str | None:
    """The text of the model's chat template; None when it has none, or one of more than a megabyte. As read_header."""
    _regular(path)
    with path.open("rb") as file:
        return parse_template(file, str(path))


def check_whole(path: Path) -> GgufHeader:
    """The header of the model that the file at `path` is, or is the first part of.

    Sizes, tensors and parameters are of all parts. Blocks. Raises OSError, and BadGguf when a part is missing, of
    another model, or shorter than its header says.
    """
    first = _whole_file(path)
    if first.split_count <= 1:
        return first
    found = parts(path)
    if first.split_no != 0 or found[0] != path:
        raise BadGguf(
            f"{path} is part {first.split_no + 1} of {first.split_count} of a model.", mend="Name its first part."
        )
    if len(found) != first.split_count:
        said = f"its name says {len(found)}" if len(found) > 1 else "its name does not say so (-00001-of-0000N.gguf)"
        raise BadGguf(f"{path} is one of {first.split_count} parts of a model, but {said}.", mend="Download it again.")
    return _together(first, [_part(found[no], no, first) for no in range(1, len(found))])


def parts(path: Path) -> list[Path]:
    """The files of the model that `path` is a part of, in order and by their names alone: `path` when it is whole."""
    named = _PART.fullmatch(path.name)
    count = int(named["count"]) if named else 0
    if named is None or count < 1:
        return [path]
    return [path.with_name(f"{named['stem']}-{no:05d}-of-{count:05d}{named['end']}") for no in range(1, count + 1)]


def _part(path: Path, no: int, first: GgufHeader) -> GgufHeader:
    try:
        part = _whole_file(path)
    except FileNotFoundError:
        raise BadGguf(f"A part of the model is missing: {path}.", mend="Download it again.") from None
    if (part.split_no, part.split_count) != (no, first.split_count):
        raise BadGguf(
            f"{path} is not part {no + 1} of {first.split_count}: it says that it is part {part.split_no + 1} of "
            f"{part.split_count}.",
            mend="Download it again.",
        )
    return part


def _together(first: GgufHeader, others: Sequence[GgufHeader]) -> GgufHeader:
    every = (first, *others)
    tensors = sum(p.tensors for p in every)
    if first.split_tensors and tensors != first.split_tensors:
        raise BadGguf(
            f"The model's parts have {tensors} tensors together, its first part says {first.split_tensors}.",
            mend="Download it again.",
        )
    kinds = [p.quantization for p in others if p.quantization]
    return replace(
        first,
        tensors=tensors,
        parameters=sum(p.parameters for p in every),
        file_bytes=sum(p.file_bytes for p in every),
        classifier=any(p.classifier for p in every),
        # A first part may hold no tensors at all, and then knows no type of them.
        quantization=first.quantization or (max(set(kinds), key=kinds.count) if kinds else None),
        shape=replace(first.shape, tensor_bytes=sum(p.shape.tensor_bytes for p in every)),
    )


def _whole_file(path: Path) -> GgufHeader:
    header = read_header(path)
    size = path.stat().st_size
    if size < header.file_bytes:
        raise BadGguf(
            f"{path} is cut short: {size:,} of {header.file_bytes:,} bytes are there.", mend="Download it again."
        )
    return header


def _regular(path: Path) -> None:
    """Whoever opens a pipe waits for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise BadGguf(f"{path} is not a file.")
