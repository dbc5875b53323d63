# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model will need in memory, from its header alone: plan decides by it before anything is downloaded or run."""

from __future__ import annotations

from dataclasses import dataclass

#: Context and slots of a worker that says neither: enough for a chat, small enough for a small machine.
DEFAULT_CONTEXT = 4096
DEFAULT_PARALLEL = 2
#: Prompt tokens that llama.cpp reads in one step (see the launcher): its buffers grow with it.
DEFAULT_BATCH = 64
#: Tokens of one input of an embedding or reranking model that also could generate: each costs what is said below.
DEFAULT_INPUT = 512

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
    #: Whether a token sees only those before it. One that does not (BERT) keeps no keys and values and has no words
    #: to say.
    causal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Tokens that each slot holds (`context`), and that the engine reads in one step (`batch`)."""

    context: int
    batch: int


def window(
    task: str | None, *, trained: int | None, causal: bool, context_length: int | None, batch_size: int | None
) -> Window:
    """What a worker gets that asks for these. An embedding or a score is made of a whole input in one step, so there
    a slot holds what one step reads: what is asked for, else all that the model knows (at most `DEFAULT_CONTEXT`), or
    `DEFAULT_INPUT` where each token of a step costs a vocabulary."""
    if task in (None, "generate"):
        return Window(context=context_for(trained, context_length), batch=batch_size or DEFAULT_BATCH)
    asked = [n for n in (context_length, batch_size) if n] or [DEFAULT_INPUT if causal else DEFAULT_CONTEXT]
    size = context_for(trained, min(asked))
    return Window(context=size, batch=size)


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


def embedding_bytes(shape: ModelShape, *, context: int, parallel: int) -> int:
    """As `llama_cpp_bytes`, of a worker that embeds or reranks inputs of up to `context` tokens, one in each step.

    `38 MB + tensors + 4*ctx*(3*FF + 4*D) B + 2*ctx*ctx B (who sees whom) + 250 B*vocab`, and of a causal model its
    keys and values, and `4*ctx*(2*vocab + D) B`: llama.cpp works out what the next word would be after every token.
    Measured within 10% (causal: 5%) on models of 2 to 32 MB at inputs of 512 to 4,096 tokens.
    """
    size = llama_cpp_bytes(shape, context=context, parallel=parallel, batch=context) + 2 * context * context
    if not shape.causal:
        return size - kv_bytes(shape, context, parallel)
    return size + _ACTIVATION_BYTES * context * (2 * shape.vocabulary + shape.embedding)


def worker_bytes(shape: ModelShape, task: str | None, *, given: Window, parallel: int) -> int:
    """Of a llama.cpp worker on a CPU, whatever its task."""
    if task in (None, "generate"):
        return llama_cpp_bytes(shape, context=given.context, parallel=parallel, batch=given.batch)
    return embedding_bytes(shape, context=given.context, parallel=parallel)


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
