# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model's own files say of it, put into its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rbee.adapters import gguf
from rbee.core.records import ModelRecord


def described(record: ModelRecord) -> ModelRecord:
    """The record with what its files (at `record.path`, of `record.format`) say. Blocks; reads headers only.

    Raises RbeeError `invalid_model` when they are hurt, cut short or not all there, OSError.
    """
    header = gguf.check_whole(Path(record.path))
    return replace(
        record,
        architecture=header.architecture or None,
        quantization=header.quantization,
        context_length=header.context_length or None,
        layers=header.shape.layers or None,
    )
