# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking the engine and reading what it says, for the answers that do not pass through unread."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

from rbee.adapters.splice import Answer, DiedMidAnswer, Splice, SseEvent, UpstreamError
from rbee.adapters.splice.client import ClientTap
from rbee.contracts import defaults, openai
from rbee.core.errors import DeadlineExceeded, InvalidRequest, Unavailable
from rbee.daemons.worker.process import Engine
from rbee.daemons.worker.words import EngineError, engine_error, is_chatter

DONE = b"[DONE]"
ENGINE_DIED = openai.ENGINE_DIED


def engine_died(error: UpstreamError | str) -> Unavailable:
    """The answer for a request whose engine went away before the client had a byte."""
    return Unavailable(f"The engine stopped before it could answer ({error}).", code=ENGINE_DIED, retry_after=2)


def out_of_time() -> DeadlineExceeded:
    return DeadlineExceeded("The request's time was over before the answer was whole.")


def time_left(request: web.BaseRequest) -> float | None:
    """Seconds that the client gives this request (`X-Deadline` in epoch ms, `X-Request-Timeout` in s); None: any.

    Raises DeadlineExceeded when they are over, InvalidRequest when they are no numbers.
    """
    deadline, timeout = request.headers.get("X-Deadline"), request.headers.get("X-Request-Timeout")
    if deadline is None and timeout is None:
        return None
    try:
        given = [] if timeout is None else [float(timeout)]
        if deadline is not None:
            given.append(float(deadline) / 1000 - time.time())
    except ValueError:
        raise InvalidRequest("X-Deadline and X-Request-Timeout must be numbers.") from None
    left = min(given)
    if not left > 0:
        raise out_of_time()
    return left


class _Leaving:
    """Cancels the handler's task when the client's connection is lost (aiohttp does not by itself)."""

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self._task = task
        self.late = False

    def out_of_time(self) -> None:
        self.late = True
        self.client_gone()

    def client_gone(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """aiohttp's writer waits by itself."""

    resume = pause


@contextmanager
def noticing(request: web.BaseRequest) -> Iterator[None]:
    """While inside, a client that leaves cancels this handler at once, and with it whatever it asked the engine.

    A client whose time is over gets DeadlineExceeded.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client left")
    seconds = time_left(request)
    tap = ClientTap.of(transport)
    leaving = _Leaving(asyncio.current_task())
    tap.relay = leaving
    timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, leaving.out_of_time)
    try:
        yield
    except asyncio.CancelledError:
        if leaving.late:
            raise out_of_time() from None
        raise
    finally:
        tap.relay = None
        if timer is not None:
            timer.cancel()


@asynccontextmanager
async def opened(splice: Splice, engine: Engine, target: str, body: bytes) -> AsyncIterator[Answer]:
    """The engine's answer. Raises EngineError (it refused) and Unavailable (it died first)."""
    try:
        answer = await splice.open(
            engine.upstream,
            target=target,
            body=body,
            headers=(*engine.headers, ("Content-Type", "application/json")),
            connect_timeout=defaults.CONNECT_TIMEOUT,
        )
    except UpstreamError as e:
        raise engine_died(e) from None
    async with answer:
        if answer.status != 200:
            try:
                said = await answer.read(4 * 2**20)
            except DiedMidAnswer as e:
                raise engine_died(e) from None
            raise engine_error(answer.status, said, target)
        yield answer


async def events(answer: Answer) -> AsyncIterator[SseEvent]:
    """The events that are for the client, `[DONE]` not among them.

    Raises DiedMidAnswer, and EngineError for an error that comes as an event.
    """
    async for event in answer.events():
        if not event.data or is_chatter(event.data):
            continue
        if event.data == DONE:
            return
        if event.data.startswith(b'{"error":'):
            raise engine_error(_status(event.data), event.data)
        yield event


def _status(data: bytes) -> int:
    """The HTTP status that an error event would have been."""
    error = json.loads(data).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else 500


#: How an answer that we write ourselves can end badly.
BadEnd = (DiedMidAnswer, EngineError, DeadlineExceeded)


def before_first_byte(error: Exception) -> Exception:
    """What to raise while the client has no byte of an answer."""
    return engine_died(error) if isinstance(error, DiedMidAnswer) else error


def last_frame(error: Exception) -> bytes:
    """The frame that ends a stream badly."""
    if isinstance(error, EngineError):
        return b"data: " + error.body + b"\n\n"
    if isinstance(error, DeadlineExceeded):
        return openai.sse_error_frame(error.message, openai.TIMEOUT_ERROR, error.code)
    return openai.sse_error_frame("The engine stopped before the answer was whole.", code="engine_died")
