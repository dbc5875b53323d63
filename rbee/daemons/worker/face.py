# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAI face: checks what the engine would let pass, always asks it for a stream, and relays or folds that."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web

from rbee.adapters.splice import DiedMidAnswer, FirstByteTimeout, Splice, SseEvent, UpstreamError
from rbee.contracts import codec, openai
from rbee.contracts.configs import WorkerConfig
from rbee.core.errors import Unavailable
from rbee.daemons.app import Route
from rbee.daemons.worker.asking import (
    ENGINE_DIED,
    BadEnd,
    before_first_byte,
    engine_died,
    events,
    last_frame,
    noticing,
    opened,
    out_of_time,
    time_left,
)
from rbee.daemons.worker.bodies import KINDS, Asked, Kind, read, with_fields
from rbee.daemons.worker.event_folds import EVENT_FOLDS, tokens_in
from rbee.daemons.worker.fold import Fold
from rbee.daemons.worker.relay import relay_stream
from rbee.daemons.worker.state import WorkerState
from rbee.daemons.worker.supervisor import Supervisor
from rbee.daemons.worker.vector_face import FIELDS, VectorFace
from rbee.daemons.worker.words import EngineError, counts_in, counts_of, engine_error, renamed

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_CHUNK = {"chat": "chat.completion.chunk", "completion": "text_completion"}
#: Of a client's headers, those that mean something to an engine.
_PASSED = frozenset({b"content-type", b"accept", b"anthropic-version", b"anthropic-beta"})
#: Bytes at an answer's end in which its counts stand.
_TAIL = 4096
_SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


