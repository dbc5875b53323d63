# SPDX-License-Identifier: GPL-3.0-or-later
"""What OpenAI's servers refuse and engines let pass: checked before a request reaches the engine.

Only what is known to be wrong is refused; fields that nobody here knows go through untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
MAX_STOPS: Final = 4


class Refused(ValueError):
    """The request cannot be served as it is: answer 400 with `message`, `param` and `code`."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


def check_chat(fields: Mapping[str, Any]) -> None:
    """Checks the body of `/v1/chat/completions`. Raises Refused."""
    _common(fields)
    messages = fields.get("messages")
    if messages is None:
        raise Refused("`messages` is missing.", "messages", "missing_required_parameter")
    if not isinstance(messages, list):
        raise Refused(f"`messages` must be an array, not {_kind(messages)}.", "messages", "invalid_type")
    if not messages:
        raise Refused("`messages` is empty; give at least one message.", "messages", "empty_array")
    for i, message in enumerate(messages):
        _message(message, f"messages[{i}]")


def check_completion(fields: Mapping[str, Any]) -> None:
    """Checks the body of `/v1/completions`. Raises Refused."""
    _common(fields)
    prompt = fields.get("prompt")
    if prompt is None:
        raise Refused("`prompt` is missing.", "prompt", "missing_required_parameter")
    if not isinstance(prompt, (str, list)):
        raise Refused(f"`prompt` must be a string or an array, not {_kind(prompt)}.", "prompt", "invalid_type")
    if prompt == []:
        raise Refused("`prompt` is an empty array.", "prompt", "empty_array")


def check_embedding(fields: Mapping[str, Any], width: int | None) -> None:
    """Checks the body of `/v1/embeddings`; `width` is how many numbers the model's embeddings have. Raises Refused."""
    _model(fields)
    given = fields.get("input")
    if given is None:
        raise Refused("`input` is missing.", "input", "missing_required_parameter")
    if not isinstance(given, (str, list)):
        raise Refused(f"`input` must be a string or an array, not {_kind(given)}.", "input", "invalid_type")
    if given in ("", []) or (isinstance(given, list) and any(item in ("", []) for item in given)):
        raise Refused("`input` has nothing in it, or an item of it has not.", "input", "empty_array")
    encoding = fields.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise Refused("`encoding_format` must be float or base64.", "encoding_format")
    _whole(fields, "dimensions", 1)
    wanted = fields.get("dimensions")
    if wanted is not None and width and wanted != width:
        raise Refused(
            f"This model's embeddings have {width} dimensions, and not {wanted}: leave `dimensions` out.",
            "dimensions",
            "not_supported",
        )


def check_rerank(fields: Mapping[str, Any]) -> None:
    """Checks the body of `/v1/rerank`. Raises Refused."""
    _model(fields)
    query = fields.get("query")
    if query is None:
        raise Refused("`query` is missing.", "query", "missing_required_parameter")
    if not isinstance(query, str):
        raise Refused(f"`query` must be a string, not {_kind(query)}.", "query", "invalid_type")
    documents = fields.get("documents")
    if documents is None:
        raise Refused("`documents` is missing.", "documents", "missing_required_parameter")
    if not isinstance(documents, list) or not all(isinstance(d, str) for d in documents):
        raise Refused("`documents` must be an array of strings.", "documents", "invalid_type")
    if not documents:
        raise Refused("`documents` is empty; give at least one.", "documents", "empty_array")
    _whole(fields, "top_n", 1)


def check_infer(fields: Mapping[str, Any], context: int | None) -> None:
    """Checks the body of `/v1/infer`; `context` is the longest answer that can be. Raises Refused."""
    prompt = fields.get("prompt")
    if prompt is None:
        raise Refused("`prompt` is missing.", "prompt", "missing_required_parameter")
    if not isinstance(prompt, str):
        raise Refused(f"`prompt` must be a string, not {_kind(prompt)}.", "prompt", "invalid_type")
    if not 1 <= len(prompt) <= 32768:
        raise Refused("`prompt` must have 1 to 32768 characters.", "prompt")
    _whole(fields, "max_tokens", 1, context)
    for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("min_p", 0, 1), ("repetition_penalty", 0, None)):
        _number(fields, name, low, high)
    _whole(fields, "top_k", 0)
    _whole(fields, "seed")
    _boolean(fields, "stream")
    _stops(fields)


