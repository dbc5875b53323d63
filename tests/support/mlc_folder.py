# SPDX-License-Identifier: GPL-3.0-or-later
"""A model folder as MLC-LLM makes one, with weights of zeros."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

#: 64x8 packed weights of 4 bits, their scales, and a norm that is not packed.
PARAMETERS = 64 * 8 * 8 + 96


def write_mlc(folder: Path, *, cache: str = "tensor-cache.json", **changes: Any) -> Path:
    """Two shards, a tokenizer and a config (with `changes`); returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for no, tensors in enumerate(
        (
            [("model.q_weight", [64, 8], "uint32"), ("model.q_scale", [64, 2], "float16")],
            [("norm.weight", [96], "float16")],
        )
    ):
        data = bytes([no]) * sum(_size(shape, dtype) for _, shape, dtype in tensors)
        (folder / f"params_shard_{no}.bin").write_bytes(data)
        records.append(
            {
                "dataPath": f"params_shard_{no}.bin",
                "format": "raw-shard",
                "nbytes": len(data),
                "records": [{"name": n, "shape": s, "dtype": d, "format": "raw"} for n, s, d in tensors],
                "md5sum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            }
        )
    total = sum(r["nbytes"] for r in records)  # type: ignore[misc]
    metadata = {"ParamSize": 3, "ParamBytes": float(total), "BitsPerParam": 4.5}
    (folder / cache).write_text(json.dumps({"metadata": metadata, "records": records}))
    config: dict[str, Any] = {
        "version": "0.1.0",
        "model_type": "qwen2",
        "quantization": "q4f16_1",
        "model_config": {
            "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 24,
            "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 151936, "context_window_size": 32768,
        },
        "vocab_size": 151936,
        "context_window_size": 32768,
        "sliding_window_size": -1,
        "prefill_chunk_size": 8192,
        "tokenizer_files": ["tokenizer.json", "tokenizer_config.json"],
        "conv_template": {"name": "chatml", "system_template": "x"},
        **changes,
    }  # fmt: skip
    (folder / "mlc-chat-config.json").write_text(json.dumps(config))
    for name in config["tokenizer_files"]:
        if "/" not in name:
            (folder / name).write_text("{}")
    return folder


def _size(shape: list[int], dtype: str) -> int:
    values = 1
    for n in shape:
        values *= n
    return values * (4 if dtype == "uint32" else 2)
