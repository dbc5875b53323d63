# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's error bodies and the peek into a request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.contracts.openai import (
    RATE_LIMIT,
    SERVER_ERROR,
    BadBody,
    Peek,
    error_body,
    error_type,
    fields,
    peek,
    sse_error_frame,
)


def test_an_error_body_always_has_all_four_fields() -> None:
    assert json.loads(error_body('no "x"', RATE_LIMIT, "slow_down")) == {
        "error": {"message": 'no "x"', "type": "rate_limit_exceeded", "code": "slow_down", "param": None}
    }
    assert json.loads(error_body("m"))["error"]["type"] == "invalid_request_error"


def test_an_error_frame_is_one_event_whatever_the_message_holds() -> None:
    frame = sse_error_frame("a\n\nb\r\n", SERVER_ERROR, "worker_died")
    assert frame.startswith(b"data: {")
    assert frame.endswith(b"}\n\n")
    assert frame.count(b"\n") == 2
    assert json.loads(frame.removeprefix(b"data: "))["error"]["message"] == "a\n\nb\r\n"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (422, "invalid_request_error"),
        (429, "rate_limit_exceeded"),
        (500, "server_error"),
        (503, "service_unavailable_error"),
        (504, "timeout_error"),
    ],
)
def test_each_status_has_its_type(status: int, kind: str) -> None:
    assert error_type(status) == kind


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"{}", Peek(None, False)),
        (b'{"model": "m"}', Peek("m", False)),
        (b'{"stream": true, "messages": [{"model": 5, "stream": "x"}], "model": "m"}', Peek("m", True)),
        (b'{"model": null, "stream": null}', Peek(None, False)),
        (b'{"model": "a", "model": "b", "stream": true, "stream": false}', Peek("b", False)),
        (b'{"mod\\u0065l": "\\u8702"}', Peek("蜂", False)),
        (b' \n{"model": "m", "n": 1e999, "deep": [[[{}]]]} \n', Peek("m", False)),
    ],
)
def test_the_peek_finds_model_and_stream(body: bytes, found: Peek) -> None:
    seen = peek(body)
    assert (seen.model, seen.stream) == (found.model, found.stream)


def seen_in(**fields: object) -> Peek:
    return peek(json.dumps({"model": "m", **fields}).encode())


SYSTEM = {"role": "system", "content": "You are terse."}
FIRST = {"role": "user", "content": "Who are you?"}
LATER = [{"role": "assistant", "content": "Bee."}, {"role": "user", "content": "And who am I?"}]


@pytest.mark.parametrize(
    "lead",
    [
        [FIRST],
        [SYSTEM, FIRST],
        [{**SYSTEM, "role": "developer"}, FIRST],
        [{"role": "assistant", "content": "Hi"}, FIRST],
    ],
)
def test_all_turns_of_a_conversation_have_one_prefix_and_no_other_has_it(lead: list[dict[str, str]]) -> None:
    first, later = seen_in(messages=lead), seen_in(messages=[*lead, *LATER], stream=True, temperature=1)
    assert (first.messages, later.messages) == (len(lead), len(lead) + 2)
    assert first.prefix == later.prefix is not None
    other = [*lead[:-1], {"role": "user", "content": "Who are you!"}]
    assert seen_in(messages=other).prefix != first.prefix
    assert seen_in(messages=[{"role": "system", "content": "Sing."}, *lead]).prefix != first.prefix
    assert seen_in(messages=lead, system="Sing.").prefix != first.prefix
    assert seen_in(messages=lead, instructions="Sing.").prefix != first.prefix


def test_the_length_tells_leading_messages_apart_that_begin_alike() -> None:
    long = "x" * 10_000
    one, two = (seen_in(messages=[{"role": "user", "content": long + more}]).prefix for more in ("", "y"))
    assert one != two


def test_without_a_user_the_first_message_leads() -> None:
    lone = [{"role": "assistant", "content": "a"}]
    assert seen_in(messages=lone).prefix == seen_in(messages=[*lone, {"role": "tool", "content": "b"}]).prefix
    many = [{"role": "assistant", "content": str(n)} for n in range(20)]
    assert seen_in(messages=many).prefix == seen_in(messages=[*many, FIRST]).prefix


@pytest.mark.parametrize("name", ["prompt", "input"])
def test_a_prompt_has_a_prefix_of_its_first_characters(name: str) -> None:
    lead = "p" * 300
    assert seen_in(**{name: lead}).prefix == seen_in(**{name: lead + " more"}).prefix is not None
    assert seen_in(**{name: "q" + lead}).prefix != seen_in(**{name: lead}).prefix
    assert seen_in().prefix is None
    assert seen_in(messages=[]).prefix is None


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"tools": [{"type": "function"}]}, Peek("m", tools=True)),
        ({"tools": []}, Peek("m")),
        ({"tools": None}, Peek("m")),
        ({"max_tokens": 7}, Peek("m", max_tokens=7)),
        ({"max_tokens": 7, "max_completion_tokens": 9}, Peek("m", max_tokens=9)),
        ({"max_tokens": 7, "max_completion_tokens": None}, Peek("m", max_tokens=7)),
        ({"max_tokens": -1}, Peek("m")),
        ({"max_tokens": 1.5}, Peek("m")),
        ({"max_tokens": "7"}, Peek("m")),
        ({"max_tokens": 10**30}, Peek("m")),
    ],
)
def test_what_routing_asks_for_is_found(fields: dict[str, object], found: Peek) -> None:
    assert seen_in(**fields) == found


