# SPDX-License-Identifier: GPL-3.0-or-later
"""QueenStop: requests are refused, those in flight end, with `cascade` workers and hives after them, then the queen.

What cannot be stopped is told and keeps nothing else from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rbee.contracts import defaults
from rbee.contracts.operations.fleet import QueenStop, QueenStopResponse
from rbee.core.errors import RbeeError
from rbee.daemons.jobs import Handler, JobContext
from rbee.daemons.queen.known.hives import Hive, Hives
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.scaling.candidates import runs
from rbee.daemons.queen.work.hive_lifecycle import HiveLifecycle
from rbee.daemons.queen.work.worker_stop import Stopped, WorkerStopper

#: A hive whose workers (drained) or whose daemon take longer are told as not stopped.
_WORKERS_LIMIT = defaults.WORKER_DRAIN * 2
_DAEMON_LIMIT = 2 * defaults.DAEMON_DRAIN + defaults.DAEMON_START_TIMEOUT


class StopOps:
    """Handler of QueenStop. `refuse` turns new requests away, `drained` waits (bounded) for those in flight and gives
    how many were left, `end` ends the process; it is called once the job's end is told."""

    def __init__(
        self,
        registry: Registry,
        hives: Hives,
        stopper: WorkerStopper,
        lifecycle: HiveLifecycle,
        *,
        refuse: Callable[[], None],
        drained: Callable[[], Awaitable[int]],
        end: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._hives = hives
        self._stopper = stopper
        self._lifecycle = lifecycle
        self._refuse = refuse
        self._drained = drained
        self._end = end

    def handlers(self) -> dict[str, Handler]:
        return {"QueenStop": self.run}

    async def run(self, ctx: JobContext, request: QueenStop) -> QueenStopResponse:
        """Once begun it goes to its end: who cancels the job only ends it sooner."""
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._end())
        self._refuse()
        ctx.narrate("queen_stop_start", "New requests are refused; those in flight may end.")
        left = await self._drained()
        if left:
            ctx.narrate("queen_stop_cut", f"{left} requests did not end in time.", "warning", requests=left)
        done = await self._cascade(ctx) if request.cascade else self._alone()
        count = len(done.hives_stopped)
        ctx.narrate("queen_stop_complete", "The queen ends now.", hives=count, workers=done.workers_stopped)
        return done

    def _alone(self) -> QueenStopResponse:
        """What goes on without her."""
        hives, local = self._hives, self._hives.local
        online = (name for name, hive in hives.by_id.items() if name != local and hives.status(hive) == "online")
        live = (i for i, w in self._registry.workers.items() if runs(w, hives.by_id.get(w.beat.hive_id)))
        return QueenStopResponse(
            hives_stopped=() if local is None else (local,),
            workers_stopped=0,
            hives_left=tuple(sorted(online)),
            workers_left=tuple(sorted(live)),
        )

    async def _cascade(self, ctx: JobContext) -> QueenStopResponse:
        """All workers of all hives, then the hives, each step for all of them at once."""
        hives = sorted(self._hives.by_id.values(), key=lambda h: h.known.hive_id)
        told = await asyncio.gather(*(self._workers(ctx, h) for h in hives))
        failed = [x for _, why in told for x in why]
        ends = await asyncio.gather(*(self._daemon(ctx, h) for h in hives))
        stopped = tuple(h.known.hive_id for h, why in zip(hives, ends, strict=True) if why is None)
        failed += [why for why in ends if why is not None]
        return QueenStopResponse(hives_stopped=stopped, workers_stopped=sum(n for n, _ in told), failed=tuple(failed))

    async def _workers(self, ctx: JobContext, hive: Hive) -> tuple[int, tuple[str, ...]]:
        name = hive.known.hive_id
        ctx.narrate("queen_stop_workers", f"Stopping the workers of {name}.", hive_id=name)
        try:
            found = await asyncio.wait_for(self._all_workers(ctx, name), _WORKERS_LIMIT)
        except (asyncio.TimeoutError, TimeoutError, RbeeError) as e:
            why = self._told(ctx, name, "its workers", e, _WORKERS_LIMIT)
            return 0, (why,)
        return found.stopped, tuple(f"{name}: worker {x}" for x in found.failed)

    async def _all_workers(self, ctx: JobContext, hive_id: str) -> Stopped:
        """Those too that were just being started when the others were asked to end."""
        found = await self._stopper.stop_all(ctx, hive_id)
        late = await self._stopper.stop_all(ctx, hive_id) if found.stopped else Stopped(stopped=0)
        return Stopped(stopped=found.stopped + late.stopped, failed=late.failed or found.failed)

    async def _daemon(self, ctx: JobContext, hive: Hive) -> str | None:
        """Why it goes on; None when it ends."""
        name = hive.known.hive_id
        if name == self._hives.local:
            return None  # it ends with her
        try:
            remote = self._lifecycle.remote(name)
            await asyncio.wait_for(self._lifecycle.stop_daemon(ctx, remote), _DAEMON_LIMIT)
        except (asyncio.TimeoutError, TimeoutError, RbeeError) as e:
            return self._told(ctx, name, "its daemon", e, _DAEMON_LIMIT)
        return None

    @staticmethod
    def _told(ctx: JobContext, hive: str, what: str, error: Exception, limit: float) -> str:
        why = error.message if isinstance(error, RbeeError) else f"not within {limit:.0f} s"
        ctx.narrate("queen_stop_failed", f"{hive}: {what} could not be stopped: {why}", "warning", hive_id=hive)
        return f"{hive}: {what}: {why}"
