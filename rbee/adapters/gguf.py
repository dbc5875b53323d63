# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the header of a GGUF file (versions 2 and 3): what the model is, without its weights.

A file from the network may be hostile: nothing is allocated by a number in it that has not been checked against the
bytes that are really there, and every count has a bound.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from rbee.core.errors import RbeeError
from rbee.core.memory import ModelShape

#: More than any real header (a vocabulary of 256,000 with its merges is about 15 MB).
MAX_HEADER: Final = 64 * 2**20
MAX_TENSORS: Final = 65_536
MAX_FIELDS: Final = 65_536
MAX_ARRAY: Final = 4_000_000
_KEPT_STRING: Final = 2**20

_SCALARS: Final[Mapping[int, str]] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

#: ggml's tensor types: name, values in a block, bytes of a block.
_TENSOR_TYPES: Final[Mapping[int, tuple[int, int]]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip

#: `general.file_type`, as llama.cpp names it.
_FILE_TYPES: Final[Mapping[int, str]] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip


class BadGguf(RbeeError):
    """The file is no GGUF, of a version nobody reads, cut short, or says things that cannot be."""

    code = "invalid_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """`file_bytes` is how long the whole file must be: a shorter one is cut short. Unknown numbers are 0."""

    version: int
    name: str
    architecture: str
    quantization: str | None
    context_length: int
    chat_template: bool
    shape: ModelShape
    tensors: int
    file_bytes: int


def read_header(path: Path) -> GgufHeader:
    """The header of the file at `path`. Blocks; reads the header only. Raises BadGguf, OSError."""
    with path.open("rb") as file:
        return parse_header(file, str(path))


def check_whole(path: Path) -> GgufHeader:
    """`read_header`, and that the file is not shorter than its header says. Raises BadGguf, OSError."""
    header = read_header(path)
    size = path.stat().st_size
    if size < header.file_bytes:
        raise BadGguf(
            f"{path} is cut short: {size:,} of {header.file_bytes:,} bytes are there.", mend="Download it again."
        )
    return header


def parse_header(file: BinaryIO, name: str) -> GgufHeader:
    """The header that `file` begins with; `name` is for messages. Raises BadGguf."""
    read = _Reader(file, name)
    magic = read.take(4)
    if magic != b"GGUF":
        raise BadGguf(f"{name} is no GGUF file: it begins with {magic!r}.")
    version = read.number("I")
    if version not in (2, 3):
        raise BadGguf(f"{name} is GGUF of version {version}; versions 2 and 3 are known.")
    tensors = read.count("Q", MAX_TENSORS, "tensors")
    fields: dict[str, Any] = {}
    for _ in range(read.count("Q", MAX_FIELDS, "fields")):
        key = read.text()
        fields[key] = read.value(read.number("I"))
    alignment = _whole(fields, "general.alignment") or 32
    if alignment > 2**20 or alignment & (alignment - 1):
        raise BadGguf(f"{name}: an alignment of {alignment} cannot be.")
    weights, end = _tensors(read, tensors)
    start = -(-read.position // alignment) * alignment
    file_type = fields.get("general.file_type")
    return GgufHeader(
        version=version,
        name=_words(fields, "general.name"),
        architecture=_words(fields, "general.architecture"),
        quantization=_FILE_TYPES.get(file_type) if isinstance(file_type, int) else None,
        context_length=_whole(fields, f"{_words(fields, 'general.architecture')}.context_length"),
        chat_template=bool(fields.get("tokenizer.chat_template")),
        shape=_shape(fields, weights),
        tensors=tensors,
        file_bytes=start + end,
    )


def _shape(fields: Mapping[str, Any], weights: int) -> ModelShape:
    arch = _words(fields, "general.architecture")
    embedding, heads = _whole(fields, f"{arch}.embedding_length"), _whole(fields, f"{arch}.attention.head_count")
    head = embedding // heads if heads else 0
    vocabulary = _whole(fields, f"{arch}.vocab_size") or _whole(fields, "tokenizer.ggml.tokens")
    return ModelShape(
        tensor_bytes=weights,
        layers=_whole(fields, f"{arch}.block_count"),
        embedding=embedding,
        feed_forward=_whole(fields, f"{arch}.feed_forward_length"),
        heads=heads,
        kv_heads=_whole(fields, f"{arch}.attention.head_count_kv") or heads,
        key_length=_whole(fields, f"{arch}.attention.key_length") or head,
        value_length=_whole(fields, f"{arch}.attention.value_length") or head,
        vocabulary=vocabulary,
        context_length=_whole(fields, f"{arch}.context_length"),
    )


def _tensors(read: _Reader, count: int) -> tuple[int, int]:
    """Bytes of all weights, and where the last of them ends after the header."""
    total = end = 0
    for _ in range(count):
        name = read.text()
        dimensions = read.count("I", 8, f"dimensions of {name}")
        values = math.prod(read.number("Q") for _ in range(dimensions))
        kind, offset = read.number("I"), read.number("Q")
        block, size = _TENSOR_TYPES.get(kind, (1, 1))  # a type newer than this table: at least one byte a value
        length = -(-values // block) * size
        if length + offset > 2**50:
            raise BadGguf(f"{read.name}: tensor {name!r} cannot be {length:,} bytes long.")
        total += length
        end = max(end, offset + length)
    return total, end


def _whole(fields: Mapping[str, Any], key: str) -> int:
    """A count; of an array (one number for each layer, or the words themselves) its largest, or its length."""
    value = fields.get(key)
    if isinstance(value, _Array):
        return value.largest
    return value if isinstance(value, int) and 0 <= value < 2**48 else 0


def _words(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class _Array:
    """An array that was read past: only its largest whole number is kept, or its length when it holds none."""

    largest: int


class _Reader:
    """Numbers and texts of the file, in order, never past `MAX_HEADER`."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.name = name
        self.position = 0

    def take(self, size: int) -> bytes:
        if self.position + size > MAX_HEADER:
            raise BadGguf(f"{self.name}: the header is longer than {MAX_HEADER:,} bytes.")
        data = self._file.read(size)
        if len(data) < size:
            raise BadGguf(f"{self.name} is cut short inside its header.", mend="Download it again.")
        self.position += size
        return data

    def number(self, code: str) -> int:
        form = "<" + code
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def count(self, code: str, limit: int, what: str) -> int:
        found = self.number(code)
        if found > limit:
            raise BadGguf(f"{self.name} is hurt: it claims {found:,} {what}.")
        return found

    def text(self) -> str:
        return self.take(self.count("Q", _KEPT_STRING, "characters of text")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array()
        code = _SCALARS.get(kind)
        if code is None:
            raise BadGguf(f"{self.name} is hurt: there is no field of type {kind}.")
        form = "<" + code
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def _array(self) -> _Array:
        kind, length = self.number("I"), self.count("Q", MAX_ARRAY, "items")
        if kind == _STRING:
            for _ in range(length):
                self.take(self.count("Q", _KEPT_STRING, "characters of text"))
            return _Array(length)
        code = _SCALARS.get(kind)
        if code is None:
            raise BadGguf(f"{self.name} is hurt: there is no array of type {kind}.")
        size = struct.calcsize("<" + code)
        data = self.take(length * size)
        if code in "fd?" or length > 4096:
            return _Array(length)
        return _Array(max((n for (n,) in struct.iter_unpack("<" + code, data)), default=0))
