# SPDX-License-Identifier: GPL-3.0-or-later
"""One start of one worker: a job of the queen's that its hive does, over only when requests can go to the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from rbee.contracts import defaults
from rbee.contracts.jobs import Job
from rbee.contracts.operations import OPERATIONS
from rbee.core.errors import RbeeError
from rbee.core.load_times import blended, guessed
from rbee.daemons.queen.known.hives import Hives
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.scaling.candidates import Candidate, coming
from rbee.daemons.queen.scaling.rooms import Run, Short
from rbee.daemons.queen.scaling.spawns import Spawn, Spawns

#: What a hive says that has not got what a worker needs.
SHORT_OF = frozenset({"insufficient_memory", "insufficient_resources", "no_free_cores", "no_free_port"})
#: Starts at once, of the whole fleet; the others wait.
AT_ONCE = 16
#: A hive that has not refused a worker after so long has taken it, though it does not say so.
_ADMISSION = 3.0
#: A worker that its hive calls ready has told the queen so by then, or she asks the hive again, once.
_HEARD = 5.0

Before = Callable[[], Awaitable[bool]]


class Launcher:
    """Starts workers. On one hive one at a time is admitted, so that room made for one is not taken by another."""

    def __init__(
        self, registry: Registry, hives: Hives, spawns: Spawns, *, run: Run, clock: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._hives = hives
        self._spawns = spawns
        self._run = run
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        #: Seconds that a model took on a hive.
        self._took: dict[tuple[str, str], float] = {}
        #: Workers that are being started from here.
        self.going: dict[str, Candidate] = {}
        self.starts = 0
        self.failures = 0

    def expected(self, model: str, hive_id: str) -> float | None:
        """Seconds until a model is ready there, as measured; by its size where it was not; None: nobody knows."""
        took = self._took.get((model, hive_id))
        if took is not None:
            return took
        hive = self._hives.by_id.get(hive_id)
        records = hive.capabilities.models if hive is not None and hive.capabilities is not None else ()
        return guessed(next((m.size_bytes for m in records if m.id == model), None))

    async def launch(self, candidate: Candidate, before: Before | None = None) -> bool:
        """Starts it, after `before` (which makes room, and says whether there is any); whether it was tried.

        It is over when requests can go to it. Raises Short (its hive has not what it needs; nothing was started) and
        RbeeError. Cancelled: the hive goes on with it.
        """
        if candidate.worker_id in self.going:
            return False
        self.going[candidate.worker_id] = candidate
        try:
            async with self._places:
                return await self._admitted(candidate, before)
        finally:
            del self.going[candidate.worker_id]

    async def _admitted(self, candidate: Candidate, before: Before | None) -> bool:
        lock = self._locks.setdefault(candidate.hive_id, asyncio.Lock())
        former = self._registry.workers.get(candidate.worker_id)
        async with lock:
            if before is not None and not await before():
                return False
            spawn = self._spawns.open(candidate.request)
            self.starts += 1
            job = asyncio.ensure_future(self._run(OPERATIONS["WorkerSpawn"], candidate.request))
            try:
                await self._until_admitted(job, spawn)
            except BaseException:
                self._leave(job, spawn)
                raise
        try:
            self._settle(candidate, await job, spawn)
            await self._until_heard(candidate, former.beat.started_at if former is not None else None)
        except BaseException as e:
            self.failures += isinstance(e, RbeeError) and not isinstance(e, Short)
            raise
        finally:
            self._leave(job, spawn)
        if spawn.predicted_mb is not None:  # else its hive had it already
            where = (candidate.model, candidate.hive_id)
            self._took[where] = blended(self._took.get(where), self._clock() - spawn.began)
        return True

    def _leave(self, job: asyncio.Future[Job], spawn: Spawn) -> None:
        job.cancel()  # nobody waits for its end any more; the job itself goes on
        self._spawns.close(spawn)

    async def _until_admitted(self, job: asyncio.Future[Job], spawn: Spawn) -> None:
        admitted = asyncio.ensure_future(spawn.admitted.wait())
        try:
            both: set[asyncio.Future[Any]] = {job, admitted}
            await asyncio.wait(both, timeout=_ADMISSION, return_when=asyncio.FIRST_COMPLETED)
        finally:
            admitted.cancel()

    def _settle(self, candidate: Candidate, job: Job, spawn: Spawn) -> None:
        """Raises what became of the job; a worker that runs already is being started by somebody else."""
        if job.state == "completed" or (job.error is not None and job.error.code == "worker_exists"):
            return
        code = job.error.code if job.error is not None else job.state
        why = job.error.error if job.error is not None else f"The job {job.job_id} was {job.state}."
        if code in SHORT_OF:
            raise Short(why, code, spawn.lacking_mb if code == "insufficient_memory" else None)
        raise RbeeError(why, code=code)

    async def _until_heard(self, candidate: Candidate, former: str | None) -> None:
        """Until requests can go to it, or could and it is unloaded again. `former`: when the process before it began.
        Raises RbeeError: it does not tell this queen, or has failed meanwhile."""
        begun, asked = self._clock(), False
        while True:
            worker = self._registry.workers.get(candidate.worker_id)
            if worker is not None and self._registry.why_not(worker) is None:
                return
            if worker is not None and worker.status == "unloaded" and worker.beat.started_at != former:
                return
            waited = self._clock() - begun
            if worker is not None and coming(worker) and waited < defaults.WORKER_START_TIMEOUT:
                pass
            elif waited > _HEARD and not asked:
                asked = True
                hive = self._hives.by_id.get(candidate.hive_id)
                if hive is not None:
                    hive.wake.set()
            elif waited > 2 * _HEARD:
                why = "it has not told this queen" if worker is None else self._registry.why_not(worker)
                raise RbeeError(f"It was started, and cannot be asked: {why}.", code="worker_not_heard")
            await self._registry.changed(0.25)
