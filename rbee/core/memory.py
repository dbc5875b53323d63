# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model will need in memory, from its header alone: plan decides by it before anything is downloaded or run."""

from __future__ import annotations

from dataclasses import dataclass

#: Context and slots of a worker that says neither: enough for a chat, small enough for a small machine.
DEFAULT_CONTEXT = 4096
DEFAULT_PARALLEL = 2
#: Prompt tokens that llama.cpp reads in one step (see the launcher): its buffers grow with it.
DEFAULT_BATCH = 64

#: Measured: llama.cpp's libraries and its HTTP server without a model (28 MB), and our launcher (10 MB).
_PROCESS = 38 * 10**6
#: Bytes for each entry of the vocabulary (text, score, two hash tables).
_VOCABULARY_ENTRY = 250
#: Keys and values are kept as 16-bit floats.
_KV_BYTES = 2
#: Activations are 32-bit floats.
_ACTIVATION_BYTES = 4

#: Prompt tokens that MLC reads in one step where a model's config does not say.
MLC_PREFILL_CHUNK = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The numbers of a model that its memory depends on. `tensor_bytes` is the size of its weights."""

    tensor_bytes: int
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    #: Width of one head's keys, and of its values.
    key_length: int
    value_length: int
    vocabulary: int
    context_length: int


def context_for(trained: int | None, wanted: int | None) -> int:
    """Tokens of context that each slot gets: what was asked for (else `DEFAULT_CONTEXT`), never more than trained."""
    asked = wanted or DEFAULT_CONTEXT
    return min(asked, trained) if trained else asked


def kv_bytes(shape: ModelShape, context: int, parallel: int) -> int:
    """Bytes of the keys and values of `parallel` slots of `context` tokens each."""
    width = shape.kv_heads * (shape.key_length + shape.value_length)
    return shape.layers * context * parallel * width * _KV_BYTES


def llama_cpp_bytes(shape: ModelShape, *, context: int, parallel: int, batch: int = DEFAULT_BATCH) -> int:
    """Resident bytes of llama.cpp on a CPU once every page of the model has been touched.

    `38 MB + tensors + layers*ctx*2*kv_heads*head_dim*2 B + 4*n_ubatch*(3*FF + 4*D) B + 250 B*vocab`, where ctx is
    of all slots together. Measured within 3% on llama models of 2.5 MB, 58 MB and 529 MB at contexts of 512 to
    32,768; other architectures are unmeasured. The cache of old prompts is off (the launcher).
    """
    activations = _ACTIVATION_BYTES * batch * (3 * shape.feed_forward + 4 * shape.embedding)
    vocabulary = _VOCABULARY_ENTRY * shape.vocabulary
    return _PROCESS + shape.tensor_bytes + kv_bytes(shape, context, parallel) + activations + vocabulary


def mlc_bytes(shape: ModelShape, *, context: int, parallel: int, prefill_chunk: int = MLC_PREFILL_CHUNK) -> int:
    """Bytes that MLC-LLM takes on its device for `parallel` sequences of `context` tokens each.

    Its own sum (`EstimateMemoryUsageOnMode` in cpp/serve/config.cc), S = parallel, C = prefill_chunk, D = head_dim:
    parameters + 2*temporary buffers
    + keys and values: S*context*(D*kv_heads*layers*4 + 1.25)
    + their workspace: (S+1)*88 + C*(heads+1)*8 + C*D*(heads+kv_heads)*4 + 48 MiB
    + the model's: C*4 + S*4 + (2*C+S)*D*heads*2
    + logits: S*20 + S*vocabulary*16.125.
    The temporary buffers are known only to the compiled library; here they are one chunk's activations in 16 bits,
    C*(3*FF + 4*embedding)*2 B, which is unmeasured. It refuses to start above 0.85 of the device's total memory.
    """
    chunk, head = prefill_chunk, shape.key_length
    temporary = 2 * chunk * (3 * shape.feed_forward + 4 * shape.embedding) * 2
    cache = context * parallel * (head * shape.kv_heads * shape.layers * 4 + 1.25)
    workspace = (parallel + 1) * 88 + chunk * (shape.heads + 1) * 8
    workspace += chunk * head * (shape.heads + shape.kv_heads) * 4 + 48 * 2**20
    model = chunk * 4 + parallel * 4 + (chunk * 2 + parallel) * head * shape.heads * 2
    logits = parallel * 20 + parallel * shape.vocabulary * 16.125
    return int(shape.tensor_bytes + temporary + cache + workspace + model + logits)