@pytest.mark.parametrize(
    ("content", "images"),
    [
        ([{"type": "image_url", "image_url": {"url": "data:..."}}], True),
        ([{"type": "text", "text": "a"}, {"type": "input_image"}], True),
        ([{"type": "image", "source": {}}], True),
        ([{"type": "text", "text": 'an "image" and {"type":"image_url"}'}], False),
        ('{"type": "image_url"}', False),
        (None, False),
        (5, False),
    ],
)
def test_images_are_seen_where_they_are_parts_of_a_message(content: object, images: bool) -> None:
    assert seen_in(messages=[FIRST, {"role": "user", "content": content}]).images is images
    assert seen_in(input=content).images is images
    assert not seen_in(messages=[{"role": "assistant", "tool_calls": []}]).images


@pytest.mark.parametrize("odd", [5, "x", {}, [1], [[]], ["x"], [None], True])
def test_an_odd_type_of_another_field_is_as_if_it_were_not_there(odd: object) -> None:
    seen = seen_in(messages=odd, stream=True)
    assert (seen.model, seen.stream, seen.prefix) == ("m", True, None)
    for field in ("tools", "max_tokens", "max_completion_tokens", "prompt", "input", "system", "instructions"):
        seen = seen_in(**{field: odd, "messages": [FIRST]})
        assert (seen.model, seen.messages) == ("m", 1)
    for part in ("role", "content"):
        assert seen_in(messages=[{**FIRST, part: odd}]).messages == 1


def test_a_body_made_of_countless_objects_is_not_taken_apart() -> None:
    body = b'{"model": "m", "stream": true, "messages": [' + b"{}," * 200_000 + b"{}]}"
    assert peek(body) == Peek("m", stream=True)
    text = "a { b " * 60_000
    assert seen_in(messages=[{"role": "user", "content": text}]).model == "m"
    assert seen_in(messages=[{"role": "user", "content": "x" * 300_000}]).messages == 1


@pytest.mark.parametrize(
    ("body", "code", "param", "says"),
    [
        (b"", "empty_body", None, "no body"),
        (b'{"model": "m",}', "invalid_json", None, "(byte 14)"),
        (b'{"model": "m"', "invalid_json", None, "truncated"),
        (b'{"model": "m"} x', "invalid_json", None, "(byte 16)"),
        (b'{"model": "\xff"}', "invalid_json", None, "valid JSON"),
        (b'{"model": "\\ud800"}', "invalid_json", None, "valid JSON"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None, "too deeply"),
        (b'["model"]', "invalid_type", None, "a JSON object, not an array"),
        (b"null", "invalid_type", None, "a JSON object, not null"),
        (b'"m"', "invalid_type", None, "a JSON object, not a string"),
        (b'{"model": 5}', "invalid_type", "model", "must be a string, not a number"),
        (b'{"model": {"a": "b"}}', "invalid_type", "model", "not an object"),
        (b'{"model": ""}', "invalid_value", "model", "is empty"),
        (b'{"model": "m", "stream": "true"}', "invalid_type", "stream", "true or false, not a string"),
        (b'{"model": "m", "stream": 1}', "invalid_type", "stream", "not a number"),
    ],
)
def test_a_bad_body_says_what_is_wrong_and_where(body: bytes, code: str, param: str | None, says: str) -> None:
    with pytest.raises(BadBody) as caught:
        peek(body)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert says in caught.value.message
    error = json.loads(caught.value.body())["error"]
    assert error == {"message": caught.value.message, "type": "invalid_request_error", "code": code, "param": param}


def test_all_fields_are_read_and_text_that_is_no_utf8_is_refused_wherever_it_is() -> None:
    assert fields(b'{"model": "m", "x": [1]}') == {"model": "m", "x": [1]}
    body = b'{"model": "m", "messages": [{"content": "\xff"}]}'
    assert peek(body).model == "m"
    for bad in (body, b"{nope", b'{"model": "m", "temperature": 1e999}'):
        with pytest.raises(BadBody) as caught:
            fields(bad)
        assert caught.value.code == "invalid_json"


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), _JSON, max_size=4), st.text(min_size=1) | st.none(), st.booleans(), st.booleans())
def test_whatever_else_a_request_holds_is_skipped(
    rest: dict[str, object], model: str | None, stream: bool, ascii_only: bool
) -> None:
    body = json.dumps({**rest, "model": model, "stream": stream}, ensure_ascii=ascii_only)
    seen = peek(body.encode("utf-8", "surrogatepass"))
    assert (seen.model, seen.stream) == (model, stream)


_NAMES = st.sampled_from(
    ["messages", "tools", "prompt", "input", "system", "instructions", "max_tokens", "max_completion_tokens"]
)
_TURNS = st.lists(st.dictionaries(st.sampled_from(["role", "content", "name"]), _JSON, max_size=3), max_size=4)


@given(st.dictionaries(_NAMES, _JSON | _TURNS, max_size=6))
def test_whatever_the_looked_at_fields_hold_nothing_is_refused_for_it(fields: dict[str, object]) -> None:
    body = json.dumps({"model": "m", "stream": True, **fields}).encode()
    seen = peek(body)
    assert (seen.model, seen.stream) == ("m", True)
    assert seen == peek(bytes(body))
    turns = fields.get("messages")
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        assert seen.messages == len(turns)


@given(st.binary())
def test_no_bytes_raise_anything_but_bad_body(body: bytes) -> None:
    try:
        assert isinstance(peek(body), Peek)
    except BadBody as error:
        assert error.message