class OpenAiFace:
    """Serves the provider's OpenAI paths. Every answer names the model as the client did."""

    def __init__(
        self,
        config: WorkerConfig,
        state: WorkerState,
        supervisor: Supervisor,
        splice: Splice,
        *,
        width: int | None = None,
    ) -> None:
        """`width` is how many numbers an embedding of the model has."""
        self._provider = config.provider
        self._served = config.model
        self._state = state
        self._supervisor = supervisor
        self._splice = splice
        self._vectors = VectorFace(state, supervisor, splice, width)

    def routes(self) -> list[Route]:
        """One for each path that the engine serves."""
        return [Route("POST", path, self._answering(self._handler(path))) for path in self._state.paths]

    def _handler(self, path: str) -> _Handler:
        if path in KINDS:
            return partial(self._handle, KINDS[path])
        if path in FIELDS:
            return self._vectors.answer
        return self._handle_events if path in EVENT_FOLDS else self.pass_on

    def _answering(self, handler: _Handler) -> _Handler:
        """`handler`, its refusals made into answers and its engine's deaths counted."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except openai.BadBody as e:
                return web.Response(body=e.body(), status=400, content_type="application/json")
            except EngineError as e:
                self._state.errors += e.status >= 500
                return web.Response(body=e.body, status=e.status, content_type="application/json")
            except Unavailable as e:
                self._state.errors += e.code == ENGINE_DIED
                raise

        return handle

    async def _handle(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = read(kind, body)
        self._supervisor.serving()
        with self._state.request():
            sent = self.engine_body(body, asked)
            if not asked.stream:
                answer = self._folded if self._provider.always_stream else self._whole
                return await answer(request, asked, sent)
            if asked.choices == 1 and asked.model == self._served and request.version >= (1, 1):
                return await self._relayed(request, sent)
            return await self._rewritten(request, asked, sent)

    def engine_body(self, body: bytes, asked: Asked) -> bytes:
        """The body as the engine gets it: the provider's overrides, and a stream whatever the client asked for."""
        fields: dict[str, bytes] = {name: text.encode() for name, text in self._provider.overrides.items()}
        if not asked.stream and self._provider.always_stream:
            fields |= {"stream": b"true", "stream_options": b'{"include_usage":true}'}
        return with_fields(body, fields) if fields else body

    async def _relayed(self, request: web.Request, body: bytes) -> web.StreamResponse:
        engine = self._supervisor.serving()
        try:
            relay, response = await relay_stream(
                request, self._splice, engine.upstream, body=body, headers=engine.headers, seconds=time_left(request)
            )
        except FirstByteTimeout:
            raise out_of_time() from None
        except UpstreamError as e:
            raise engine_died(e) from None
        if relay is None or relay.end == "client_gone":
            self._state.cancelled += 1
            return response
        if not relay.opened:
            if relay.end == "timed_out":
                raise out_of_time()
            if relay.end != "completed":
                raise engine_died(relay.reason)
            raise engine_error(relay.status, bytes(relay.held), request.path)
        if relay.end != "completed":
            self._state.errors += 1
        counts = relay.counts()
        self._state.count(counts.prompt_tokens, counts.tokens, counts.seconds)
        return response

    async def _folded(self, request: web.Request, asked: Asked, body: bytes) -> web.StreamResponse:
        fold = Fold(asked.kind, asked.model)
        with noticing(request):
            async with opened(self._splice, self._supervisor.serving(), request.path, body) as answer:
                try:
                    async for event in events(answer):
                        fold.add(_object(event))
                except DiedMidAnswer as e:
                    raise engine_died(e) from None
        counts = counts_of(fold.timings, fold.usage)
        self._state.count(counts.prompt_tokens, counts.tokens, counts.seconds)
        return web.Response(body=codec.encode(fold.result()), content_type="application/json")

    async def _whole(self, request: web.Request, asked: Asked, body: bytes) -> web.StreamResponse:
        """The engine's one answer, its bytes unchanged."""
        with noticing(request):
            async with opened(self._splice, self._supervisor.serving(), request.path, body) as answer:
                try:
                    said = await answer.read()
                except DiedMidAnswer as e:
                    raise engine_died(e) from None
        counts = counts_in(said[-_TAIL:])
        self._state.count(counts.prompt_tokens, counts.tokens, counts.seconds)
        return web.Response(body=said, content_type="application/json")

    async def _rewritten(self, request: web.Request, asked: Asked, body: bytes) -> web.StreamResponse:
        """For what needs a look at each event: another name for the model, several answers, HTTP/1.0."""
        response = web.StreamResponse(headers=_SSE)
        try:
            with noticing(request):
                await self._write_events(request, response, asked, body)
        except BadEnd as e:
            if not response.prepared:
                raise before_first_byte(e) from None
            self._state.errors += 1
            await response.write(last_frame(e))
        return response

    async def _write_events(
        self, request: web.Request, response: web.StreamResponse, asked: Asked, body: bytes
    ) -> None:
        served, name = (json.dumps(m, ensure_ascii=False).encode() for m in (self._served, asked.model))
        fold = Fold(asked.kind, asked.model)
        async with opened(self._splice, self._supervisor.serving(), request.path, body) as answer:
            async for event in events(answer):
                if _counts(event) and fold.add_counts(_object(event)) and asked.choices > 1:
                    continue  # one usage event for all answers follows
                await self._write(request, response, renamed(event.raw, served, name))
        if asked.choices > 1 and asked.usage and fold.usage:
            last = {**fold.result(), "object": _CHUNK[asked.kind], "choices": []}
            await self._write(request, response, b"data: " + codec.encode(last) + b"\n\n")
        await self._write(request, response, b"data: [DONE]\n\n")
        counts = counts_of(fold.timings, fold.usage)
        self._state.count(counts.prompt_tokens, counts.tokens, counts.seconds)

    async def _write(self, request: web.Request, response: web.StreamResponse, frame: bytes) -> None:
        if not response.prepared:
            await response.prepare(request)
        await response.write(frame)

    async def _handle_events(self, request: web.Request) -> web.StreamResponse:
        """Responses and messages: streams pass unread; one answer is folded from a stream, like the others."""
        body = await request.read()
        openai.fields(body)  # the engine has words of its own for what is no JSON deeper down
        peek = openai.peek(body)
        self._supervisor.serving()
        if peek.stream:
            with self._state.request():
                return await self._relayed(request, body)
        if not self._provider.always_stream:
            return await self.pass_on(request)
        fold = EVENT_FOLDS[request.path]()
        fields = {name: text.encode() for name, text in self._provider.overrides.items()}
        sent = with_fields(body, {**fields, "stream": b"true"})
        with self._state.request(), noticing(request):
            async with opened(self._splice, self._supervisor.serving(), request.path, sent) as answer:
                try:
                    async for event in events(answer):
                        fold.add(_object(event))
                except DiedMidAnswer as e:
                    raise engine_died(e) from None
        if fold.result is None:
            raise engine_died("its answer has no end")
        self._state.count(*tokens_in(fold.result), 0.0)
        result = {**fold.result, "model": peek.model or self._served}
        return web.Response(body=codec.encode(result), content_type="application/json")

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Paths that the engine serves and we know nothing of: bytes both ways."""
        engine = self._supervisor.serving()
        body = await request.read()
        with self._state.request():
            try:
                return await self._splice.forward(
                    request, upstream=engine.upstream, body=body, headers=engine.headers,
                    client_headers=[h for h in request.raw_headers if h[0].lower() in _PASSED],
                    total_timeout=time_left(request),
                )  # fmt: skip
            except FirstByteTimeout:
                raise out_of_time() from None
            except UpstreamError as e:
                raise engine_died(e) from None


def _object(event: SseEvent) -> dict[str, Any]:
    """What the event says; nothing when that is no object. Raises Unavailable when it is no JSON."""
    try:
        found = json.loads(event.data)
    except ValueError:
        raise engine_died("it sent an event that is no JSON") from None
    return found if isinstance(found, dict) else {}


def _counts(event: SseEvent) -> bool:
    return b'"usage":{' in event.data or b'"timings":{' in event.data
