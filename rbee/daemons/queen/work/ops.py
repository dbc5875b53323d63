# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's operations: its own, and one handler for every operation of a hive, which forwards it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

import rbee
from rbee.contracts.configs import KnownWorker
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.operations.fleet import (
    PlannedWorker,
    QueenCheck,
    QueenCheckResponse,
    StartTrouble,
    Status,
    StatusResponse,
    WorkerSummary,
)
from rbee.contracts.operations.hives import HiveList, HiveListResponse
from rbee.contracts.operations.workers import WorkerGet, WorkerGetResponse, WorkerList, WorkerListResponse
from rbee.core.errors import NotFound
from rbee.core.problems import did_you_mean
from rbee.daemons.jobs import Handler, JobContext, Resume
from rbee.daemons.queen.known.catalog import Catalog
from rbee.daemons.queen.known.hives import Hives
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.scaling.candidates import device_id
from rbee.daemons.queen.scaling.starter import Starter
from rbee.daemons.queen.scaling.troubles import Trouble
from rbee.daemons.queen.seen.metrics import Metrics
from rbee.daemons.queen.work.forward import Forwarder
from rbee.daemons.queen.work.infer import InferHandler

#: Between the events of QueenCheck: long enough to see that they come one by one.
_CHECK_PAUSE = 0.05


class FleetOps:
    """Handlers of what the queen knows by itself."""

    def __init__(
        self,
        *,
        fleet: str,
        registry: Registry,
        hives: Hives,
        catalog: Catalog,
        metrics: Metrics,
        starter: Starter,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._starter = starter
        self._registry = registry
        self._hives = hives
        self._catalog = catalog
        self._metrics = metrics
        self._clock = clock
        self._started = clock()

    def handlers(self) -> dict[str, Handler]:
        return {
            "Status": self.status,
            "QueenCheck": self.check,
            "HiveList": self.hive_list,
            "WorkerList": self.worker_list,
            "WorkerGet": self.worker_get,
        }

    async def status(self, context: JobContext, request: Status) -> StatusResponse:
        return StatusResponse(
            fleet=self._fleet,
            version=rbee.__version__,
            uptime_seconds=self._clock() - self._started,
            hives=tuple(self._hives.summary(h) for _, h in sorted(self._hives.by_id.items())),
            workers=tuple(self._worker(w) for w in self._sorted()),
            aliases=self._catalog.aliases,
            requests_total=self._metrics.total,
            requests_active=self._metrics.active,
            planned=tuple(self._planned(w) for w in self._starter.planned if w.worker_id not in self._registry.workers),
        )

    def _worker(self, worker: Worker) -> WorkerSummary:
        reason = self._registry.why_not(worker)
        over = reason is None or self._starter.starting(worker.worker_id)
        return WorkerSummary(
            worker=worker.beat,
            routable=reason is None,
            age_seconds=round(self._registry.age(worker), 3),
            reason=reason,
            trouble=None if over else self._trouble(self._starter.troubles.of(worker.worker_id)),
        )

    def _planned(self, known: KnownWorker) -> PlannedWorker:
        starter, worker_id = self._starter, known.worker_id
        state: Literal["on_demand", "missing", "starting", "failed"] = "on_demand" if known.on_demand else "missing"
        trouble = starter.troubles.of(worker_id)
        if starter.starting(worker_id):
            state, trouble = "starting", None
        elif trouble is not None:
            state = "failed"
        elif starter.tight.holds_back(worker_id, self._clock()):
            trouble = starter.tight.of(worker_id)
        return PlannedWorker(
            worker_id=worker_id,
            model=known.model,
            hive_id=known.hive_id,
            device=device_id(known.worker_type, known.device),
            engine=known.engine,
            state=state,
            trouble=self._trouble(trouble),
        )

    def _trouble(self, found: Trouble | None) -> StartTrouble | None:
        if found is None:
            return None
        left = max(0.0, found.until - self._clock())
        return StartTrouble(why=found.why, times=found.times, retry_seconds=round(left, 1))

    def _sorted(self) -> list[Worker]:
        return sorted(self._registry.workers.values(), key=lambda w: (w.beat.model, w.worker_id))

    async def worker_list(self, context: JobContext, request: WorkerList) -> WorkerListResponse:
        workers = self._sorted()
        for worker in workers:
            beat = worker.beat
            context.narrate(
                "worker_list_entry",
                f"{beat.worker_id}: {beat.model} on {beat.hive_id} ({beat.device}), {worker.status}.",
                worker_id=beat.worker_id,
            )
        if not workers:
            context.narrate("worker_list_empty", "The queen knows no workers.")
        return WorkerListResponse(workers=tuple(w.beat for w in workers))

    async def worker_get(self, context: JobContext, request: WorkerGet) -> WorkerGetResponse:
        """Raises NotFound."""
        worker = self._registry.workers.get(request.worker_id)
        if worker is None:
            mend = did_you_mean(request.worker_id, list(self._registry.workers))
            raise NotFound(f"The queen knows no worker {request.worker_id!r}.", code="worker_not_found", mend=mend)
        return WorkerGetResponse(worker=worker.beat)

    async def hive_list(self, context: JobContext, request: HiveList) -> HiveListResponse:
        summaries = [self._hives.summary(h) for _, h in sorted(self._hives.by_id.items())]
        found = tuple(s for s in summaries if request.status in (None, s.status))
        for hive in found:
            context.narrate("hive_list_entry", f"{hive.hive_id} ({hive.url}): {hive.status}.", hive_id=hive.hive_id)
        return HiveListResponse(hives=found)

    async def check(self, context: JobContext, request: QueenCheck) -> QueenCheckResponse:
        context.narrate("queen_check_start", "Checking narration.")
        for step in range(1, 4):
            await asyncio.sleep(_CHECK_PAUSE)
            context.narrate("queen_check_step", f"Step {step} of 3.", step=step, steps=3)
        context.narrate("queen_check_complete", "Narration works.")
        return QueenCheckResponse(message="The queen's jobs and streams work.")


def all_handlers(
    fleet: FleetOps, infer: InferHandler, forwarder: Forwarder, *more: Mapping[str, Handler]
) -> dict[str, Handler]:
    """One handler for each operation: the queen's own where it serves it (`more` has those of other rooms), else the
    hive's by forwarding."""
    handlers: dict[str, Handler] = {
        name: forwarder.run for name, kind in OPERATIONS.items() if "queen" not in kind.served_by
    }
    handlers.update(fleet.handlers())
    handlers["Infer"] = infer.run
    for own in more:
        handlers.update(own)
    return handlers


def resumed(forwarder: Forwarder) -> dict[str, Resume]:
    """Operations that a hive does alone: a queen who starts again goes on with them."""
    return {name: forwarder.resume for name, kind in OPERATIONS.items() if "queen" not in kind.served_by}
