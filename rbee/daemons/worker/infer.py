# SPDX-License-Identifier: GPL-3.0-or-later
"""`POST /v1/infer`: one prompt, the answer's text as it comes. The plain way; programs use the OpenAI paths."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from rbee.adapters.splice import Splice
from rbee.contracts import codec, openai
from rbee.contracts.configs import WorkerConfig
from rbee.core import sampling
from rbee.core.errors import Unavailable
from rbee.daemons.app import Route
from rbee.daemons.worker.asking import ENGINE_DIED, BadEnd, before_first_byte, events, last_frame, noticing, opened
from rbee.daemons.worker.fold import Fold
from rbee.daemons.worker.state import WorkerState
from rbee.daemons.worker.supervisor import Supervisor
from rbee.daemons.worker.words import EngineError, counts_of

DEFAULT_TEMPERATURE = 0.7
_TAKEN = ("max_tokens", "top_p", "top_k", "min_p", "stop", "seed")


class InferFace:
    """`chat`: the model has a chat template, so the prompt is a user's message; else it is text to go on with."""

    def __init__(
        self, config: WorkerConfig, state: WorkerState, supervisor: Supervisor, splice: Splice, *, chat: bool
    ) -> None:
        self._config = config
        self._state = state
        self._supervisor = supervisor
        self._splice = splice
        self._chat = chat and "/v1/chat/completions" in config.provider.paths

    def routes(self) -> list[Route]:
        return [Route("POST", "/v1/infer", self.infer)]

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """Streams unless `stream` is false: then one object with `text`, `finish_reason`, `tokens`."""
        body = await request.read()
        try:
            fields = openai.fields(body)
            sampling.check_infer(fields, self._state.context_length)
        except openai.BadBody as e:
            return web.Response(body=e.body(), status=400, content_type="application/json")
        except sampling.Refused as e:
            refused = openai.error_body(e.message, openai.INVALID_REQUEST, e.code, e.param)
            return web.Response(body=refused, status=400, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        try:
            with self._state.request(), noticing(request):
                return await self._answer(request, response, fields)
        except BadEnd as e:
            self._state.errors += getattr(e, "status", 500) >= 500
            if response.prepared:
                await response.write(last_frame(e))
                return response
            if isinstance(e, EngineError):
                return web.Response(body=e.body, status=e.status, content_type="application/json")
            raise before_first_byte(e) from None
        except Unavailable as e:
            self._state.errors += e.code == ENGINE_DIED
            raise

    async def _answer(
        self, request: web.Request, response: web.StreamResponse, fields: dict[str, Any]
    ) -> web.StreamResponse:
        target, body = self._engine_request(fields)
        fold = Fold("chat" if self._chat else "completion", self._config.model)
        streamed = fields.get("stream", True) is not False
        as_json = "application/json" in request.headers.get("Accept", "")
        async with opened(self._splice, self._supervisor.serving(), target, body) as answer:
            async for event in events(answer):
                chunk = json.loads(event.data)
                fold.add(chunk)
                text = _text(chunk)
                if text and streamed:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(_frame(text, as_json))
        counts = counts_of(fold.timings, fold.usage)
        self._state.count(counts.prompt_tokens, counts.tokens, counts.seconds)
        if streamed:
            if not response.prepared:
                await response.prepare(request)
            await response.write(b"data: [DONE]\n\n")
            return response
        return web.Response(body=codec.encode(self._object(fold, counts.tokens)), content_type="application/json")

    def _engine_request(self, fields: dict[str, Any]) -> tuple[str, bytes]:
        """Path and body of the engine's request."""
        sent: dict[str, Any] = {name: fields[name] for name in _TAKEN if fields.get(name) is not None}
        temperature = fields.get("temperature")
        sent |= {
            "model": self._config.model,
            "temperature": DEFAULT_TEMPERATURE if temperature is None else temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if fields.get("repetition_penalty") is not None:
            sent["repeat_penalty"] = fields["repetition_penalty"]
        sent |= {name: json.loads(text) for name, text in self._config.provider.overrides.items()}
        if self._chat:
            sent["messages"] = [{"role": "user", "content": fields["prompt"]}]
            return "/v1/chat/completions", codec.encode(sent)
        sent["prompt"] = fields["prompt"]
        return "/v1/completions", codec.encode(sent)

    def _object(self, fold: Fold, tokens: int) -> dict[str, Any]:
        choice = (fold.result()["choices"] or [{}])[0]
        text = choice.get("text", (choice.get("message") or {}).get("content", ""))
        return {
            "model": self._config.model,
            "worker_id": self._config.worker_id,
            "text": text,
            "finish_reason": choice.get("finish_reason"),
            "tokens": tokens,
        }


def _text(chunk: dict[str, Any]) -> str:
    choices = chunk.get("choices") or [{}]
    delta = choices[0].get("delta")
    found = delta.get("content") if isinstance(delta, dict) else choices[0].get("text")
    return found if isinstance(found, str) else ""


def _frame(text: str, as_json: bool) -> bytes:
    """One event: a JSON string, or the text itself, each of its lines a `data:` line as SSE has it."""
    if as_json:
        return b"data: " + codec.encode(text) + b"\n\n"
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"
