# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's words made OpenAI's: error bodies, progress events, the counts at a stream's end. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from rbee.contracts import openai

_PROGRESS = b'"prompt_progress":{'
_COUNTS = {
    name: re.compile(rb'"' + name.encode() + rb'":\s*([0-9.]+)')
    for name in (
        "predicted_n",
        "predicted_ms",
        "prompt_n",
        "cache_n",
        "completion_tokens",
        "prompt_tokens",
        "output_tokens",
    )
}
#: llama.cpp's error types that have another name at OpenAI: (type, code).
_TYPES = {
    "exceed_context_size_error": (openai.INVALID_REQUEST, "context_length_exceeded"),
    "not_supported_error": (openai.INVALID_REQUEST, "not_supported"),
    "unavailable_error": (openai.OVERLOADED, "model_loading"),
    "server_error": (openai.SERVER_ERROR, "engine_error"),
}

#: What llama.cpp calls its own fault, though the request asks for what this model cannot.
_ASKED_TOO_MUCH = re.compile(r"(image|audio|video) input is not supported")

#: And where it cannot make sense of what the request says.
_UNREADABLE = re.compile(r"Failed to parse (tools|messages|tool call arguments)\b")

#: What it says of an input that is longer than one step, where all of it must be in one.
_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large to process\..*current batch size: (\d+)")

#: The field that holds the prompt, where it is not `messages`.
_PROMPTS = {
    "/v1/completions": "prompt",
    "/v1/responses": "input",
    "/v1/embeddings": "input",
    "/v1/rerank": "documents",
}
_ABOUT_THE_PROMPT = ("context_length_exceeded", "not_supported")


class EngineError(Exception):
    """The engine's refusal, as the client gets it."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Tokens of a finished answer and the seconds its generation took; zeros where the engine did not say."""

    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0


def engine_error(status: int, body: bytes, path: str = "/v1/chat/completions") -> EngineError:
    """OpenAI's error body for what the engine answered with `status` at `path`, or sent as an event."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        words = body[:500].decode("utf-8", "replace").strip() or "The engine gave no reason."
        return EngineError(status, openai.error_body(words, openai.error_type(status), "engine_error"))
    kind = str(error.get("type") or openai.error_type(status))
    code = error.get("code")
    named = code if isinstance(code, str) else None
    kind, named = _TYPES.get(kind, (kind, named or ("engine_error" if status >= 500 else None)))
    message = str(error.get("message", ""))
    if found := _ASKED_TOO_MUCH.match(message):
        message = f"This model reads no {found[1]}."
        status, kind, named = 400, openai.INVALID_REQUEST, "not_supported"
    if found := _TOO_LONG.match(message):
        message = f"An input has {found[1]} tokens; this worker takes at most {found[2]} in one."
        status, kind, named = 400, openai.INVALID_REQUEST, "context_length_exceeded"
    param = _PROMPTS.get(path, "messages") if named in _ABOUT_THE_PROMPT else error.get("param")
    if status == 500 and (found := _UNREADABLE.match(message)):
        status, kind, named = 400, openai.INVALID_REQUEST, "invalid_value"
        param = "tools" if found[1] == "tools" else _PROMPTS.get(path, "messages")
    return EngineError(status, openai.error_body(message, kind, named, param))


def is_chatter(data: bytes) -> bool:
    """Whether an event is of no use to a client: prompt progress, or the `null` that llama.cpp sends for it.

    In text the quotes would be escaped, so the bytes can only be the field itself.
    """
    return _PROGRESS in data or data.strip() == b"null"


def renamed(frame: bytes, served: bytes, asked: bytes) -> bytes:
    """`frame` with the model's name as the client knows it; both names are JSON texts."""
    return frame.replace(b'"model":' + served, b'"model":' + asked, 1)


def counts_in(tail: bytes) -> Counts:
    """Counts from the last bytes of a stream (`timings`, else `usage`); the last mention of each is taken."""
    found: dict[str, float] = {}
    for name, pattern in _COUNTS.items():
        if hits := pattern.findall(tail):
            found[name] = float(hits[-1])
    if "predicted_n" not in found:
        return Counts(
            prompt_tokens=int(found.get("prompt_tokens", 0)),
            tokens=int(found.get("completion_tokens", found.get("output_tokens", 0))),
        )
    return Counts(
        prompt_tokens=int(found.get("prompt_n", 0) + found.get("cache_n", 0)),
        tokens=int(found["predicted_n"]),
        seconds=found.get("predicted_ms", 0.0) / 1000,
    )


def counts_of(timings: list[dict[str, Any]], usage: dict[str, Any] | None) -> Counts:
    """Counts of a folded answer; `timings` has one entry for each choice."""
    if not timings:
        usage = usage or {}
        return Counts(prompt_tokens=int(usage.get("prompt_tokens", 0)), tokens=int(usage.get("completion_tokens", 0)))
    last = timings[-1]
    return Counts(
        prompt_tokens=int(last.get("prompt_n", 0)) + int(last.get("cache_n", 0)),
        tokens=sum(int(t.get("predicted_n", 0)) for t in timings),
        seconds=sum(float(t.get("predicted_ms", 0.0)) for t in timings) / 1000,
    )
