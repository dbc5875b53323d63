# SPDX-License-Identifier: GPL-3.0-or-later
"""WorkerStop: a worker of whichever hive gets no more requests at once, then ends there as a child job. And all
workers of a hive, for those who stop hives."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rbee.contracts import codec
from rbee.contracts.operations.workers import (
    WorkerProcessDelete,
    WorkerProcessList,
    WorkerProcessListResponse,
    WorkerStop,
    WorkerStopResponse,
)
from rbee.core.errors import NotFound, RbeeError
from rbee.core.problems import did_you_mean
from rbee.daemons.jobs import JobContext
from rbee.daemons.queen.known.probe import Prober
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.work.forward import Forwarder


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """How many ended, and `worker: why` of those that did not."""

    stopped: int
    failed: tuple[str, ...] = ()


class WorkerStopper:
    """Handler of WorkerStop. One that could not be stopped is routed to again once it answers."""

    def __init__(self, registry: Registry, prober: Prober, forwarder: Forwarder) -> None:
        self._registry = registry
        self._prober = prober
        self._forwarder = forwarder

    async def run(self, ctx: JobContext, request: WorkerStop) -> WorkerStopResponse:
        """Raises NotFound for an unknown worker, Unreachable when its hive is gone, RbeeError with the hive's words."""
        worker = self._registry.workers.get(request.worker_id)
        if worker is None:
            mend = did_you_mean(request.worker_id, list(self._registry.workers))
            raise NotFound(f"The queen knows no worker {request.worker_id!r}.", code="worker_not_found", mend=mend)
        hive_id = worker.beat.hive_id
        text = f"Stopping worker {worker.worker_id} on {hive_id}: it gets no more requests."
        ctx.narrate("worker_stop_start", text, worker_id=worker.worker_id, hive_id=hive_id)
        await self._end(ctx, hive_id, worker.worker_id)
        message = f"Worker {worker.worker_id} on {hive_id} is stopped."
        ctx.narrate("worker_stop_complete", message, worker_id=worker.worker_id, hive_id=hive_id)
        return WorkerStopResponse(worker_id=worker.worker_id, hive_id=hive_id, message=message)

    async def stop_all(self, ctx: JobContext, hive_id: str) -> Stopped:
        """All workers that the hive itself tells of, at once. Raises Unreachable, RbeeError when it tells of none."""
        listed = await self._forwarder.part(ctx, WorkerProcessList(hive_id=hive_id))
        workers = [w.worker_id for w in codec.decode(WorkerProcessListResponse, listed).workers]

        async def one(worker_id: str) -> str | None:
            try:
                await self._end(ctx, hive_id, worker_id)
            except RbeeError as e:
                return None if e.code == "worker_not_found" else f"{worker_id}: {e.message}"
            return None

        failed = tuple(x for x in await asyncio.gather(*map(one, workers)) if x is not None)
        return Stopped(stopped=len(workers) - len(failed), failed=failed)

    async def _end(self, ctx: JobContext, hive_id: str, worker_id: str) -> None:
        """Out of routing, then the child job; back when that fails."""
        worker = self._registry.workers.get(worker_id)
        held = worker is not None and worker.beat.hive_id == hive_id
        before = None
        if worker is not None and held:
            before = worker.unreachable
            self._registry.hold(worker, "being stopped")
        try:
            await self._forwarder.part(ctx, WorkerProcessDelete(hive_id=hive_id, worker_id=worker_id))
        except BaseException:
            if worker is not None and held:
                self._back(worker, before)
            raise
        if worker is not None and self._registry.workers.get(worker_id) is worker:
            self._registry.forget(worker_id)

    def _back(self, worker: Worker, before: str | None) -> None:
        """It may have ended all the same, so it is asked first."""
        worker.held = False
        worker.unreachable = before or "could not be stopped"
        if self._registry.workers.get(worker.worker_id) is worker:
            self._prober.probe(worker)
