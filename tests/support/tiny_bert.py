# SPDX-License-Identifier: GPL-3.0-or-later
"""A BERT of random weights as a real GGUF file: an embedding model, or with `rank` one that scores pairs of texts."""

from __future__ import annotations

import string
from pathlib import Path

import gguf
import numpy as np

#: The tokens of its own, then letters at a word's beginning and inside it.
_OWN = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_tiny_bert(
    path: Path, *, rank: bool = False, width: int = 32, layers: int = 1, context: int = 128, seed: int = 5
) -> Path:
    """Writes the model (4 heads, a word is its letters, F32) to `path` and returns it."""
    rng = np.random.default_rng(seed)
    letters = string.ascii_lowercase + string.digits + string.punctuation
    # llama.cpp marks the beginning of a word, where the original marks what goes on.
    tokens = [*_OWN, *(f"▁{c}" for c in letters), *letters]
    kinds = [gguf.TokenType.CONTROL] * len(_OWN) + [gguf.TokenType.NORMAL] * (len(tokens) - len(_OWN))
    feed_forward = 2 * width
    w = gguf.GGUFWriter(path, "bert")
    w.add_name("tiny-bert")
    w.add_context_length(context)
    w.add_embedding_length(width)
    w.add_block_count(layers)
    w.add_feed_forward_length(feed_forward)
    w.add_head_count(4)
    w.add_layer_norm_eps(1e-12)
    w.add_causal_attention(False)
    w.add_pooling_type(gguf.PoolingType.RANK if rank else gguf.PoolingType.CLS)
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_tokenizer_model("bert")
    w.add_tokenizer_pre("default")
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_type_count(2)
    for name, number in (("pad", 0), ("unk", 1), ("bos", 2), ("sep", 3), ("eos", 3), ("mask", 4)):
        getattr(w, f"add_{name}_token_id")(number)
    if rank:
        w.add_classifier_output_labels(["relevance"])

    def tensor(name: str, *shape: int) -> None:
        w.add_tensor(name, (rng.standard_normal(shape) * 0.3).astype(np.float32))

    def norm(name: str) -> None:
        w.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
        w.add_tensor(f"{name}.bias", np.zeros(width, dtype=np.float32))

    tensor("token_embd.weight", len(tokens), width)
    tensor("token_types.weight", 2, width)
    tensor("position_embd.weight", context, width)
    norm("token_embd_norm")
    for i in range(layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{i}.{part}.weight", width, width)
            tensor(f"blk.{i}.{part}.bias", width)
        norm(f"blk.{i}.attn_output_norm")
        tensor(f"blk.{i}.ffn_up.weight", feed_forward, width)
        tensor(f"blk.{i}.ffn_up.bias", feed_forward)
        tensor(f"blk.{i}.ffn_down.weight", width, feed_forward)
        tensor(f"blk.{i}.ffn_down.bias", width)
        norm(f"blk.{i}.layer_output_norm")
    if rank:
        tensor("cls.weight", width, width)
        tensor("cls.bias", width)
        tensor("cls.output.weight", 1, width)
        tensor("cls.output.bias", 1)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path
