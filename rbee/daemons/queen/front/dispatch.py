# SPDX-License-Identifier: GPL-3.0-or-later
"""The rooms that a request goes through, put together."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Mapping

from rbee.adapters.secrets import Token
from rbee.adapters.splice import FirstByteTimeout, Splice, UpstreamError, heads
from rbee.contracts import defaults
from rbee.contracts.configs import QueenConfig
from rbee.contracts.decisions import Outcome as Decided
from rbee.contracts.openai import Peek
from rbee.core.errors import DeadlineExceeded, RbeeError
from rbee.core.spec_queen import LimitsSpec
from rbee.daemons.queen.admission.clients import Client, Clients
from rbee.daemons.queen.admission.gate import Gate
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.ending import Ending
from rbee.daemons.queen.front.answers import Refusal, refusal_of
from rbee.daemons.queen.front.errors import SILENT, UNREACHABLE
from rbee.daemons.queen.front.relay import WorkerRefused
from rbee.daemons.queen.known.catalog import Catalog
from rbee.daemons.queen.known.probe import Prober
from rbee.daemons.queen.known.quarantine import Quarantine
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing.router import Router
from rbee.daemons.queen.seen.ended import Ended
from rbee.daemons.queen.seen.seen import Seen


class Dispatcher:
    """What every `Passage` needs. `clock` gives seconds that never go back."""

    def __init__(
        self,
        *,
        registry: Registry,
        catalog: Catalog,
        clients: Clients,
        gate: Gate,
        prober: Prober,
        splice: Splice,
        seen: Seen,
        token: Token | None,
        clock: Callable[[], float],
        ending: Ending,
        quarantine: Quarantine,
        limits: LimitsSpec,
        router: Router | None = None,
    ) -> None:
        self.registry = registry
        self.catalog = catalog
        self.gate = gate
        self.splice = splice
        self.seen = seen
        self.metrics = seen.metrics
        self.clients = clients
        self._prober = prober
        self.clock = clock
        self.ending = ending
        self._quarantine = quarantine
        self._limits = limits
        self._router = router
        #: For workers that are trusted with it.
        self.worker_headers = [(b"Authorization", f"Bearer {token.reveal()}".encode())] if token is not None else []
        self.worker_lines = heads.header_lines(self.worker_headers)
        self._prefix = f"req{secrets.token_hex(6)}"
        self._ids = itertools.count(1)

    def configure(self, config: QueenConfig) -> None:
        self._limits = config.limits

    @property
    def patience(self) -> float | None:
        """Seconds that a worker has to begin a stream."""
        return self._limits.first_byte_timeout

    def new_id(self) -> str:
        """For a request that has none."""
        return f"{self._prefix}{next(self._ids):08x}"

    def identify(self, headers: Mapping[str, str], token: Token | None) -> Client:
        """Who asks, of a listener that wants `token`. Raises Unauthorized."""
        return self.clients.identify(headers, token)

    def note(self, asked: Asked, outcome: Decided, reason: str, worker: Worker | None, code: str = "") -> None:
        """Tells the router what became of its decision."""
        if self._router is not None:
            self._router.note(asked, outcome, reason, worker, code)

    def turned_away(self, error: RbeeError, path: str, seconds: float) -> Refusal:
        """The answer to what did not get so far as to be a whole request."""
        refusal = refusal_of(error, self.new_id())
        request_id = refusal.headers["X-Request-Id"]
        self.seen.done(
            Ended(request_id, path, refusal.status, "refused", seconds, sent=len(refusal.body), code=refusal.code)
        )
        return refusal

    def patience_for(self, peek: Peek) -> float | None:
        """Seconds that a worker has to begin its answer. One that is no stream begins when it is whole: that may take
        longer."""
        patience = self._limits.first_byte_timeout
        return patience if peek.stream or patience is None else max(patience, defaults.FIRST_BYTE_TIMEOUT)

    def failed(self, worker: Worker, error: UpstreamError, ends: float | None, patience: float | None) -> str:
        """Why this worker gave no answer; one that could not be reached is out until it answers a probe, one that sent
        nothing of a stream for `patience` seconds is taken for hung.

        Raises DeadlineExceeded when the time is over.
        """
        if isinstance(error, FirstByteTimeout):
            if ends is not None and self.clock() >= ends - 0.01:
                raise DeadlineExceeded("The request's deadline passed before the worker answered.") from None
            if patience is None:
                raise DeadlineExceeded("The worker did not answer in time.", code="worker_timeout") from None
            self.metrics.retries += 1
            why = f"{SILENT}{patience:g} s"
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
