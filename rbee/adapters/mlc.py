# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a model folder of MLC-LLM: what it is, and whether all of its shards are there.

`mlc-chat-config.json` says what the model is, `tensor-cache.json` (older: `ndarray-cache.json`) which files hold its
weights. Both come from the network: sizes are bounded, and a shard's name never leaves the folder.
"""

from __future__ import annotations

import math
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from rbee.contracts import codec
from rbee.core.errors import RbeeError
from rbee.core.memory import MLC_PREFILL_CHUNK, ModelShape

CONFIG: Final = "mlc-chat-config.json"
#: Newest name first.
CACHES: Final = ("tensor-cache.json", "ndarray-cache.json")
#: Of a model with 100,000 tensors it has about 20 MB.
_MOST: Final = 64 * 2**20
_LARGEST: Final = 2**48
_SCALES = ("_scale", "scales", "qzeros")
_WEIGHTS = ("q_weight", "qweight")
T = TypeVar("T")


class BadMlc(RbeeError):
    """The folder holds no MLC model, or not all of it."""

    code = "invalid_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A file of weights; `md5` in hex where its maker tells it."""

    name: str
    size: int
    md5: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MlcModel:
    """What the folder says. Unknown numbers are 0, unknown words ''. `files` are the names of those beside the
    shards that an engine reads."""

    architecture: str
    quantization: str
    conversation: str
    context_length: int
    prefill_chunk: int
    shape: ModelShape
    tensors: int
    parameters: int
    shards: tuple[Shard, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Config:
    model_type: str = ""
    quantization: str = ""
    model_config: dict[str, Any] = field(default_factory=dict)
    context_window_size: Any = None
    sliding_window_size: Any = None
    prefill_chunk_size: Any = None
    vocab_size: Any = None
    tokenizer_files: list[str] = field(default_factory=list)
    conv_template: Any = None


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: list[int]
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class _Record:
    dataPath: str
    nbytes: int
    records: list[_Tensor] = field(default_factory=list)
    md5sum: str | None = None


@dataclass(frozen=True, slots=True)
class _Cache:
    records: list[_Record]
    metadata: dict[str, Any] = field(default_factory=dict)


def read_folder(folder: Path) -> MlcModel:
    """What the model in `folder` is. Blocks; reads its two JSON files. Raises BadMlc, OSError."""
    config = _json(folder / CONFIG, _Config)
    cache_file = next((folder / c for c in CACHES if (folder / c).is_file()), folder / CACHES[0])
    cache = _json(cache_file, _Cache)
    shards = tuple(_shard(cache_file, record) for record in cache.records)
    if len({s.name for s in shards}) != len(shards):
        raise BadMlc(f"{cache_file} names a shard twice.")
    tensors = [t for record in cache.records for t in record.records]
    shape = _shape(config, _number(cache.metadata, "ParamBytes") or sum(s.size for s in shards))
    return MlcModel(
        architecture=config.model_type,
        quantization=config.quantization,
        conversation=_conversation(config.conv_template),
        context_length=shape.context_length,
        prefill_chunk=_whole(config.prefill_chunk_size) or MLC_PREFILL_CHUNK,
        shape=shape,
        tensors=len(tensors),
        parameters=_parameters(cache_file, config.quantization, tensors, cache.metadata),
        shards=shards,
        files=(CONFIG, cache_file.name, *(n for n in config.tokenizer_files if _plain(n))),
    )


def check_whole(folder: Path) -> MlcModel:
    """`read_folder`, and that every shard and tokenizer file is there, shards with their size. Raises BadMlc,
    OSError."""
    model = read_folder(folder)
    for name, size in [*((s.name, s.size) for s in model.shards), *((n, None) for n in model.files)]:
        try:
            found = (folder / name).stat()
        except FileNotFoundError:
            raise BadMlc(f"A file of the model is missing: {folder / name}.", mend="Download it again.") from None
        if not stat.S_ISREG(found.st_mode):
            raise BadMlc(f"{folder / name} is not a file.")
        if size is not None and found.st_size != size:
            raise BadMlc(
                f"{folder / name} has {found.st_size:,} bytes, not {size:,}: it is cut short or of another model.",
                mend="Download it again.",
            )
    return model


def _json(file: Path, kind: type[T]) -> T:
    try:
        found = file.stat()
    except FileNotFoundError:
        raise BadMlc(f"{file.parent} is no MLC model: it has no {file.name}.") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST:
        raise BadMlc(f"{file} is not a file, or longer than {_MOST:,} bytes.")
    try:
        return codec.decode(kind, file.read_bytes())
    except codec.CodecError as e:
        raise BadMlc(f"{file} cannot be read: {e}.", mend="Download it again.") from None


def _plain(name: str) -> bool:
    return bool(name) and name not in (".", "..") and "/" not in name and "\\" not in name and "\0" not in name


def _shard(file: Path, record: _Record) -> Shard:
    if not _plain(record.dataPath):
        raise BadMlc(f"{file} names a shard outside of the model: {record.dataPath!r}.")
    if not 0 <= record.nbytes <= _LARGEST:
        raise BadMlc(f"{file}: {record.dataPath!r} cannot have {record.nbytes} bytes.")
    return Shard(name=record.dataPath, size=record.nbytes, md5=record.md5sum)


def _shape(config: _Config, weights: int) -> ModelShape:
    said = config.model_config
    # Models that read more than text keep the language model's numbers one level down.
    text = said.get("text_config")
    if isinstance(text, dict) and "num_hidden_layers" not in said:
        said = {**said, **text}
    embedding, heads = _number(said, "hidden_size", "n_embd"), _number(said, "num_attention_heads", "n_head")
    head = _number(said, "head_dim") or (embedding // heads if heads else 0)
    context = _whole(config.context_window_size) or _whole(config.sliding_window_size)
    return ModelShape(
        tensor_bytes=weights,
        layers=_number(said, "num_hidden_layers", "n_layer"),
        embedding=embedding,
        feed_forward=_number(said, "intermediate_size", "n_inner") or 4 * embedding,
        heads=heads,
        kv_heads=_number(said, "num_key_value_heads") or heads,
        key_length=head,
        value_length=head,
        vocabulary=_whole(config.vocab_size) or _number(said, "vocab_size"),
        context_length=context or _number(said, "context_window_size"),
    )


def _parameters(file: Path, quantization: str, tensors: list[_Tensor], metadata: dict[str, Any]) -> int:
    """Counted from the tensors' shapes, unpacking what is packed; where they say nothing, from the file's sums."""
    named = re.match(r"q(\d)", quantization)
    bits = int(named.group(1)) if named else 0
    total = 0
    for tensor in tensors:
        if any(not 0 <= n < _LARGEST for n in tensor.shape) or len(tensor.shape) > 8:
            raise BadMlc(f"{file}: tensor {tensor.name!r} cannot have the shape {tensor.shape[:8]}.")
        if tensor.name.endswith(_SCALES):
            continue
        values, width = math.prod(tensor.shape), re.fullmatch(r"u?int(\d+)", tensor.dtype)
        if bits and width and tensor.name.endswith(_WEIGHTS):
            values *= max(1, int(width.group(1)[:3]) // bits)
        total += values
    if total:
        return min(total, _LARGEST)
    per = metadata.get("BitsPerParam")
    size = _number(metadata, "ParamBytes")
    return round(size * 8 / per) if isinstance(per, (int, float)) and math.isfinite(per) and per >= 1 else 0


def _conversation(said: Any) -> str:
    """Its template's name: the template itself, or only its name in older configs."""
    name = said.get("name") if isinstance(said, dict) else said
    return name if isinstance(name, str) else ""


def _number(said: dict[str, Any], *names: str) -> int:
    return next((n for name in names if (n := _whole(said.get(name)))), 0)


def _whole(value: Any) -> int:
    """A count; 0 for what is none (`-1` is MLC's word for "not set"; sums of bytes are floats)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _LARGEST:
        return 0
    return int(value)
