# SPDX-License-Identifier: GPL-3.0-or-later
"""A llama of random weights as a real GGUF file, made in milliseconds: for tests where the words don't matter.

Its greedy answers never end by themselves, which is what tests of cancelling and draining need.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)

#: One that shows the model its tools, and how it calls them.
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n'}}{% if m['content'] %}{{ m['content'] }}{% endif %}"
    "{% for c in m['tool_calls'] or [] %}<tool_call>\n"
    "{{'{\"name\": \"' + c['function']['name'] + '\", \"arguments\": '}}"
    "{{ c['function']['arguments'] | tojson }}{{'}\n</tool_call>'}}{% endfor %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes that GPT-2's tokenizer uses."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [b for b in range(256) if b not in keep]
    table = {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(extra)}
    return [table[b] for b in range(256)]


def write_tiny_gguf(
    path: Path,
    *,
    width: int = 64,
    layers: int = 2,
    feed_forward: int = 128,
    context: int = 4096,
    seed: int = 7,
    split: int = 0,
    template: str = CHATML,
) -> Path:
    """Writes the model (4 heads, 2 KV heads, 260 tokens, F32) to `path` and returns it; with `split` so many tensors
    to each of its parts, which are named as llama.cpp does, and then the first of these is returned."""
    rng = np.random.default_rng(seed)
    letters = _byte_letters()
    tokens = [*letters, letters[ord("t")] + letters[ord("h")], "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    kinds = [gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 3
    heads, kv_heads = 4, 2
    w = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    w.add_name("tiny")
    w.add_context_length(context)
    w.add_embedding_length(width)
    w.add_block_count(layers)
    w.add_feed_forward_length(feed_forward)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(width // heads)
    w.add_vocab_size(len(tokens))
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges(["t h"])
    w.add_bos_token_id(259)
    w.add_eos_token_id(258)
    w.add_add_bos_token(False)
    w.add_chat_template(template)

    def tensor(name: str, *shape: int) -> None:
        w.add_tensor(name, (rng.standard_normal(shape) * 0.2).astype(np.float32))

    # The end of a turn is never the likeliest token: its row of the output points away from everything.
    embedding = (rng.standard_normal((len(tokens), width)) * 0.2).astype(np.float32)
    output = (rng.standard_normal((len(tokens), width)) * 0.2).astype(np.float32)
    output[128:] = 0.0
    output[:32] = 0.0
    w.add_tensor("token_embd.weight", embedding)
    w.add_tensor("output.weight", output)
    w.add_tensor("output_norm.weight", np.ones(width, dtype=np.float32))
    for i in range(layers):
        w.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(width, dtype=np.float32))
        w.add_tensor(f"blk.{i}.ffn_norm.weight", np.ones(width, dtype=np.float32))
        tensor(f"blk.{i}.attn_q.weight", width, width)
        tensor(f"blk.{i}.attn_k.weight", width * kv_heads // heads, width)
        tensor(f"blk.{i}.attn_v.weight", width * kv_heads // heads, width)
        tensor(f"blk.{i}.attn_output.weight", width, width)
        tensor(f"blk.{i}.ffn_gate.weight", feed_forward, width)
        tensor(f"blk.{i}.ffn_up.weight", feed_forward, width)
        tensor(f"blk.{i}.ffn_down.weight", width, feed_forward)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if split else path
