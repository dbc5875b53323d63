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
    assert peek(body) == found


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
    assert peek(body.encode("utf-8", "surrogatepass")) == Peek(model, stream)


@given(st.binary())
def test_no_bytes_raise_anything_but_bad_body(body: bytes) -> None:
    try:
        assert isinstance(peek(body), Peek)
    except BadBody as error:
        assert error.message
