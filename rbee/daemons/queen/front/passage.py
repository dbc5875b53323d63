# SPDX-License-Identifier: GPL-3.0-or-later
"""One request's way: identified, peeked at, admitted, given a worker, relayed; elsewhere when that one fails it.

Nothing here is a coroutine: as long as nobody has to wait, the request goes out in the very call that brought its last
byte, and its slot is free in the one that brings the last byte of the answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rbee.adapters.splice import ClientRequest, Relay, Stopped, Upstream, UpstreamError, heads
from rbee.contracts import defaults, openai
from rbee.contracts.openai import BadBody
from rbee.core.errors import InvalidRequest, RbeeError
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.front.answers import Refusal, refusal_of
from rbee.daemons.queen.front.deadline import deadline_of
from rbee.daemons.queen.front.dispatch import Dispatcher
from rbee.daemons.queen.front.incoming import Asks
from rbee.daemons.queen.front.relay import RetryingOldRelay, RetryingRelay
from rbee.daemons.queen.seen.ended import Ended

if TYPE_CHECKING:
    from rbee.adapters.secrets import Token
    from rbee.daemons.queen.admission.clients import Client
    from rbee.daemons.queen.known.worker import Worker

log = logging.getLogger(__name__)

_ID_MARK = b"\r\nx-request-id:"
_DEADLINE, _DEADLINE_MARK = b"X-Deadline: %b\r\n", b"\r\nx-deadline:"
_OVERHEAD, _OVERHEAD_MARK = b"X-Rbee-Overhead-Ms: %.3f\r\n", b"\r\nx-rbee-overhead-ms:"


class QueenRequest(ClientRequest, Protocol):
    """A client's request with its whole body. `arrived` None: just now; `client` None: not identified yet."""

    path: str
    body: bytes
    token: Token | None
    client: Client | None
    arrived: float | None

    @property
    def headers(self) -> Mapping[str, str]: ...

    def head_to(self, upstream: Upstream, own: Sequence[heads.Line]) -> bytes:
        """The head of this request as a worker gets it, with lines of our own."""


