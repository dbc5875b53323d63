# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's pure parts: folding streams, the engine's words, its bodies, its command line."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from rbee.adapters.engines.reasons import how_it_ended, mend_for, reason_in
from rbee.contracts.openai import BadBody
from rbee.core.providers import binary_id, fill_command
from rbee.daemons.worker.bodies import read, with_fields
from rbee.daemons.worker.event_folds import MessageFold, tokens_in
from rbee.daemons.worker.fold import Fold
from rbee.daemons.worker.infer import _frame
from rbee.daemons.worker.words import Counts, counts_in, counts_of, engine_error, is_chatter, renamed
from tests.support.workers import llama_cpp


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": fields, "finish_reason": finish}
    return {"id": "c-1", "object": "chat.completion.chunk", "model": "engine's", "created": 1, "choices": [choice]}


def test_tool_calls_come_together_from_their_pieces() -> None:
    fold = Fold("chat", "m")
    for piece in (
        delta(role="assistant", content=None),
        delta(reasoning_content="hm"),
        delta(tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]),
        delta(tool_calls=[{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x":'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
        delta(finish="tool_calls"),
    ):
        fold.add(piece)
    (choice,) = fold.result()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


def test_choices_that_come_mixed_are_told_apart() -> None:
    fold = Fold("chat", "asked-for")
    for piece in (delta(1, content="B"), delta(0, content="a"), delta(1, "stop", content="!"), delta(0, "length")):
        fold.add(piece)
    for n in (2, 3):
        fold.add({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": n, "total_tokens": 0}})
    whole = fold.result()
    assert [(c["message"]["content"], c["finish_reason"]) for c in whole["choices"]] == [
        ("a", "length"),
        ("B!", "stop"),
    ]
    assert whole["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert (whole["model"], whole["object"], whole["id"]) == ("asked-for", "chat.completion", "c-1")


def test_a_message_of_thought_and_tools_comes_together() -> None:
    fold = MessageFold()
    start = {"id": "m", "type": "message", "content": [], "usage": {"input_tokens": 3, "cache_read_input_tokens": 2}}
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    for event in (
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
        {"type": "content_block_start", "index": 1, "content_block": tool},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
    ):
        fold.add(event)
    before = fold.result
    assert before is None
    fold.add({"type": "message_stop"})
    assert fold.result is not None
    assert fold.result["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    assert (fold.result["stop_reason"], tokens_in(fold.result)) == ("tool_use", (5, 5))


def test_an_answer_without_a_word_is_an_empty_text() -> None:
    fold = Fold("chat", "m")
    fold.add(delta(role="assistant", content=None))
    assert fold.result()["choices"][0]["message"] == {"role": "assistant", "content": ""}
    assert "usage" not in fold.result()


def test_log_probabilities_are_joined() -> None:
    fold = Fold("completion", "m")
    for text in "ab":
        fold.add({"choices": [{"index": 0, "text": text, "logprobs": {"content": [{"token": text}]}}]})
    (choice,) = fold.result()["choices"]
    assert choice == {
        "text": "ab",
        "index": 0,
        "logprobs": {"content": [{"token": "a"}, {"token": "b"}]},
        "finish_reason": None,
    }


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (
            400,
            {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_ctx": 5}},
            ("too long", "invalid_request_error", "context_length_exceeded", "messages"),
        ),
        (
            400,
            {"error": {"code": 400, "message": "bad schema", "type": "invalid_request_error"}},
            ("bad schema", "invalid_request_error", None, None),
        ),
        (
            500,
            {"error": {"code": 500, "message": "x", "type": "server_error"}},
            ("x", "server_error", "engine_error", None),
        ),
        (500, "Internal error", ('"Internal error"', "server_error", "engine_error", None)),
        (
            404,
            {"error": {"message": "no", "type": "not_found_error", "code": "nope", "param": "model"}},
            ("no", "not_found_error", "nope", "model"),
        ),
    ],
)
def test_an_engines_refusal_in_openais_words(status: int, said: Any, expected: tuple[Any, ...]) -> None:
    error = engine_error(status, json.dumps(said).encode())
    told = json.loads(error.body)["error"]
    assert (error.status, (told["message"], told["type"], told["code"], told["param"])) == (status, expected)


def test_an_image_for_a_model_that_reads_none_is_the_clients_mistake() -> None:
    said = {"error": {"code": 500, "message": "image input is not supported - hint: ...", "type": "server_error"}}
    error = engine_error(500, json.dumps(said).encode(), "/v1/responses")
    told = json.loads(error.body)["error"]
    assert (error.status, told["type"], told["param"]) == (400, "invalid_request_error", "input")
    assert told["message"] == "This model reads no image."


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ('Failed to parse tools: Missing tool type: "f"', "tools"),
        ('Failed to parse messages: Missing tool call type: {"id":"a"}', "messages"),
        ("Failed to parse tool call arguments as JSON: [json.exception.parse_error.101]", "messages"),
    ],
)
def test_what_the_engine_cannot_read_is_the_clients_mistake(words: str, param: str) -> None:
    """It says 500, and clients would send the same again and again."""
    said = {"error": {"code": 500, "message": words, "type": "server_error"}}
    error = engine_error(500, json.dumps(said).encode())
    told = json.loads(error.body)["error"]
    assert (error.status, told["type"], told["code"]) == (400, "invalid_request_error", "invalid_value")
    assert (told["message"], told["param"]) == (words, param)


def test_an_input_longer_than_a_step_is_too_long() -> None:
    words = "input (3001 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
    error = engine_error(500, json.dumps({"error": {"message": words}}).encode(), "/v1/embeddings")
    told = json.loads(error.body)["error"]
    assert (error.status, told["code"], told["param"]) == (400, "context_length_exceeded", "input")
    assert told["message"] == "An input has 3001 tokens; this worker takes at most 512 in one."


def test_an_engine_that_says_nothing_is_still_told() -> None:
    assert "no reason" in json.loads(engine_error(502, b" ").body)["error"]["message"]


def test_chatter_is_known_from_words_about_it() -> None:
    assert is_chatter(b'{"choices":[],"prompt_progress":{"total":5}}')
    assert is_chatter(b" null")
    assert not is_chatter(json.dumps({"choices": [{"delta": {"content": '"prompt_progress":{'}}]}).encode())


def test_only_the_models_own_name_is_renamed() -> None:
    text = json.dumps({"choices": [{"delta": {"content": 'say "model":"a"'}}], "model": "a"}, separators=(",", ":"))
    told = json.loads(renamed(text.encode(), b'"a"', b'"b"'))
    assert (told["model"], told["choices"][0]["delta"]["content"]) == ("b", 'say "model":"a"')


def test_counts_at_the_end_of_a_stream() -> None:
    tail = (
        b'"timings":{"cache_n":23,"prompt_n":1,"prompt_ms":0.2,"predicted_n":4,"predicted_ms":500.0}}\n\ndata: [DONE]'
    )
    assert counts_in(tail) == Counts(prompt_tokens=24, tokens=4, seconds=0.5)
    assert counts_in(b'"usage":{"completion_tokens": 3,"prompt_tokens":9}') == Counts(prompt_tokens=9, tokens=3)
    assert counts_in(b'"usage":{"output_tokens":5}') == Counts(tokens=5)
    assert counts_in(b"data: [DONE]") == Counts()


def test_counts_of_a_folded_answer() -> None:
    timings = {"cache_n": 2, "prompt_n": 3, "predicted_n": 4, "predicted_ms": 250.0}
    assert counts_of([timings, timings], None) == Counts(prompt_tokens=5, tokens=8, seconds=0.5)
    assert counts_of([], {"prompt_tokens": 1, "completion_tokens": 2}) == Counts(prompt_tokens=1, tokens=2)
    assert counts_of([], None) == Counts()


def test_a_body_keeps_the_bytes_of_what_is_not_set() -> None:
    body = b'{"model": "m", "big": 123456789012345678901234567890, "f": 1.50, "stream": false, "x": {"a" : [1,  2]}}'
    made = with_fields(body, {"stream": b"true", "new": b'{"y":1}'})
    assert b"123456789012345678901234567890" in made
    assert b"1.50" in made
    assert b'{"a" : [1,  2]}' in made
    assert json.loads(made) == {**json.loads(body), "stream": True, "new": {"y": 1}}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"m","messages":[]}', b'{"model":""}'])
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(BadBody):
        read("chat", body)


@pytest.mark.parametrize(("prompt", "choices"), [("a", 2), (["a", "b"], 4), ([1, 2, 3], 2), ([[1], [2], [3]], 6)])
def test_how_many_answers_a_completion_has(prompt: Any, choices: int) -> None:
    asked = read("completion", json.dumps({"model": "m", "prompt": prompt, "n": 2}).encode())
    assert (asked.choices, asked.stream, asked.usage) == (choices, False, False)


def test_text_of_several_lines_is_one_event() -> None:
    assert _frame("a\nb", False) == b"data: a\ndata: b\n\n"
    assert _frame('a\n"', True) == b'data: "a\\n\\""\n\n'


def test_the_line_that_tells_most() -> None:
    lines = [
        "0.00.003 E gguf_init_from_reader: failed to read key-value pairs",
        "0.00.003 E llama_model_load: error loading model: llama_model_loader: failed to load model from x.gguf",
        "0.00.004 E srv    load_model: failed to load model, 'x.gguf'",
    ]
    assert reason_in(lines) == "failed to read key-value pairs"
    assert "download" in mend_for(reason_in(lines))
    assert reason_in(["0.0.1 E srv    init: the end."]) == "init: the end"
    assert reason_in(["CUDA error", "ggml: out of memory"]) == "out of memory"
    assert "context_length" in mend_for("out of memory")
    assert "may not read" in mend_for("failed to open GGUF file 'x'")
    assert reason_in([]) == mend_for("who knows") == ""


def test_ends_in_words() -> None:
    assert how_it_ended(3) == "exit status 3"
    assert "lacks an instruction" in how_it_ended(-signal.SIGILL)
    assert "memory" in how_it_ended(-signal.SIGKILL)
    assert how_it_ended(-signal.SIGKILL, out_of_memory=True) == "killed by the kernel: out of memory"
    assert how_it_ended(-signal.SIGSEGV, out_of_memory=True) == "SIGSEGV"
    assert how_it_ended(-signal.SIGSEGV) == "SIGSEGV"
    assert how_it_ended(-99) == "signal 99"


def test_a_command_leaves_out_what_is_unset() -> None:
    values = {"python": "py", "threads": None, "device_index": 1, "port": 0}
    command = ("{python}", "-u", "--threads", "{threads}", "--port={port}", "{threads}", "--on", "cuda:{device_index}")
    assert fill_command(command, values) == ("py", "-u", "--port=0", "--on", "cuda:1")
    with pytest.raises(KeyError):
        fill_command(("{nonsense}",), values)


def test_the_shipped_provider_is_pinned_for_every_platform_it_names() -> None:
    provider = llama_cpp()
    for install in provider.install:
        (line,) = install.requirements
        assert line.startswith(f"{provider.distribution}=={provider.version} --hash=sha256:")
        assert len(line.rpartition(":")[2]) == 64
    assert provider.install_for("linux-arm64") is provider.install[1]
    assert provider.install_for("plan9") is None
    assert binary_id(provider, "linux-x86_64") == "llama-cpp-2026.10.11549-linux-x86_64"