def _model(fields: Mapping[str, Any]) -> None:
    model = fields.get("model")
    if model is None:
        raise Refused("`model` is missing: name the model to ask.", "model", "missing_required_parameter")
    if not isinstance(model, str):
        raise Refused(f"`model` must be a string, not {_kind(model)}.", "model", "invalid_type")


def _common(fields: Mapping[str, Any]) -> None:
    _model(fields)
    for name in ("stream", "logprobs" if "messages" in fields else "echo", "parallel_tool_calls"):
        _boolean(fields, name)
    _number(fields, "temperature", 0, 2)
    _number(fields, "top_p", 0, 1)
    _number(fields, "frequency_penalty", -2, 2)
    _number(fields, "presence_penalty", -2, 2)
    _whole(fields, "n", 1, 128)
    _whole(fields, "max_tokens", 1)
    _whole(fields, "max_completion_tokens", 1)
    _whole(fields, "top_logprobs", 0, 20)
    _whole(fields, "seed")
    _stops(fields)
    for name, kind in (("tools", list), ("stream_options", dict), ("response_format", dict), ("logit_bias", dict)):
        value = fields.get(name)
        if value is not None and not isinstance(value, kind):
            wanted = "an array" if kind is list else "an object"
            raise Refused(f"`{name}` must be {wanted}, not {_kind(value)}.", name, "invalid_type")


def _message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise Refused(f"`{where}` must be an object, not {_kind(message)}.", where, "invalid_type")
    role = message.get("role")
    if role is None:
        raise Refused(f"`{where}.role` is missing.", f"{where}.role", "missing_required_parameter")
    if role not in ROLES:
        raise Refused(f"`{where}.role` is {role!r}; it must be one of {', '.join(ROLES)}.", f"{where}.role")
    content = message.get("content")
    if content is None and role not in ("assistant", "function", "tool"):
        raise Refused(f"`{where}.content` is missing.", f"{where}.content", "missing_required_parameter")
    if content is not None and not isinstance(content, (str, list)):
        raise Refused(
            f"`{where}.content` must be a string or an array, not {_kind(content)}.", f"{where}.content", "invalid_type"
        )


def _stops(fields: Mapping[str, Any]) -> None:
    stop = fields.get("stop")
    if stop is None or isinstance(stop, str):
        return
    if not isinstance(stop, list) or not all(isinstance(s, str) for s in stop):
        raise Refused("`stop` must be a string or an array of strings.", "stop", "invalid_type")
    if len(stop) > MAX_STOPS:
        raise Refused(
            f"`stop` has {len(stop)} entries; at most {MAX_STOPS} are allowed.", "stop", "array_above_max_length"
        )


def _boolean(fields: Mapping[str, Any], name: str) -> None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(f"`{name}` must be true or false, not {_kind(value)}.", name, "invalid_type")


def _number(fields: Mapping[str, Any], name: str, low: float | None = None, high: float | None = None) -> None:
    _within(fields, name, low, high, lambda v: isinstance(v, (int, float)) and not isinstance(v, bool), "a number")


def _whole(fields: Mapping[str, Any], name: str, low: float | None = None, high: float | None = None) -> None:
    _within(fields, name, low, high, lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number")


def _within(
    fields: Mapping[str, Any],
    name: str,
    low: float | None,
    high: float | None,
    fits: Callable[[Any], bool],
    wanted: str,
) -> None:
    value = fields.get(name)
    if value is None:
        return
    if not fits(value):
        got = f"the number {value}" if isinstance(value, float) else _kind(value)
        raise Refused(f"`{name}` must be {wanted}, not {got}.", name, "invalid_type")
    # Written so that NaN, which some clients' JSON may carry, fails too.
    if low is not None and not value >= low:
        raise Refused(f"`{name}` is {value}; it must be at least {low}.", name, f"{_code(wanted)}_below_min_value")
    if high is not None and not value <= high:
        raise Refused(f"`{name}` is {value}; it must be at most {high}.", name, f"{_code(wanted)}_above_max_value")


def _code(wanted: str) -> str:
    return "integer" if "whole" in wanted else "decimal"


def _kind(value: Any) -> str:
    """What JSON calls the type of `value`, with its article."""
    if isinstance(value, bool):
        return "a boolean"
    names: tuple[tuple[Any, str], ...] = (
        (str, "a string"), ((int, float), "a number"), (list, "an array"), (dict, "an object"),
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "null")
