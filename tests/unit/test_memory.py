# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory formula against what was measured, and what a worker gets when it says nothing."""

from __future__ import annotations

import dataclasses

import pytest

from rbee.core.memory import DEFAULT_CONTEXT, ModelShape, context_for, kv_bytes, llama_cpp_bytes

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
