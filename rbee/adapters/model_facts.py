# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model's own files say of it, put into its record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rbee.adapters import gguf, mlc
from rbee.core.records import ModelFile, ModelRecord


def described(record: ModelRecord) -> ModelRecord:
    """The record with what its files (at `record.path`, of `record.format`) say. Blocks; reads headers only.

    `size_bytes` becomes that of all files, and a model of several lists them in `files` (digests that the record
    knew are kept). Raises RbeeError `invalid_model` when they are hurt, cut short or not all there, OSError.
    """
    return _mlc(record) if record.format == "mlc" else _gguf(record)


def template_of(record: ModelRecord) -> str | None:
    """The text of its chat template, read now; None when it has none or its files cannot be read. Blocks.

    An MLC model has only the name of one of MLC's own.
    """
    try:
        if record.format == "mlc":
            return mlc.read_folder(Path(record.path)).conversation or None
        return gguf.chat_template(Path(record.path))
    except (gguf.BadGguf, mlc.BadMlc, OSError, ValueError):
        return None


def count_text(number: int) -> str:
    """A number of parameters for a person: 135M, 1.2B, 70.6B."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        # What rounds up to a thousand is one of the next letter.
        if number >= size * 0.9995:
            value = number / size
            return f"{value:.0f}{letter}" if value >= 99.95 else f"{value:.1f}".removesuffix(".0") + letter
    return str(number)


def _gguf(record: ModelRecord) -> ModelRecord:
    path = Path(record.path)
    header = gguf.check_whole(path)
    found = gguf.parts(path) if header.split_count > 1 else [path]
    shape = header.shape
    return replace(
        record,
        size_bytes=sum(p.stat().st_size for p in found),
        files=_files(record, path.parent, [p.name for p in found]) if len(found) > 1 else (),
        architecture=header.architecture or None,
        quantization=header.quantization,
        context_length=header.context_length or None,
        layers=shape.layers or None,
        heads=shape.heads or None,
        kv_heads=shape.kv_heads or None,
        embedding_length=shape.embedding or None,
        parameters=header.parameters or None,
        parameter_count=count_text(header.parameters) if header.parameters else None,
        tokenizer=header.tokenizer or None,
        chat_template=header.chat_template,
        gguf_version=header.version,
        tensor_count=header.tensors,
        kv_count=header.fields,
    )


def _mlc(record: ModelRecord) -> ModelRecord:
    folder = Path(record.path)
    model = mlc.check_whole(folder)
    shape = model.shape
    files = _files(record, folder, [*model.files, *(s.name for s in model.shards)])
    return replace(
        record,
        size_bytes=sum(f.size_bytes for f in files),
        files=files,
        architecture=model.architecture or None,
        quantization=model.quantization or None,
        context_length=model.context_length or None,
        layers=shape.layers or None,
        heads=shape.heads or None,
        kv_heads=shape.kv_heads or None,
        embedding_length=shape.embedding or None,
        parameters=model.parameters or None,
        parameter_count=count_text(model.parameters) if model.parameters else None,
        tokenizer=next((f for f in model.files if f.startswith("tokenizer")), None),
        chat_template=bool(model.conversation),
        tensor_count=model.tensors or None,
    )


def _files(record: ModelRecord, folder: Path, names: Iterable[str]) -> tuple[ModelFile, ...]:
    """Those that came with it, in their source's order (a checksum of all goes by it), then what else it is of."""
    known = {f.name: f for f in record.files}
    wanted = dict.fromkeys([*(n for n in known if (folder / n).is_file()), *names])
    return tuple(
        ModelFile(name=n, size_bytes=(folder / n).stat().st_size, sha256=known[n].sha256 if n in known else None)
        for n in wanted
    )
