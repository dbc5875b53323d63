# SPDX-License-Identifier: GPL-3.0-or-later
"""Folds a stream of chunks into the one object that a client who did not ask for a stream gets. Pure."""

from __future__ import annotations

from typing import Any

from rbee.daemons.worker.bodies import Kind

_OBJECT = {"chat": "chat.completion", "completion": "text_completion"}
#: Top-level fields of chunks that are not the answer's own.
_NOT_KEPT = frozenset({"choices", "object", "usage", "timings", "prompt_progress", "model"})


class Fold:
    """Takes chunks in the order they came, any number of choices interleaved; `result` is valid at any time."""

    def __init__(self, kind: Kind, model: str) -> None:
        self._kind = kind
        self._model = model
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: list[dict[str, Any]] = []
        self.timings: list[dict[str, Any]] = []

    def add(self, chunk: dict[str, Any]) -> None:
        """One chunk: the JSON of one event."""
        for delta in chunk.get("choices") or ():
            index = int(delta.get("index", 0))
            self._choices.setdefault(index, _Choice()).add(delta)
        self.add_counts(chunk)

    def add_counts(self, chunk: dict[str, Any]) -> bool:
        """Takes only the chunk's counts (and its head); whether it has nothing else."""
        self._head.update((k, v) for k, v in chunk.items() if k not in _NOT_KEPT)
        if chunk.get("usage"):
            self._usage.append(chunk["usage"])
        if chunk.get("timings"):
            self.timings.append(chunk["timings"])
        return not chunk.get("choices")

    @property
    def usage(self) -> dict[str, Any] | None:
        """Of all choices together (the engine counts each by itself); the prompt of one counts once."""
        if not self._usage:
            return None
        last = self._usage[-1]
        answered = sum(int(u.get("completion_tokens", 0)) for u in self._usage)
        asked = max(int(u.get("prompt_tokens", 0)) for u in self._usage)
        return {**last, "completion_tokens": answered, "prompt_tokens": asked, "total_tokens": asked + answered}

    def result(self) -> dict[str, Any]:
        """The whole object."""
        made: dict[str, Any] = {
            **self._head,
            "object": _OBJECT[self._kind],
            "model": self._model,
            "choices": [self._choices[i].result(i, self._kind) for i in sorted(self._choices)],
        }
        if (usage := self.usage) is not None:
            made["usage"] = usage
        if self.timings:
            made["timings"] = self.timings[-1]
        return made


class _Choice:
    """One answer being put together."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._other: dict[str, Any] = {}
        self._tools: dict[int, dict[str, Any]] = {}
        self._logprobs: dict[str, Any] | None = None
        self._finish: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice["delta"] if "delta" in choice else {"text": choice.get("text")}
        for name, value in (delta or {}).items():
            if name == "tool_calls":
                for call in value or ():
                    _join_call(self._tools.setdefault(int(call.get("index", 0)), {}), call)
            elif name == "role":
                self._other[name] = value
            elif isinstance(value, str):
                self._texts.setdefault(name, []).append(value)
            elif value is not None:
                self._other[name] = value
        if choice.get("logprobs") is not None:
            self._logprobs = _join_lists(self._logprobs, choice["logprobs"])
        self._finish = choice.get("finish_reason") or self._finish

    def result(self, index: int, kind: Kind) -> dict[str, Any]:
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        if kind == "completion":
            return {
                "text": texts.get("text", ""),
                "index": index,
                "logprobs": self._logprobs,
                "finish_reason": self._finish,
            }
        message: dict[str, Any] = {"role": "assistant", **self._other, **texts}
        message["content"] = texts.get("content", None if self._tools else "")
        if self._tools:
            message["tool_calls"] = [self._tools[i] for i in sorted(self._tools)]
        return {"index": index, "message": message, "logprobs": self._logprobs, "finish_reason": self._finish}


def _join_call(whole: dict[str, Any], part: dict[str, Any]) -> None:
    """Adds a piece of a tool call: names and ids come once, arguments in pieces."""
    for name, value in part.items():
        if name == "index" or value is None:
            continue
        if name == "function":
            function = whole.setdefault("function", {"name": "", "arguments": ""})
            function["name"] = value.get("name") or function["name"]
            function["arguments"] += value.get("arguments") or ""
        else:
            whole[name] = value


def _join_lists(whole: dict[str, Any] | None, part: dict[str, Any]) -> dict[str, Any]:
    joined = dict(whole or {})
    for name, value in part.items():
        old = joined.get(name)
        joined[name] = [*old, *value] if isinstance(old, list) and isinstance(value, list) else value
    return joined
