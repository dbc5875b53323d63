# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's wire words: error bodies, and what of a request's body we look at."""

from __future__ import annotations

import re
from typing import Any, Final
from zlib import crc32

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
#: The `error.code` of a worker whose engine ended under the request.
ENGINE_DIED: Final = "engine_died"

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


_NONE: Final = msgspec.Raw()


class _Wire(msgspec.Struct):
    """What must be right."""

    model: str | None = None
    stream: bool | None = None


class _Turn(msgspec.Struct, gc=False):
    role: msgspec.Raw = _NONE
    content: msgspec.Raw = _NONE


class _Whole(_Wire):
    """And what is looked at when it has the common shape. A `Raw` is a view of the body, not a copy."""

    messages: list[_Turn] | None = None
    prompt: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE
    #: What a conversation begins with in the words of Anthropic and of the Responses API.
    system: msgspec.Raw = _NONE
    instructions: msgspec.Raw = _NONE
    tools: msgspec.Raw = _NONE
    max_tokens: msgspec.Raw = _NONE
    max_completion_tokens: msgspec.Raw = _NONE


_wire: Final = msgspec.json.Decoder(_Wire)
_whole: Final = msgspec.json.Decoder(_Whole)

#: A body larger than this, with more objects in it than that, is nobody's conversation: it is not taken apart.
_LARGE, _OBJECTS = 256 * 1024, 50_000
#: How much of a leading message tells it from others, and of a prompt: about 256 characters.
_HASHED, _PROMPT = 2048, 256
#: Among so many messages the first one of the user is looked for.
_LEADING = 8
_SYSTEM: Final = (b'"system"', b'"developer"')
_IMAGE: Final = re.compile(rb'"type"[ \t\r\n]*:[ \t\r\n]*"(?:image_url|input_image|image)"')
_NOTHING: Final = (b"", b"null", b"[]", b"{}")
_LIST: Final = ord("[")


def peek(body: bytes) -> Peek:
    """Reads `model` and `stream`, and a few facts that routing asks for; the bytes stay untouched.

    The whole body is checked to be JSON, at about memory speed. A key given twice counts with its last
    value, as for the engines. Raises BadBody: not JSON (with the position), not an object, a `model` that is
    no string or is empty, a `stream` that is no boolean. Nothing else is refused: what has an odd type is as if
    it were not there.
    """
    if not body:
        raise BadBody("The request has no body; a JSON object is needed.", "empty_body")
    try:
        found = _decoded(body)
    except msgspec.ValidationError as error:
        raise _bad_field(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = str(error).removeprefix("JSON is malformed: ")
        raise BadBody(f"The request body is not valid JSON: {why}.", "invalid_json") from error
    except RecursionError as error:
        raise BadBody("The request body is nested too deeply.", "invalid_json") from error
    if found.model == "":
        raise BadBody("`model` is empty; give the name of a model.", "invalid_value", "model")
    if type(found) is not _Whole:
        return Peek(found.model, bool(found.stream))
    tools, most, at_most = found.tools, found.max_completion_tokens, found.max_tokens
    return Peek(
        found.model,
        bool(found.stream),
        len(found.messages) if found.messages else 0,
        _prefix(found),
        tools is not _NONE and _begins(tools, 5) not in _NOTHING,
        _has_images(found),
        (_number(most) if most is not _NONE else None) or (_number(at_most) if at_most is not _NONE else None),
    )


def _decoded(body: bytes) -> _Wire:
    if len(body) <= _LARGE or body.count(b"{") <= _OBJECTS:
        try:
            return _whole.decode(body)
        except msgspec.ValidationError:
            pass  # perhaps of a field that does not matter
    return _wire.decode(body)


def _prefix(found: _Whole) -> int | None:
    """A checksum of what all turns of a conversation begin with: instructions, the system's message, the first of the
    user. The same in every process."""
    seen, turns = 0, found.messages
    if turns:
        for turn in turns if len(turns) <= _LEADING else turns[:_LEADING]:
            role = _begins(turn.role, 12)
            if role in _SYSTEM:
                seen = _checksum(turn.content, seen)
            elif role == b'"user"':
                seen = _checksum(turn.content, seen)
                break
        else:
            seen = _checksum(turns[0].content, seen)
    elif found.prompt is not _NONE:
        seen = crc32(memoryview(found.prompt)[:_PROMPT])
    elif found.input is not _NONE:
        seen = crc32(memoryview(found.input)[:_PROMPT])
    else:
        return None
    if found.system is not _NONE:
        seen = _checksum(found.system, seen)
    if found.instructions is not _NONE:
        seen = _checksum(found.instructions, seen)
    return seen


def _checksum(text: msgspec.Raw, before: int) -> int:
    """Of its first bytes and its length, after what came `before`."""
    view = memoryview(text)
    return crc32(view[:_HASHED], before ^ len(view))


def _has_images(found: _Whole) -> bool:
    """Whether a part of a message, or of the Responses API's input, is an image."""
    if found.messages:
        return any(turn.content is not _NONE and _images_in(turn.content) for turn in found.messages)
    return found.input is not _NONE and _images_in(found.input)


def _images_in(content: msgspec.Raw) -> bool:
    view = memoryview(content)
    return view[0] == _LIST and _IMAGE.search(view) is not None


def _begins(text: msgspec.Raw, length: int) -> bytes:
    return bytes(memoryview(text)[:length])


def _number(text: msgspec.Raw) -> int | None:
    view = memoryview(text)
    said = bytes(view) if len(view) < 10 else b""
    return int(said) if said.isdigit() else None


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
