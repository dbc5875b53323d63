# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before the engine sees it, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from rbee.core.sampling import Refused, check_chat, check_completion, check_embedding, check_infer, check_rerank

USER = {"role": "user", "content": "hi"}
CHAT = {"model": "m", "messages": [USER]}

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 3}, "model", "invalid_type"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": {}}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": [USER, "hi"]}, "messages[1]", "invalid_type"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_type"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": 2.01}, "temperature", "decimal_above_max_value"),
    ({"temperature": float("nan")}, "temperature", "decimal_below_min_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"top_p": 5}, "top_p", "decimal_above_max_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 1.5}, "n", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_completion_tokens": -1}, "max_completion_tokens", "integer_below_min_value"),
    ({"seed": "x"}, "seed", "invalid_type"),
    ({"stream": 1}, "stream", "invalid_type"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
    ({"stop": 3}, "stop", "invalid_type"),
    ({"stop": ["a", None]}, "stop", "invalid_type"),
    ({"tools": {}}, "tools", "invalid_type"),
    ({"response_format": "json"}, "response_format", "invalid_type"),
]


@pytest.mark.parametrize(("change", "param", "code"), REFUSED)
def test_a_chat_that_openai_refuses(change: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(Refused) as refused:
        check_chat({**CHAT, **change})
    assert (refused.value.param, refused.value.code) == (param, code)
    assert param.split(".")[0] in refused.value.message


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"temperature": 0, "top_p": 1, "n": 2, "max_tokens": 1, "seed": -1, "stop": ["a", "b", "c", "d"]},
        {"temperature": 2.0, "stop": "x", "stream": None, "top_k": 5, "a_field_of_tomorrow": {"x": 1}},
        {"messages": [USER, {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": [{"type": "text"}]}]},
        {"tools": [], "response_format": {"type": "json_object"}, "logprobs": True, "top_logprobs": 20},
    ],
)
def test_what_is_fine_or_unknown_passes(change: dict[str, Any]) -> None:
    check_chat({**CHAT, **change})


@pytest.mark.parametrize(
    ("prompt", "code"), [(None, "missing_required_parameter"), ({}, "invalid_type"), ([], "empty_array")]
)
def test_a_completion_wants_a_prompt(prompt: Any, code: str) -> None:
    with pytest.raises(Refused) as refused:
        check_completion({"model": "m", "prompt": prompt})
    assert (refused.value.param, refused.value.code) == ("prompt", code)


@pytest.mark.parametrize("prompt", ["hi", ["a", "b"], [1, 2, 3]])
def test_completions_of_texts_and_tokens_pass(prompt: Any) -> None:
    check_completion({"model": "m", "prompt": prompt, "logprobs": 3, "echo": False})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 32769}, "prompt"),
        ({"prompt": "x", "max_tokens": 513}, "max_tokens"),
        ({"prompt": "x", "temperature": 3}, "temperature"),
        ({"prompt": "x", "min_p": -1}, "min_p"),
        ({"prompt": "x", "repetition_penalty": -1}, "repetition_penalty"),
        ({"prompt": "x", "top_k": None, "stop": ["a"] * 5}, "stop"),
    ],
)
def test_infer_keeps_its_bounds(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        check_infer(fields, 512)
    assert refused.value.param == param


def test_infer_takes_what_the_contract_says() -> None:
    check_infer(
        {"prompt": "x" * 32768, "max_tokens": 512, "temperature": 2, "top_k": 0, "seed": 1, "stream": False}, 512
    )
    check_infer({"prompt": "x", "max_tokens": 10**6}, None)


EMBEDDING = {"model": "m", "input": "hi"}


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": 3}, "input", "invalid_type"),
        ({"input": ""}, "input", "empty_array"),
        ({"input": []}, "input", "empty_array"),
        ({"input": ["a", ""]}, "input", "empty_array"),
        ({"input": [[]]}, "input", "empty_array"),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"dimensions": 3}, "dimensions", "not_supported"),
    ],
)
def test_an_embedding_that_cannot_be(change: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(Refused) as refused:
        check_embedding({**EMBEDDING, **change}, 4)
    assert (refused.value.param, refused.value.code) == (param, code)


@pytest.mark.parametrize(
    "change",
    [{}, {"input": ["a", [1, 2]]}, {"input": [1, 2]}, {"encoding_format": "base64", "dimensions": 4, "user": "u"}],
)
def test_an_embedding_that_can_be(change: dict[str, Any]) -> None:
    check_embedding({**EMBEDDING, **change}, 4)
    check_embedding({**EMBEDDING, **change, "dimensions": 9}, None)


RERANK = {"model": "m", "query": "q", "documents": ["a"]}


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"query": None}, "query", "missing_required_parameter"),
        ({"query": ["q"]}, "query", "invalid_type"),
        ({"documents": None}, "documents", "missing_required_parameter"),
        ({"documents": "a"}, "documents", "invalid_type"),
        ({"documents": ["a", 1]}, "documents", "invalid_type"),
        ({"documents": []}, "documents", "empty_array"),
        ({"top_n": 0}, "top_n", "integer_below_min_value"),
    ],
)
def test_a_rerank_that_cannot_be(change: dict[str, Any], param: str, code: str) -> None:
    check_rerank(RERANK)
    with pytest.raises(Refused) as refused:
        check_rerank({**RERANK, **change})
    assert (refused.value.param, refused.value.code) == (param, code)
