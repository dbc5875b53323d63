# SPDX-License-Identifier: GPL-3.0-or-later
"""Folds the event streams of `/v1/responses` and of Anthropic's `/v1/messages` into their one object. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class EventFold(Protocol):
    """Takes the events in their order. `result` is None until the answer is whole."""

    result: dict[str, Any] | None

    def add(self, event: dict[str, Any]) -> None: ...


class ResponseFold:
    """OpenAI's responses: the last event holds the whole."""

    def __init__(self) -> None:
        self.result: dict[str, Any] | None = None

    def add(self, event: dict[str, Any]) -> None:
        if event.get("type") in ("response.completed", "response.incomplete", "response.failed"):
            self.result = event["response"]


class MessageFold:
    """Anthropic's messages: blocks of text, thought and tool calls, each from its pieces."""

    #: Kind of piece: where it is in the delta, and where it goes in the block.
    _PIECES: Mapping[str, tuple[str, str]] = {
        "text_delta": ("text", "text"),
        "thinking_delta": ("thinking", "thinking"),
        "signature_delta": ("signature", "signature"),
        "input_json_delta": ("partial_json", "_json"),
    }

    def __init__(self) -> None:
        self.result: dict[str, Any] | None = None
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}

    def add(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "message_start":
            self._message = dict(event["message"])
        elif kind == "content_block_start":
            self._blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta":
            delta, block = event["delta"], self._blocks.setdefault(event["index"], {})
            if (piece := self._PIECES.get(delta.get("type"))) is not None:
                block[piece[1]] = block.get(piece[1], "") + delta[piece[0]]
        elif kind == "message_delta":
            self._message.update(event["delta"])
            self._message["usage"] = {**self._message.get("usage", {}), **event.get("usage", {})}
        elif kind == "message_stop":
            self._message["content"] = [_whole(self._blocks[i]) for i in sorted(self._blocks)]
            self.result = self._message


def _whole(block: dict[str, Any]) -> dict[str, Any]:
    """A block with the input of a tool call read from its JSON."""
    made = {name: value for name, value in block.items() if name != "_json"}
    if "_json" in block:
        made["input"] = json.loads(block["_json"] or "{}")
    return made


EVENT_FOLDS: Mapping[str, Callable[[], EventFold]] = {"/v1/responses": ResponseFold, "/v1/messages": MessageFold}


def tokens_in(result: Mapping[str, Any]) -> tuple[int, int]:
    """Prompt and answer tokens by the `usage` of either kind."""
    usage = result.get("usage") or {}
    read = int(usage.get("input_tokens", 0)) + int(usage.get("cache_read_input_tokens", 0))
    return read, int(usage.get("output_tokens", 0))
