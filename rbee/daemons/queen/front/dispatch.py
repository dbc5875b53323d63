# SPDX-License-Identifier: GPL-3.0-or-later
"""A request's way to a worker: peeked at, routed, spliced; sent elsewhere when a worker dies before the first byte."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Sequence

from aiohttp import HttpVersion11, web

from rbee.adapters.secrets import Token
from rbee.adapters.splice import (
    FirstByteTimeout,
    Splice,
    UpstreamError,
    read_body,
)
from rbee.contracts import defaults, openai
from rbee.contracts.configs import QueenConfig
from rbee.contracts.openai import BadBody
from rbee.core.errors import DeadlineExceeded, InvalidRequest, RbeeError
from rbee.core.spec import LimitsSpec
from rbee.daemons.middleware import error_response, listener_token
from rbee.daemons.queen.admission.clients import Clients
from rbee.daemons.queen.admission.gate import Gate
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.ending import Ending
from rbee.daemons.queen.front.deadline import deadline_of
from rbee.daemons.queen.front.errors import UNREACHABLE, NoWorker
from rbee.daemons.queen.front.relay import RetryingRelay, WorkerRefused
from rbee.daemons.queen.known.catalog import Catalog
from rbee.daemons.queen.known.probe import Prober
from rbee.daemons.queen.known.quarantine import Quarantine
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.seen.metrics import Metrics

_LONGEST_ID = 128


class Dispatcher:
    """Serves the OpenAI paths. `clock` gives seconds that never go back."""

    def __init__(
        self,
        *,
        registry: Registry,
        catalog: Catalog,
        clients: Clients,
        gate: Gate,
        prober: Prober,
        splice: Splice,
        metrics: Metrics,
        token: Token | None,
        clock: Callable[[], float],
        ending: Ending,
        quarantine: Quarantine,
        limits: LimitsSpec,
    ) -> None:
        self.registry = registry
        self.catalog = catalog
        self.gate = gate
        self.splice = splice
        self.metrics = metrics
        self._clients = clients
        self._prober = prober
        self._clock = clock
        self._ending = ending
        self._quarantine = quarantine
        self._limits = limits
        #: For workers that are trusted with it.
        self.worker_headers = [(b"Authorization", f"Bearer {token.reveal()}".encode())] if token is not None else []
        self._prefix = f"req{secrets.token_hex(6)}"
        self._ids = itertools.count(1)

    def configure(self, config: QueenConfig) -> None:
        self._limits = config.limits

    @property
    def patience(self) -> float | None:
        """Seconds that a worker has to begin a stream."""
        return self._limits.first_byte_timeout

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handler of every inference path; errors of ours have OpenAI's body. What is here costs every request."""
        arrived = self._clock()
        headers = request.headers
        request_id = headers.get("X-Request-Id")
        if request_id is None or not request_id.isprintable() or len(request_id) > _LONGEST_ID:
            request_id = f"{self._prefix}{next(self._ids):08x}"
        if self._ending.stopping:
            return self._refuse(self._ending.refusal(), request_id)
        self.metrics.active += 1
        try:
            client = self._clients.identify(headers, listener_token(request))
            body = await read_body(request, defaults.MAX_BODY)
            peek = openai.peek(body)
            if peek.model is None:
                raise BadBody("The request names no model.", "missing_model", "model")
            own = [(b"X-Request-Id", request_id.encode("latin-1", "replace"))]
            ends: float | None = None
            if "X-Deadline" in headers or "X-Request-Timeout" in headers:
                ends, line = deadline_of(headers, arrived, time.time)
                own += line
            asked = Asked(
                request_id=request_id,
                path=request.path,
                name=peek.model,
                models=self.catalog.resolve(peek.model),
                peek=peek,
                size=len(body),
                client=client,
                headers=headers,
                arrived=arrived,
                ends=ends,
            )
            self.gate.admit(asked)
            try:
                return await self._relay(request, asked, body, own)
            finally:
                self.gate.done(asked)
        except BadBody as e:
            return self._refuse(InvalidRequest(e.message, code=e.code, param=e.param), request_id)
        except RbeeError as e:
            return self._refuse(e, request_id)
        finally:
            self.metrics.active -= 1

    async def _relay(
        self, request: web.Request, asked: Asked, body: bytes, headers: Sequence[tuple[bytes, bytes]]
    ) -> web.StreamResponse:
        clock, gate, ends = self._clock, self.gate, asked.ends
        kind = RetryingRelay if request.version >= HttpVersion11 else None
        # An answer that is no stream begins when it is whole: that may take longer.
        first_byte = self._limits.first_byte_timeout if asked.peek.stream else defaults.FIRST_BYTE_TIMEOUT
        while True:
            worker = gate.try_enter(asked) or await gate.wait(asked)
            seconds = None
            try:
                sent = await self.splice.forward(
                    request,
                    upstream=worker.upstream,
                    body=body,
                    headers=[*self.worker_headers, *headers] if worker.trusted else headers,
                    extra_headers=(
                        headers[0],
                        *worker.headers,
                        (b"X-Rbee-Overhead-Ms", b"%.3f" % ((clock() - asked.arrived - asked.waited) * 1e3)),
                    ),
                    connect_timeout=defaults.CONNECT_TIMEOUT,
                    first_byte_timeout=first_byte,
                    total_timeout=None if ends is None else max(ends - clock(), 0.001),
                    kind=kind,
                )
                outcome = sent.outcome
                seconds = outcome.seconds if outcome.end == "completed" and outcome.status < 400 else None
            except UpstreamError as error:
                patience = first_byte if asked.peek.stream else None
                asked.tried[worker.worker_id] = self.failed(worker, error, ends, patience)
                continue
            finally:
                gate.leave(asked, worker, seconds)
            self.metrics.count(
                worker.beat.model, worker.worker_id, outcome.status, outcome.end, clock() - asked.arrived
            )
            if outcome.first_byte_seconds is not None:
                self.metrics.first_byte.add(outcome.first_byte_seconds)
            return sent

    def _refuse(self, error: RbeeError, request_id: str) -> web.Response:
        answer = error_response(error, {"X-Request-Id": request_id})
        model = ""
        if isinstance(error, NoWorker):
            answer.body = error.body()
            model = error.model
        self.metrics.requests[model, "", answer.status, "refused"] += 1
        return answer

    def failed(self, worker: Worker, error: UpstreamError, ends: float | None, patience: float | None) -> str:
        """Why this worker gave no answer; one that could not be reached is out until it answers a probe, one that sent
        nothing of a stream for `patience` seconds is taken for hung.

        Raises DeadlineExceeded when the time is over.
        """
        if isinstance(error, FirstByteTimeout):
            if ends is not None and self._clock() >= ends - 0.01:
                raise DeadlineExceeded("The request's deadline passed before the worker answered.") from None
            if patience is None:
                raise DeadlineExceeded("The worker did not answer in time.", code="worker_timeout") from None
            self.metrics.retries += 1
            why = f"sent nothing for {patience:g} s"
            self._quarantine.doubt(worker, why)
            return why
        self.metrics.retries += 1
        if isinstance(error, WorkerRefused):
            return error.why
        reason = f"{UNREACHABLE}{error}"
        self.splice.drop(worker.upstream)
        if self.registry.workers.get(worker.worker_id) is worker:
            worker.unreachable = reason
            self._prober.probe(worker)
        return reason
