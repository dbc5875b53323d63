# SPDX-License-Identifier: GPL-3.0-or-later
"""What the header of one GGUF file says (versions 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from rbee.adapters.gguf_reader import Array, BadGguf, Reader
from rbee.adapters.gguf_tables import FILE_TYPES, GUESSED, TENSOR_TYPES
from rbee.core.memory import ModelShape

MAX_TENSORS: Final = 65_536
MAX_FIELDS: Final = 65_536
_TEMPLATE: Final = "tokenizer.chat_template"
#: Texts are kept of fields that begin so; others are read past.
_KEPT: Final = ("general.", "tokenizer.ggml.", "split.", _TEMPLATE)
_LARGEST: Final = 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """`file_bytes` is how long the whole file must be: a shorter one is cut short. Unknown numbers are 0.

    `quantization` is what the file calls itself, else the type that most bytes of its tensors have. `parameters`
    counts the values of all tensors. `split_no` of `split_count` parts (from 0), when the model has several;
    `split_tensors` are those of all parts.
    """

    version: int
    name: str
    architecture: str
    quantization: str | None
    context_length: int
    chat_template: bool
    shape: ModelShape
    tensors: int
    file_bytes: int
    fields: int = 0
    parameters: int = 0
    tokenizer: str = ""
    split_no: int = 0
    split_count: int = 0
    split_tensors: int = 0
    #: How an embedding is made of its tokens' (llama.cpp's numbers: 1 mean, 2 first, 3 last, 4 a score); 0: not said.
    pooling: int = 0
    #: Whether it has a head that scores a text, as rerankers have.
    classifier: bool = False


@dataclass(frozen=True, slots=True)
class _Tensors:
    """All tensors of one file together; `end` is where the last of them ends, counted from the first one's start."""

    size: int
    end: int
    values: int
    kind: str | None
    classifier: bool


def parse_header(file: BinaryIO, name: str) -> GgufHeader:
    """The header that `file` begins with; `name` is for messages. Raises BadGguf."""
    read = Reader(file, name)
    version, count, fields = _begin(read)
    alignment = _whole(fields, "general.alignment") or 32
    if alignment > 2**20 or alignment & (alignment - 1):
        raise BadGguf(f"{name}: an alignment of {alignment} cannot be.")
    tensors = _tensors(read, count)
    start = -(-read.position // alignment) * alignment
    architecture = _words(fields, "general.architecture")
    return GgufHeader(
        version=version,
        name=_words(fields, "general.name"),
        architecture=architecture,
        quantization=_file_type(fields) or tensors.kind,
        context_length=_whole(fields, f"{architecture}.context_length"),
        chat_template=bool(fields.get(_TEMPLATE)),
        shape=_shape(fields, architecture, tensors.size),
        tensors=count,
        # Without tensors (the first part of a split model may have none) there is nothing to align.
        file_bytes=start + tensors.end if count else read.position,
        fields=len(fields),
        parameters=tensors.values,
        tokenizer="/".join(filter(None, (_words(fields, f"tokenizer.ggml.{k}") for k in ("model", "pre")))),
        split_no=_whole(fields, "split.no"),
        split_count=_whole(fields, "split.count"),
        split_tensors=_whole(fields, "split.tensors.count"),
        pooling=_whole(fields, f"{architecture}.pooling_type"),
        classifier=tensors.classifier,
    )


def parse_template(file: BinaryIO, name: str) -> str | None:
    """The chat template of the model that `file` begins with; None when it has none, or one of more than a megabyte.

    Raises BadGguf.
    """
    _, _, fields = _begin(Reader(file, name))
    return _words(fields, _TEMPLATE) or None


def _begin(read: Reader) -> tuple[int, int, dict[str, Any]]:
    """Version, how many tensors follow, and the fields."""
    magic = read.take(4)
    if magic != b"GGUF":
        if magic == b"FUGG":
            raise _big_endian(read)
        raise BadGguf(f"{read.name} is no GGUF file: it begins with {magic!r}.")
    version = read.number("I")
    if version & 0xFFFF == 0 and version:
        raise _big_endian(read)
    if version not in (2, 3):
        raise BadGguf(f"{read.name} is GGUF of version {version}; versions 2 and 3 are known.")
    tensors = read.count("Q", MAX_TENSORS, "tensors")
    fields: dict[str, Any] = {}
    for _ in range(read.count("Q", MAX_FIELDS, "fields")):
        key = read.key()
        fields[key] = read.value(read.number("I"), keep=key.startswith(_KEPT))
    return version, tensors, fields


def _big_endian(read: Reader) -> BadGguf:
    return BadGguf(
        f"{read.name} is a big-endian GGUF: it was made for another kind of processor (s390x).",
        mend="Take the ordinary file of this model, or convert it with gguf's convert_endian.",
    )


def _file_type(fields: Mapping[str, Any]) -> str | None:
    said = fields.get("general.file_type")
    return FILE_TYPES.get(said & ~GUESSED) if isinstance(said, int) else None


def _shape(fields: Mapping[str, Any], arch: str, weights: int) -> ModelShape:
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
        causal=fields.get(f"{arch}.attention.causal") is not False,
    )


def _tensors(read: Reader, count: int) -> _Tensors:
    total = end = values = 0
    kinds: dict[str, int] = {}
    classifier = False
    for _ in range(count):
        name = read.key()
        classifier = classifier or name.startswith("cls.")
        dimensions = read.count("I", 8, f"dimensions of {name}")
        elements = math.prod(read.number("Q") for _ in range(dimensions))
        kind, offset = read.number("I"), read.number("Q")
        # A type newer than this table: at least one byte a block of 256 values, so that no whole file is called short.
        known, block, size = TENSOR_TYPES.get(kind, ("", 256, 1))
        length = -(-elements // block) * size
        if max(elements, length + offset) > _LARGEST:
            raise BadGguf(f"{read.name}: tensor {name!r} cannot be {length:,} bytes long.")
        total += length
        values += elements
        end = max(end, offset + length)
        kinds[known] = kinds.get(known, 0) + length
    kind_of_most = max(kinds, key=lambda k: kinds[k], default="")
    return _Tensors(total, end, values, kind_of_most or None, classifier)


def _whole(fields: Mapping[str, Any], key: str) -> int:
    """A count; of an array (one number for each layer, or the words themselves) its largest, or its length."""
    value = fields.get(key)
    if isinstance(value, Array):
        return max(0, value.largest)
    return value if isinstance(value, int) and 0 <= value < 2**48 else 0


def _words(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
