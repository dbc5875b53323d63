# SPDX-License-Identifier: GPL-3.0-or-later
"""Room on hives: who holds it, and unloading of those that may go. Never one that is busy or shall always be there."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from rbee.contracts.configs import KnownWorker
from rbee.contracts.jobs import Job
from rbee.contracts.operations import OPERATIONS, OperationType
from rbee.contracts.operations.workers import WorkerUnload
from rbee.core.errors import RbeeError
from rbee.core.eviction import Resident, Room, make_room
from rbee.core.records import WorkerRecord
from rbee.daemons.queen.known.hives import Hives
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.scaling.candidates import Candidate, runs

log = logging.getLogger(__name__)

#: Runs an operation as a job of the queen; the ended job.
Run = Callable[[OperationType, Any], Awaitable[Job]]
#: Takes or renews a lease by name, for so many seconds; whether it is this queen's now.
Lease = Callable[[str, float], Awaitable[bool]]

#: A worker stays at least so long once it is there: two models that do not fit together take turns, and do not fight.
MIN_STAY = 30.0
#: One that would not go is not asked again for so long.
_UNWILLING = 5.0
_LEASE = 20.0


class Short(RbeeError):
    """Its hive has not what a worker needs. `lacking_mb` None: it is no memory, or nobody knows how much."""

    def __init__(self, message: str, code: str, lacking_mb: float | None) -> None:
        super().__init__(message, code=code)
        self.lacking_mb = lacking_mb


class Rooms:
    """`waiting`: how many requests wait for a model. `evictions` counts."""

    def __init__(
        self,
        registry: Registry,
        hives: Hives,
        *,
        clock: Callable[[], float],
        run: Run,
        waiting: Callable[[str], int],
        lease: Lease,
        min_stay: float = MIN_STAY,
    ) -> None:
        self._registry = registry
        self._hives = hives
        self._clock = clock
        self._run = run
        self._waiting = waiting
        self._lease = lease
        self._min_stay = min_stay
        self._known: dict[str, KnownWorker] = {}
        #: Since when each process is known, by worker: its start as it tells it, and the queen's clock.
        self._since: dict[str, tuple[str, float]] = {}
        self._unwilling: dict[str, float] = {}
        self.evictions = 0

    def configure(self, known: Iterable[KnownWorker]) -> None:
        self._known = {w.worker_id: w for w in known}

    def look(self) -> None:
        """Notes who is there since when; without a plan nobody ever goes, and nothing is noted."""
        if not self._known:
            return
        now, workers = self._clock(), self._registry.workers
        self._since = {
            w.worker_id: before
            if (before := self._since.get(w.worker_id)) is not None and before[0] == w.beat.started_at
            else (w.beat.started_at, now)
            for w in workers.values()
            if w.status in ("ready", "busy")
        }
        self._unwilling = {w: until for w, until in self._unwilling.items() if until > now and w in workers}

    def residents(self, candidate: Candidate, short: Short) -> list[Resident]:
        """Who holds what the candidate lacks: memory of its device, cores, or ports of its hive."""
        self.look()
        hive = self._hives.by_id.get(candidate.hive_id)
        records = {r.worker_id: r for r in hive.capabilities.workers} if hive and hive.capabilities else {}
        return [
            self._resident(worker, records.get(worker.worker_id))
            for worker in self._registry.workers.values()
            if worker.beat.hive_id == candidate.hive_id
            and worker.worker_id != candidate.worker_id
            and (runs(worker, hive) or worker.status == "stopping")
            and (short.code == "no_free_port" or worker.beat.device == candidate.device)
        ]

    def _resident(self, worker: Worker, record: WorkerRecord | None) -> Resident:
        now, known = self._clock(), self._known.get(worker.worker_id)
        _, since = self._since.get(worker.worker_id, ("", now))
        return Resident(
            worker_id=worker.worker_id,
            model=worker.beat.model,
            memory_mb=_held_mb(record),
            last_used=worker.last_used,
            stayed=now - since,
            busy=self.busy(worker) or worker.worker_id in self._unwilling,
            pinned=known is None or (not known.on_demand and known.idle_timeout is None),
        )

    def busy(self, worker: Worker) -> bool:
        """Whether it must not be ended now: it serves, some wait for its model, or somebody else has it in hand."""
        return (
            worker.busy > 0
            or worker.held
            or worker.status in ("busy", "stopping")
            or self._waiting(worker.beat.model) > 0
        )

    def plan(self, candidate: Candidate, short: Short) -> Room:
        """Who would go for it now."""
        return make_room(self.residents(candidate, short), short.lacking_mb, self._min_stay)

    async def make(self, candidate: Candidate, short: Short) -> Room:
        """Unloads who has to go. `evict`: they are gone; else why nobody went. Of several queens one makes room on a
        hive at a time: the others `wait`."""
        room = self.plan(candidate, short)
        if room.kind != "evict":
            return room
        if not await self._lease(f"room/{candidate.hive_id}", _LEASE):
            return Room(kind="wait", held=("another queen makes room",))
        for resident in room.evict:
            worker = self._registry.workers.get(resident.worker_id)
            if worker is None or self.busy(worker) or not await self.unload(worker, f"room for {candidate.model}"):
                return Room(kind="wait", held=room.held)
            self.evictions += 1
        return room

    async def unload(self, worker: Worker, why: str) -> bool:
        """Ends its process when it is idle, and keeps the worker; no request is sent to it meanwhile. Whether it is
        unloaded; it is routed to again where it is not."""
        self._registry.hold(worker, f"unloading: {why}")
        request = WorkerUnload(
            hive_id=worker.beat.hive_id, worker_id=worker.worker_id, if_idle=True, reason=f"was unloaded: {why}"[:200]
        )
        done = False
        try:
            job = await self._run(OPERATIONS["WorkerUnload"], request)
            done = job.state == "completed"
            error = job.error.error if job.error is not None else job.state
        except RbeeError as e:
            error = str(e)
        finally:
            if not done:
                self._registry.release(worker)
        if done:
            log.info("worker %s is unloaded: %s", worker.worker_id, why)
            worker.status = "unloaded"  # its hive says so too, a moment later
        else:
            log.warning("worker %s is not unloaded (%s): %s", worker.worker_id, why, error)
            self._unwilling[worker.worker_id] = self._clock() + _UNWILLING
        return done


def _held_mb(record: WorkerRecord | None) -> float | None:
    """What it holds of its device, as measured; what it was granted, where it was not measured."""
    if record is None:
        return None
    measured = record.memory_mb if record.worker_type == "cpu" else record.vram_mb
    return measured or record.predicted_memory_mb
