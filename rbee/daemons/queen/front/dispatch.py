# SPDX-License-Identifier: GPL-3.0-or-later
"""A request's way to a worker: peeked at, routed, spliced; sent elsewhere when a worker dies before the first byte."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

from aiohttp import HttpVersion11, web

from rbee.adapters.secrets import Token
from rbee.adapters.splice import (
    FirstByteTimeout,
    Splice,
    UpstreamError,
    read_body,
)
from rbee.contracts import codec, defaults, openai
from rbee.contracts.openai import BadBody
from rbee.core.errors import DeadlineExceeded, InvalidRequest, RbeeError, Unavailable
from rbee.daemons.middleware import error_response
from rbee.daemons.queen.front.deadline import deadline_of
from rbee.daemons.queen.front.relay import RetryingRelay, WorkerRefused
from rbee.daemons.queen.known.catalog import Catalog
from rbee.daemons.queen.known.probe import Prober
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.seen.metrics import Metrics

#: How many workers are asked for one request, at most.
MAX_TRIES = 4
UNREACHABLE = "unreachable: "
_LONGEST_ID = 128


class Dispatcher:
    """Serves the OpenAI paths. `clock` gives seconds that never go back."""

    def __init__(
        self,
        *,
        registry: Registry,
        catalog: Catalog,
        prober: Prober,
        splice: Splice,
        metrics: Metrics,
        token: Token | None,
        clock: Callable[[], float],
    ) -> None:
        self.registry = registry
        self.catalog = catalog
        self.splice = splice
        self.metrics = metrics
        self._prober = prober
        self._clock = clock
        #: For workers that are trusted with it.
        self.worker_headers = [(b"Authorization", f"Bearer {token.reveal()}".encode())] if token is not None else []
        self._prefix = f"req{secrets.token_hex(6)}"
        self._ids = itertools.count(1)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handler of every inference path; errors of ours have OpenAI's body. What is here costs every request."""
        arrived = self._clock()
        headers = request.headers
        request_id = headers.get("X-Request-Id")
        if request_id is None or not request_id.isprintable() or len(request_id) > _LONGEST_ID:
            request_id = f"{self._prefix}{next(self._ids):08x}"
        self.metrics.active += 1
        try:
            body = await read_body(request, defaults.MAX_BODY)
            name = openai.peek(body).model
            if name is None:
                raise BadBody("The request names no model.", "missing_model", "model")
            models = self.catalog.resolve(name)
            raw_id = request_id.encode("latin-1", "replace")
            own = [(b"X-Request-Id", raw_id)]
            ends: float | None = None
            if "X-Deadline" in headers or "X-Request-Timeout" in headers:
                ends, line = deadline_of(headers, arrived, time.time)
                own += line
            return await self._relay(request, body, models, raw_id, own, arrived, ends)
        except BadBody as e:
            return self._refuse(InvalidRequest(e.message, code=e.code, param=e.param), request_id)
        except RbeeError as e:
            return self._refuse(e, request_id)
        finally:
            self.metrics.active -= 1

    async def _relay(
        self,
        request: web.Request,
        body: bytes,
        models: tuple[str, ...],
        request_id: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        arrived: float,
        ends: float | None,
    ) -> web.StreamResponse:
        tried: dict[str, str] = {}
        clock = self._clock
        kind = RetryingRelay if request.version >= HttpVersion11 else None
        while True:
            worker = (None if tried else self.registry.pick(models)) or await self.choose(models, tried, ends)
            worker.in_flight += 1
            try:
                sent = await self.splice.forward(
                    request,
                    upstream=worker.upstream,
                    body=body,
                    headers=[*self.worker_headers, *headers] if worker.trusted else headers,
                    extra_headers=(
                        (b"X-Request-Id", request_id),
                        *worker.headers,
                        (b"X-Rbee-Overhead-Ms", b"%.3f" % ((clock() - arrived) * 1e3)),
                    ),
                    connect_timeout=defaults.CONNECT_TIMEOUT,
                    first_byte_timeout=defaults.FIRST_BYTE_TIMEOUT,
                    total_timeout=None if ends is None else max(ends - clock(), 0.001),
                    kind=kind,
                )
            except UpstreamError as error:
                tried[worker.worker_id] = self.failed(worker, error, ends)
                continue
            finally:
                worker.in_flight -= 1
            outcome = sent.outcome
            self.metrics.count(worker.beat.model, worker.worker_id, outcome.status, outcome.end, clock() - arrived)
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

    async def choose(self, models: tuple[str, ...], tried: dict[str, str], ends: float | None) -> Worker:
        """The worker to ask next; with a deadline, waits for one that loads, or that was up and had to refuse.

        Raises Unavailable (NoWorker) or DeadlineExceeded.
        """
        while True:
            left = None if ends is None else ends - self._clock()
            if left is not None and left <= 0:
                raise DeadlineExceeded("The request's deadline has passed.")
            worker = self.registry.pick(models, tried) if len(tried) < MAX_TRIES else None
            if worker is not None:
                return worker
            coming = any(w.coming for w in self.registry.of_models(models))
            if left is None or not (coming or any(w in self.registry.workers for w in self._refused(tried))):
                raise NoWorker(models, self.registry.reasons(models, tried), loading=coming)
            if not await self.registry.changed(left):
                raise DeadlineExceeded("The model did not get ready within the request's deadline.")
            for worker_id in self._refused(tried):
                del tried[worker_id]  # there is news: it may be able to answer now

    @staticmethod
    def _refused(tried: Mapping[str, str]) -> list[str]:
        return [worker_id for worker_id, why in tried.items() if not why.startswith(UNREACHABLE)]

    def failed(self, worker: Worker, error: UpstreamError, ends: float | None) -> str:
        """Why this worker gave no answer; one that could not be reached is out until it answers a probe.

        Raises DeadlineExceeded when the time is over.
        """
        if isinstance(error, FirstByteTimeout):
            if ends is not None and self._clock() >= ends - 0.01:
                raise DeadlineExceeded("The request's deadline passed before the worker answered.") from None
            raise DeadlineExceeded("The worker did not answer in time.", code="worker_timeout") from None
        self.metrics.retries += 1
        if isinstance(error, WorkerRefused):
            return error.why
        reason = f"{UNREACHABLE}{error}"
        self.splice.drop(worker.upstream)
        if self.registry.workers.get(worker.worker_id) is worker:
            worker.unreachable = reason
            self._prober.probe(worker)
        return reason


class NoWorker(Unavailable):
    """Every worker that has the model is unable to answer now, or there is none."""

    def __init__(self, models: tuple[str, ...], reasons: tuple[str, ...], *, loading: bool) -> None:
        self.model = models[0] if models else ""
        why = "; ".join(reason.rstrip(".") for reason in reasons[:5]) or "no worker runs it"
        super().__init__(
            f"No worker is ready for the model {self.model!r}: {why}.",
            code="model_loading" if loading else "no_worker_ready",
            retry_after=5.0 if loading else 10.0,
        )
        self.loading = loading

    def body(self) -> bytes:
        """OpenAI's error body, and what is loading."""
        said = openai.error_object(str(self), openai.error_type(503), self.code)
        if self.loading:
            said["loading"] = {"state": "starting", "progress": None, "eta_seconds": None}
        return codec.encode(said)
