# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's wire words: error bodies, and the two fields of a request that we look at."""

from __future__ import annotations

from typing import Any, Final

import msgspec

# The values of `error.type` that OpenAI's servers send.
INVALID_REQUEST: Final = "invalid_request_error"
AUTHENTICATION: Final = "authentication_error"
PERMISSION: Final = "permission_error"
NOT_FOUND: Final = "not_found_error"
RATE_LIMIT: Final = "rate_limit_exceeded"
INSUFFICIENT_QUOTA: Final = "insufficient_quota"
SERVER_ERROR: Final = "server_error"
OVERLOADED: Final = "service_unavailable_error"
TIMEOUT_ERROR: Final = "timeout_error"

_TYPE_OF_STATUS: Final = {
    401: AUTHENTICATION,
    403: PERMISSION,
    404: NOT_FOUND,
    429: RATE_LIMIT,
    503: OVERLOADED,
    504: TIMEOUT_ERROR,
}


def error_type(status: int) -> str:
    """The `type` that goes with an HTTP status when nothing more is known."""
    return _TYPE_OF_STATUS.get(status, INVALID_REQUEST if 400 <= status < 500 else SERVER_ERROR)


def error_object(
    message: str, type: str = INVALID_REQUEST, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """`{"error": {"message", "type", "code", "param"}}` as a dict."""
    return {"error": {"message": message, "type": type, "code": code, "param": param}}


def error_body(message: str, type: str = INVALID_REQUEST, code: str | None = None, param: str | None = None) -> bytes:
    """OpenAI's error body, as JSON."""
    return msgspec.json.encode(error_object(message, type, code, param))


def sse_error_frame(message: str, type: str = SERVER_ERROR, code: str | None = None, param: str | None = None) -> bytes:
    """The frame that ends a stream of events badly; no `[DONE]` follows it."""
    return b"data: " + error_body(message, type, code, param) + b"\n\n"


class BadBody(ValueError):
    """A request body that cannot be a request; `message`, `code` and `param` are those of the 400 to answer."""

    def __init__(self, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> bytes:
        """The body of the 400."""
        return error_body(self.message, INVALID_REQUEST, self.code, self.param)


class Peek(msgspec.Struct, frozen=True):
    """What the edge reads of a request; everything else is the engine's."""

    #: None when the body names none (or null).
    model: str | None = None
    stream: bool = False
    #: How many messages there are.
    messages: int = 0
    #: Of the leading messages: the same for all turns of one conversation. None where there are none.
    prefix: int | None = None
    tools: bool = False
    images: bool = False
    max_tokens: int | None = None


class _Wire(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None


_decoder: Final = msgspec.json.Decoder(_Wire)


def peek(body: bytes) -> Peek:
    """Reads `model` and `stream` and skips the rest; the bytes stay untouched.

    The whole body is checked to be JSON, at about memory speed. A key given twice counts with its last
    value, as for the engines. Raises BadBody: not JSON (with the position), not an object, a `model` that is
    no string or is empty, a `stream` that is no boolean.
    """
    if not body:
        raise BadBody("The request has no body; a JSON object is needed.", "empty_body")
    try:
        found = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _bad_field(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = str(error).removeprefix("JSON is malformed: ")
        raise BadBody(f"The request body is not valid JSON: {why}.", "invalid_json") from error
    except RecursionError as error:
        raise BadBody("The request body is nested too deeply.", "invalid_json") from error
    if found.model == "":
        raise BadBody("`model` is empty; give the name of a model.", "invalid_value", "model")
    return Peek(found.model, bool(found.stream))


def fields(body: bytes) -> dict[str, Any]:
    """All fields of a body, for who checks them. Raises BadBody, also for what `peek` skipped: text that is not UTF-8,
    a number beyond any."""
    peek(body)
    try:
        found: dict[str, Any] = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise BadBody("The request body is not valid JSON: a text in it is not UTF-8.", "invalid_json") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadBody(f"The request body cannot be read: {error}.", "invalid_json") from error
    return found


def _bad_field(message: str) -> BadBody:
    """`message` is msgspec's: "Expected `str | null`, got `int` - at `$.model`"."""
    got = message.partition("got `")[2].partition("`")[0]
    for field, wanted in (("model", "a string"), ("stream", "true or false")):
        if message.endswith(f"`$.{field}`"):
            return BadBody(f"`{field}` must be {wanted}, not {_AS_JSON.get(got, got)}.", "invalid_type", field)
    return BadBody(f"The request body must be a JSON object, not {_AS_JSON.get(got, got)}.", "invalid_type")


_AS_JSON: Final = {
    "int": "a number",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