class Passage:
    """`over` is called once, perhaps before `start` returns: then either `refusal` is to be answered with, or `relay`
    has answered, or the client has left."""

    # The state of one that has not begun, in the class: one is made for every request.
    request_id = ""
    asked: Asked | None = None
    worker: Worker | None = None
    relay: Relay | None = None
    refusal: Refusal | None = None
    stopped = False
    _admitted = False
    _left = False
    _waiting: asyncio.Task[Worker] | None = None
    #: Seconds that workers had it which gave no answer.
    _away = 0.0
    _overhead = 0.0

    def __init__(self, dispatcher: Dispatcher, request: QueenRequest, over: Callable[[Passage], None]) -> None:
        self._dispatcher = dispatcher
        self._over = over
        self.request = request

    # The way in.

    def start(self) -> None:
        """Sends it on its way. It raises nothing: a refusal is an end like others."""
        dispatcher, request = self._dispatcher, self.request
        self._began = now = dispatcher.clock()
        if request.arrived is None:
            request.arrived = now
        self._asks = asks = Asks.of(request.headers)
        self.request_id = given = asks.request_id or dispatcher.new_id()
        # Nothing in it is a line's end: it is printable.
        self._own = [(b"X-Request-Id: %b\r\n" % given.encode("latin-1", "replace"), _ID_MARK)]
        dispatcher.metrics.active += 1
        self._try(self._admit)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BadBody as e:
            self.refuse(InvalidRequest(e.message, code=e.code, param=e.param))
        except RbeeError as e:
            self.refuse(e)
        except Exception:
            log.exception("request %s failed", self.request_id)
            self.refuse(RbeeError("Something went wrong inside; the daemon's log has more.", code="internal"))

    def _admit(self) -> None:
        dispatcher, request = self._dispatcher, self.request
        if dispatcher.ending.stopping:
            raise dispatcher.ending.refusal()
        client = request.client or dispatcher.identify(request.headers, request.token)
        peek = openai.peek(request.body)
        if peek.model is None:
            raise BadBody("The request names no model.", "missing_model", "model")
        headers, arrived, asks = request.headers, request.arrived, self._asks
        assert arrived is not None
        ends: float | None = None
        if asks.timeout is not None or asks.deadline is not None:
            ends, at = deadline_of(asks.deadline, asks.timeout, arrived, time.time)
            if at is not None:
                self._own.append((_DEADLINE % at, _DEADLINE_MARK))
        models = dispatcher.catalog.resolve(peek.model)
        # By position: by name it takes twice as long.
        self.asked = asked = Asked(
            self.request_id, request.path, peek.model, models, peek, len(request.body), client, headers, arrived, ends
        )
        dispatcher.gate.admit(asked)
        self._admitted = True
        self._enter()

    def _enter(self) -> None:
        asked, gate = self.asked, self._dispatcher.gate
        assert asked is not None
        worker = gate.try_enter(asked)
        if worker is not None:
            self._send(worker)
            return
        self.request.tap.relay = self
        self._waiting = asyncio.get_running_loop().create_task(gate.wait(asked))
        self._waiting.add_done_callback(self._waited)

    def _waited(self, task: asyncio.Task[Worker]) -> None:
        self._waiting = None
        self.request.tap.relay = None
        if self._left or self.stopped:
            if not task.cancelled() and task.exception() is None:
                assert self.asked is not None
                self._dispatcher.gate.leave(self.asked, task.result(), None)  # it came in the last moment
            if self._left:
                self._finish(499, "client_gone")
            else:
                self.refuse(self._dispatcher.ending.refusal())
        elif task.cancelled():
            self.refuse(self._dispatcher.ending.refusal())
        else:
            self._try(lambda: self._send(task.result()))

    # At a worker.

    def _send(self, worker: Worker) -> None:
        dispatcher, request, asked = self._dispatcher, self.request, self.asked
        assert asked is not None
        self.worker = worker
        self._sent_at = now = dispatcher.clock()
        self._overhead = overhead = now - self._began - asked.waited - self._away
        own = self._own
        try:
            self.relay = dispatcher.splice.start(
                request,
                self._ended,
                upstream=worker.upstream,
                head=request.head_to(worker.upstream, [*dispatcher.worker_lines, *own] if worker.trusted else own),
                body=request.body,
                extra=(own[0], *worker.lines, (_OVERHEAD % (overhead * 1e3), _OVERHEAD_MARK)),
                connect_timeout=defaults.CONNECT_TIMEOUT,
                first_byte_timeout=dispatcher.patience_for(asked.peek),
                total_timeout=None if asked.ends is None else max(asked.ends - now, 0.001),
                kind=RetryingOldRelay if request.old else RetryingRelay,
            )
        except BaseException as e:
            dispatcher.gate.leave(asked, worker, None)
            if isinstance(e, ValueError):
                raise InvalidRequest(f"The request cannot be passed on: {e}.") from None
            raise
        dispatcher.note(asked, "sent", "", worker)

    def _ended(self, relay: Relay, error: Exception | None) -> None:
        asked, worker, gate = self.asked, self.worker, self._dispatcher.gate
        assert asked is not None
        assert worker is not None
        if error is not None:
            self._try(lambda: self._fail(worker, asked, error))
            return
        whole = relay.end == "completed" and relay.status < 400
        now = self._dispatcher.clock()
        gate.leave(asked, worker, now - self._sent_at if whole else None)
        first = relay.first_byte
        self._finish(relay.status or 499, relay.end, None if first is None else first - self._sent_at, relay.received)

    def _fail(self, worker: Worker, asked: Asked, error: Exception) -> None:
        dispatcher = self._dispatcher
        self.relay = None
        self._away += dispatcher.clock() - self._sent_at
        try:
            if isinstance(error, Stopped):
                raise dispatcher.ending.refusal()
            if not isinstance(error, UpstreamError):
                raise error
            patience = dispatcher.patience_for(asked.peek) if asked.peek.stream else None
            asked.tried[worker.worker_id] = dispatcher.failed(worker, error, asked.ends, patience)
        finally:
            dispatcher.gate.leave(asked, worker, None)
        self.worker = None
        self._enter()

    # The ends.

    def refuse(self, error: RbeeError) -> None:
        """It is answered with an error of ours."""
        self.refusal = refusal_of(error, self.request_id)
        self.relay = None
        if self.asked is not None:
            self._dispatcher.note(self.asked, "refused", str(error), None, self.refusal.code)
        self._finish(self.refusal.status, "refused", None, len(self.refusal.body))

    def _finish(self, status: int, end: str, first_byte: float | None = None, sent: int = 0) -> None:
        dispatcher, asked = self._dispatcher, self.asked
        if self._admitted and asked is not None:
            self._admitted = False
            dispatcher.gate.done(asked)
        request, refused = self.request, self.refusal
        dispatcher.metrics.active -= 1
        seconds = dispatcher.clock() - (request.arrived or self._began)
        worker = self.worker if refused is None else None
        code = refused.code if refused is not None else ""
        overhead = self._overhead
        dispatcher.seen.done(
            Ended(self.request_id, request.path, status, end, seconds, asked, worker, first_byte, overhead, sent, code)
        )
        self._over(self)

    def stop(self) -> None:
        """The queen ends now. A stream ends with an error frame, all else with 503."""
        self.stopped = True
        if self._waiting is not None:
            self._waiting.cancel()
        elif self.relay is not None:
            self.relay.stop()

    def cancel(self) -> None:
        """Whoever took the request in gives it up."""
        if self._waiting is not None:
            self.client_gone()
        elif self.relay is not None:
            self.relay.cancel()

    # Heard of the client's connection while it waits for a worker.

    def client_gone(self) -> None:
        self._left = True
        if self._waiting is not None:
            self._waiting.cancel()

    def pause(self) -> None:
        """Nothing is being written."""

    resume = pause
