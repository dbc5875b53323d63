# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory formula against what was measured, and what a worker gets when it says nothing."""

from __future__ import annotations

import dataclasses

import pytest

from rbee.core.memory import (
    DEFAULT_BATCH,
    DEFAULT_CONTEXT,
    DEFAULT_INPUT,
    ModelShape,
    Window,
    context_for,
    embedding_bytes,
    kv_bytes,
    llama_cpp_bytes,
    window,
    worker_bytes,
)

#: Qwen2.5 0.5B in Q8_0, from its header.
HALF_BILLION = ModelShape(
    tensor_bytes=525_000_000, layers=24, embedding=896, feed_forward=4864, heads=14, kv_heads=2,
    key_length=64, value_length=64, vocabulary=151_936, context_length=32768,
)  # fmt: skip


@pytest.mark.parametrize(("context", "measured"), [(512, 597e6), (32768, 987e6)])
def test_the_formula_is_within_a_tenth_of_what_was_measured(context: int, measured: float) -> None:
    assert llama_cpp_bytes(HALF_BILLION, context=context, parallel=1) == pytest.approx(measured, rel=0.1)


def test_slots_and_context_cost_the_same() -> None:
    assert kv_bytes(HALF_BILLION, 1024, 4) == kv_bytes(HALF_BILLION, 4096, 1) == 24 * 4096 * 2 * 128 * 2


def test_a_bigger_batch_needs_more() -> None:
    small, large = (llama_cpp_bytes(HALF_BILLION, context=512, parallel=1, batch=b) for b in (64, 512))
    assert large - small == 4 * 448 * (3 * 4864 + 4 * 896)


def test_values_may_be_wider_than_keys() -> None:
    wider = dataclasses.replace(HALF_BILLION, value_length=128)
    assert kv_bytes(wider, 512, 1) * 2 == kv_bytes(HALF_BILLION, 512, 1) * 3


@pytest.mark.parametrize(
    ("trained", "wanted", "given"),
    [
        (512, None, 512),
        (131072, None, DEFAULT_CONTEXT),
        (131072, 8192, 8192),
        (512, 8192, 512),
        (None, 8192, 8192),
        (0, None, DEFAULT_CONTEXT),
    ],
)
def test_context_is_what_was_asked_for_and_never_more_than_trained(
    trained: int | None, wanted: int | None, given: int
) -> None:
    assert context_for(trained, wanted) == given


@pytest.mark.parametrize(
    ("task", "causal", "context_length", "batch_size", "given"),
    [
        (None, True, None, None, Window(context=DEFAULT_CONTEXT, batch=DEFAULT_BATCH)),
        ("generate", True, 8192, 32, Window(context=8192, batch=32)),
        ("embed", True, None, None, Window(context=DEFAULT_INPUT, batch=DEFAULT_INPUT)),
        ("embed", False, None, None, Window(context=DEFAULT_CONTEXT, batch=DEFAULT_CONTEXT)),
        ("embed", True, 2048, None, Window(context=2048, batch=2048)),
        ("rerank", False, None, 256, Window(context=256, batch=256)),
        ("rerank", False, 1024, 256, Window(context=256, batch=256)),
        ("embed", False, 10**6, None, Window(context=32768, batch=32768)),
    ],
)
def test_an_input_to_embed_is_one_step(
    task: str | None, causal: bool, context_length: int | None, batch_size: int | None, given: Window
) -> None:
    made = window(task, trained=32768, causal=causal, context_length=context_length, batch_size=batch_size)
    assert made == given


#: What is measured here was made by tests.support: its models of random weights, and bee-tiny.
LLAMA_256 = ModelShape(
    tensor_bytes=16_300_000, layers=4, embedding=256, feed_forward=1024, heads=4, kv_heads=2,
    key_length=64, value_length=64, vocabulary=260, context_length=8192,
)  # fmt: skip
LLAMA_16K_WORDS = ModelShape(
    tensor_bytes=8_600_000, layers=2, embedding=64, feed_forward=128, heads=4, kv_heads=2,
    key_length=16, value_length=16, vocabulary=16_260, context_length=8192,
)  # fmt: skip
BERT = ModelShape(
    tensor_bytes=31_800_000, layers=6, embedding=384, feed_forward=768, heads=4, kv_heads=4,
    key_length=96, value_length=96, vocabulary=141, context_length=2048, causal=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "context", "parallel", "measured"),
    [
        (LLAMA_256, 4096, 1, 178.4e6),
        (LLAMA_256, 2048, 2, 116.4e6),
        (LLAMA_256, 4096, 2, 188.0e6),
        (LLAMA_16K_WORDS, 1024, 1, 193.7e6),
        (LLAMA_16K_WORDS, 2048, 1, 335.6e6),
        (BERT, 512, 1, 80.2e6),
        (BERT, 2048, 1, 104.3e6),
        (BERT, 2048, 2, 104.6e6),
    ],
)
def test_the_formula_for_embeddings_is_within_a_tenth(
    shape: ModelShape, context: int, parallel: int, measured: float
) -> None:
    assert embedding_bytes(shape, context=context, parallel=parallel) == pytest.approx(measured, rel=0.1)


def test_what_a_worker_needs_depends_on_its_task() -> None:
    given = Window(context=512, batch=512)
    chat = worker_bytes(LLAMA_16K_WORDS, None, given=given, parallel=2)
    assert chat == llama_cpp_bytes(LLAMA_16K_WORDS, context=512, parallel=2, batch=512)
    assert worker_bytes(LLAMA_16K_WORDS, "generate", given=given, parallel=2) == chat
    embeds = worker_bytes(LLAMA_16K_WORDS, "embed", given=given, parallel=2)
    assert embeds == embedding_bytes(LLAMA_16K_WORDS, context=512, parallel=2) > chat
