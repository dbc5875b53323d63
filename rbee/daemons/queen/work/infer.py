# SPDX-License-Identifier: GPL-3.0-or-later
"""The Infer operation: a chat completion through the same routing, read here and narrated as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rbee.adapters.splice import Answer, DiedMidAnswer, SseEvent, UpstreamError
from rbee.contracts import codec, defaults, openai
from rbee.contracts.operations.inference import Infer, InferResponse
from rbee.core.checks_queen import FLEET
from rbee.core.errors import DeadlineExceeded, RbeeError, Unreachable
from rbee.daemons.jobs import JobContext
from rbee.daemons.middleware import status_of
from rbee.daemons.queen.admission.clients import Client
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.front.dispatch import Dispatcher
from rbee.daemons.queen.front.errors import DIED
from rbee.daemons.queen.front.relay import WorkerRefused
from rbee.daemons.queen.known.registry import Worker
from rbee.daemons.queen.seen.ended import Ended

_TARGET = "/v1/chat/completions"


class _Text:
    """What a stream of completion events says so far."""

    __slots__ = ("finish_reason", "pieces", "usage")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.finish_reason: str | None = None
        self.usage: int | None = None

    def add(self, event: SseEvent) -> str:
        """The text of one event, empty when it has none. Raises RbeeError for an error event."""
        try:
            said = codec.decode(dict[str, Any], event.data)
        except codec.CodecError:
            return ""
        if isinstance(error := said.get("error"), dict):
            raise RbeeError(str(error.get("message")), code=str(error.get("code") or "worker_error"))
        usage = said.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.usage = usage["completion_tokens"]
        text = ""
        for choice in said.get("choices") or ():
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = choice.get("delta") or {}
            text += delta.get("content") or choice.get("text") or ""
        if text:
            self.pieces.append(text)
        return text


class InferHandler:
    """Handler of `Infer`."""

    def __init__(self, dispatcher: Dispatcher, clock: Callable[[], float]) -> None:
        self._dispatcher = dispatcher
        self._clock = clock

    async def run(self, context: JobContext, asked: Infer) -> InferResponse:
        """Raises NotFound for an unknown model, Unavailable without a worker, Unreachable when it died midway.

        Cancelled: the worker's connection closes at once.
        """
        started = self._clock()
        dispatcher, gate = self._dispatcher, self._dispatcher.gate
        context.narrate("infer_start", f"Asking {asked.model}.", model=asked.model)
        body = codec.encode(_body(asked))
        request = Asked(
            request_id=context.job_id,
            path=_TARGET,
            name=asked.model,
            models=dispatcher.catalog.resolve(asked.model),
            peek=openai.peek(body),
            size=len(body),
            client=Client(name=FLEET),
            headers={},
            arrived=started,
            ends=started + asked.timeout if asked.timeout is not None else None,
        )
        gate.admit(request)
        dispatcher.metrics.active += 1
        ended = Ended(context.job_id, _TARGET, 200, "completed", 0.0, request)
        try:
            return await asyncio.wait_for(self._ask(context, asked, request, body, ended), asked.timeout)
        except asyncio.TimeoutError:
            ended.status, ended.end, ended.code = 504, "deadline", "deadline_exceeded"
            raise DeadlineExceeded(f"There was no whole answer in {asked.timeout:g} s.") from None
        except asyncio.CancelledError:
            ended.status, ended.end = 499, "client_gone"
            raise
        except RbeeError as e:
            ended.status, ended.end, ended.code = status_of(e), "refused", e.code
            if ended.worker is not None:
                ended.end = "upstream_died"
            else:
                dispatcher.note(request, "refused", str(e), None, e.code)
            raise
        finally:
            dispatcher.metrics.active -= 1
            gate.done(request)
            ended.seconds = self._clock() - started
            dispatcher.seen.done(ended)

    async def _ask(self, context: JobContext, asked: Infer, request: Asked, body: bytes, ended: Ended) -> InferResponse:
        gate = self._dispatcher.gate
        while True:
            worker = gate.try_enter(request)
            if worker is None:
                context.narrate("infer_wait", f"Waiting for a worker of {asked.model}.", model=asked.model)
                worker = await gate.wait(request)
            began, seconds = self._clock(), None
            try:
                answer = await self._open(worker, body, context.job_id)
                ended.worker, ended.first_byte = worker, self._clock() - began
                self._dispatcher.note(request, "sent", "", worker)
                async with answer:
                    found = await self._read(context, asked, worker, answer, request.arrived)
                    seconds = self._clock() - began
                    return found
            except DiedMidAnswer as e:
                raise Unreachable(f"The worker {worker.worker_id} stopped before the answer was whole: {e}.") from None
            except UpstreamError as e:
                ended.worker = None
                request.tried[worker.worker_id] = self._dispatcher.failed(worker, e, None, self._dispatcher.patience)
            finally:
                gate.leave(request, worker, seconds)

    async def _open(self, worker: Worker, body: bytes, job_id: str) -> Answer:
        return await self._dispatcher.splice.open(
            worker.upstream,
            target=_TARGET,
            body=body,
            headers=[
                *(self._dispatcher.worker_headers if worker.trusted else ()),
                (b"Content-Type", b"application/json"),
                (b"Accept", b"text/event-stream"),
                (b"X-Request-Id", job_id),
            ],
            connect_timeout=defaults.CONNECT_TIMEOUT,
            first_byte_timeout=self._dispatcher.patience,
        )

    async def _read(
        self, context: JobContext, asked: Infer, worker: Worker, answer: Answer, started: float
    ) -> InferResponse:
        if answer.status != 200:
            error = _refused(answer.status, await answer.read())
            if answer.status == 503:
                why = f"{DIED}{error.message}" if error.code == openai.ENGINE_DIED else error.message
                raise WorkerRefused(error.message, why)  # perhaps another one can
            raise error
        context.narrate("infer_worker", f"{worker.worker_id} answers.", worker_id=worker.worker_id)
        text, first = _Text(), None
        async for event in answer.events():
            if event.data == b"[DONE]":
                break
            if piece := text.add(event):
                first = first or self._clock()
                context.narrate("infer_token", piece, verbatim=True, text=piece)
        ended = self._clock()
        tokens = text.usage if text.usage is not None else len(text.pieces)
        speed = tokens / max(ended - (first or started), 1e-6)
        context.narrate("infer_complete", f"{tokens} tokens.", tokens=tokens, tokens_per_sec=speed)
        return InferResponse(
            text="".join(text.pieces),
            model=worker.beat.model,
            worker_id=worker.worker_id,
            hive_id=worker.beat.hive_id,
            tokens=tokens,
            tokens_per_sec=speed,
            seconds=ended - started,
            finish_reason=text.finish_reason,
        )


def _body(asked: Infer) -> dict[str, Any]:
    system = [{"role": "system", "content": asked.system}] if asked.system is not None else []
    body: dict[str, Any] = {
        "model": asked.model,
        "messages": [*system, {"role": "user", "content": asked.prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": asked.temperature,
        "max_tokens": asked.max_tokens,
        "top_p": asked.top_p,
        "seed": asked.seed,
        "stop": list(asked.stop) or None,
    }
    return {k: v for k, v in body.items() if v is not None}


def _refused(status: int, body: bytes) -> RbeeError:
    try:
        error = codec.decode(dict[str, Any], body).get("error")
    except codec.CodecError:
        error = None
    if isinstance(error, dict):
        return RbeeError(str(error.get("message")), code=str(error.get("code") or "worker_error"))
    return RbeeError(f"The worker answered with status {status}.", code="worker_error")
