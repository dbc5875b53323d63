# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: an operation that runs at once, tells what it does, and ends with a result, an error or a cancel."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from rbee.adapters.system import now
from rbee.contracts import codec, defaults
from rbee.contracts.jobs import ENDED, ChildJob, Job, job_of
from rbee.contracts.operations import OPERATIONS, OperationType
from rbee.core.errors import Conflict, RbeeError, Unavailable
from rbee.daemons import sse
from rbee.daemons.job_ends import failure, interrupted
from rbee.daemons.job_execution import JobsHere, Resume
from rbee.daemons.job_sharing import LOOK, Sharing
from rbee.daemons.job_store import Store
from rbee.daemons.lanes import Lanes
from rbee.daemons.live_job import Live, attend
from rbee.daemons.narrate import JobContext

__all__ = ["Handler", "JobContext", "JobRunner", "Resume"]

log = logging.getLogger(__name__)

#: What it gives is the operation's response: a value, or its JSON, as bytes.
Handler = Callable[[JobContext, Any], Awaitable[Any]]
#: Of one lane, in a daemon that has no limits of its own for them.
MAX_RUNNING = 1_000
CANCEL_WAIT = 10.0
#: Of a job that is taken up: among so many of its last events is one that its child told.
_LOOK_BACK = 16


class JobRunner(JobsHere):
    """Runs jobs of one daemon. Owned by its event loop; other threads only narrate.

    `lanes`: how many run at once, by kind; the others wait, `queued`, first come first served. Without it none waits:
    a queen's jobs are mostly other daemons' jobs, which these limit; limits of her own would only let one hive's
    queue hold up another's.
    `unheard`: seconds after which a job that would go on for ever, and that nobody reads, is cancelled.
    `resumes`: by operation, how a job is taken up that an earlier life of this daemon, or another one, left to a hive.
    """

    def __init__(
        self,
        store: Store,
        handlers: Mapping[str, Handler],
        actor: str,
        secrets: Iterable[str] = (),
        lanes: Lanes | None = None,
        unheard: float = defaults.JOB_UNHEARD,
        resumes: Mapping[str, Resume] | None = None,
        beat: float = defaults.OWNER_TTL / 3,
    ) -> None:
        super().__init__(store, actor, secrets, resumes=resumes or {})
        self.sharing = Sharing(store, self, beat)
        self._handlers = dict(handlers)
        self._unheard = unheard
        self._lanes = lanes or Lanes({}, MAX_RUNNING, queue=0)
        self._stopping = False

    async def start(self) -> None:
        """Opens the store. Jobs that a dead process left running become failed, code `interrupted`, but for those that
        a hive does: these go on."""
        await self._store.open()
        found = await self._store.claim(starting=True)
        if found:
            log.warning("%d jobs of an earlier run were interrupted", len(found))
        for job in found:
            await self.take_up(job)
        self.sharing.start()

    def refuse(self) -> None:
        """No new jobs; those that run go on."""
        self._stopping = True

    async def stop(self) -> None:
        """Ends jobs (failed, code `interrupted`) and their streams, then closes the store. What a hive does for a job
        goes on there; the job is taken up by the next life of this daemon, or by another one."""
        self._stopping = True
        await self.sharing.stop()
        for live in self._live.values():
            live.ties.leaving = True
        tasks = [x.task for x in self._live.values() if x.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_WAIT)
        for live in list(self._live.values()):
            self._cut(live, "The daemon is stopping.")
        await self._store.close()

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return self._handlers

    @property
    def running(self) -> int:
        """Jobs that have not ended, those that wait too."""
        return len(self._live)

    def lanes(self) -> dict[str, tuple[int, int]]:
        """Of each lane that was ever used: jobs that run, jobs that wait."""
        return self._lanes.counts()

    async def submit(self, optype: OperationType, request: Any, *, key: str | None = None) -> Job:
        """Starts the operation as a job, or lets it wait for its turn, and answers once it is written down: a job
        that was accepted is never lost, whatever happens to the process. What was asked under the same `key` before
        is not begun again: it is that job (`contracts.jobs.job_of`), as long as it is kept.

        Raises RbeeError `not_served`, Unavailable; Conflict and InvalidRequest for a key.
        """
        handler = self._handlers.get(optype.name)
        if handler is None:
            raise RbeeError(f"This daemon does not serve {optype.name}.", code="not_served")
        if self._stopping:
            raise Unavailable("The daemon is stopping.", code="stopping")
        if self._store.trouble is not None:
            raise Unavailable(f"Jobs cannot be written down: {self._store.trouble}.", code="store_away", retry_after=2)
        asked = self._redactor.value(codec.plain(request))
        if key is None:
            return await self._make(optype, handler, request, asked, f"job-{uuid.uuid4()}")
        job_id = job_of(key)
        # One queen at a time looks for it and makes it.
        if not await self._store.lease(f"job:{job_id}", defaults.JOB_WRITTEN_WITHIN * 2):
            raise Unavailable("Another queen is making this job.", code="being_made")
        try:
            before = await self.again(job_id, optype.name, asked)
            if before is None and self._stopping:
                raise Unavailable("The daemon is stopping.", code="stopping")
            return before or await self._make(optype, handler, request, asked, job_id)
        finally:
            with contextlib.suppress(RbeeError):  # then it runs out
                await self._store.release(f"job:{job_id}")

    async def _make(self, optype: OperationType, handler: Handler, request: Any, asked: Any, job_id: str) -> Job:
        place = self._lanes.enter(optype.lane, job_id)
        job = Job(job_id=job_id, operation=optype.name, state="queued", created_at=now(), request=asked)
        live = Live(job, optype.lane, handler, request)
        self._live[job_id] = live
        self._store.put(job)
        live.written = asyncio.ensure_future(self._written(live))
        if live.endless:
            attend(live, self._unheard, lambda: self._abandon(live))
        if place:
            text = f"Waiting for a free place; {place - 1} wait before it."
            self._context(live).narrate("job_queued", text, lane=optype.lane, before=place - 1)
        else:
            self._begin(live)
        await asyncio.shield(live.written)
        return live.job

    async def _written(self, live: Live) -> None:
        """Raises Unavailable when that lasts too long: then it does not begin either."""
        try:
            await asyncio.wait_for(self._store.settled(), defaults.JOB_WRITTEN_WITHIN if self._store.shared else None)
        except (asyncio.TimeoutError, TimeoutError):
            why = self._store.trouble or "the database takes no writes"
            error = Unavailable(f"The job could not be written down: {why}.", code="store_away", retry_after=2)
            self._end(live, "failed", error=failure(str(error), error.code))
            if live.task is None:
                self._next(live.lane, live.job.job_id)
            raise error from None

    async def run(self, optype: OperationType, request: Any) -> Job:
        """Submits it and waits for its end; the ended job, whatever became of it. Cancelled: the job goes on."""
        job = await self.submit(optype, request)
        live = self._live.get(job.job_id)
        if live is not None and live.task is not None:
            await asyncio.wait({live.task})
        return await self.get(job.job_id)

    def _begin(self, live: Live) -> None:
        live.task = asyncio.get_running_loop().create_task(self._run(live), name=live.job.job_id)
        live.task.add_done_callback(lambda _: self._left(live))

    def _left(self, live: Live) -> None:
        """Its task is over, perhaps cancelled before its first step; the next one's turn."""
        self._cut(live)
        self._next(live.lane, live.job.job_id)

    def _next(self, lane: str, job_id: str) -> None:
        """`job_id` leaves its lane, and who waited longest begins."""
        following = self._lanes.leave(lane, job_id)
        if following is not None and not self._stopping:
            self._begin(self._live[following])

    async def cancel(self, job_id: str) -> Job:
        """Cancels and waits (bounded) until the handler is out; one that waits for its turn never runs.

        Raises NotFound, or Conflict when it has ended.
        """
        live = self._live.get(job_id)
        if live is None:
            job = await self.get(job_id)
            if job.state in ENDED or not self._store.shared:
                raise Conflict(f"The job has already ended: {job.state}.", code="job_ended")
            return await self._cancel_elsewhere(job)
        self._call_off(live)
        if live.task is not None:
            await asyncio.wait({live.task}, timeout=CANCEL_WAIT)
        return live.job

    def _call_off(self, live: Live) -> None:
        if live.task is None:
            self._end(live, "cancelled")
            self._next(live.lane, live.job.job_id)
        elif not live.cancelled:  # a second one would only disturb the tidying up
            live.cancelled = True
            live.task.cancel()

    def _abandon(self, live: Live) -> None:
        text = f"Nobody has read this for {self._unheard:g} seconds, and it would go on for ever: it is cancelled."
        self._context(live).narrate("job_unheard", text, "warning", seconds=self._unheard)
        self._call_off(live)

    async def _cancel_elsewhere(self, job: Job) -> Job:
        loop = asyncio.get_running_loop()
        end = loop.time() + CANCEL_WAIT
        with self.sharing.watch(job.job_id) as more:
            await self._store.request_cancel(job.job_id)
            while job.state not in ENDED and loop.time() < end:
                with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(more.wait(), LOOK)
                more.clear()
                job = await self.stored(job.job_id)
        return job

    # What other queens do; see `job_sharing.Owner`.

    def live(self) -> list[str]:
        return list(self._live)

    def call_off(self, job_id: str) -> None:
        live = self._live.get(job_id)
        if live is not None:
            self._call_off(live)

    def lose(self, job_id: str) -> None:
        live = self._live.get(job_id)
        if live is None:
            return
        log.error("%s was taken for dead, and is another queen's now", job_id)
        live.lost = live.ties.leaving = True
        if live.task is not None:
            live.task.cancel()
        else:
            self._leave(live)
            self._next(live.lane, job_id)

    async def take_up(self, job: Job) -> None:
        resume, kind = self._resumes.get(job.operation), OPERATIONS.get(job.operation)
        if job.child is None and resume is not None:  # it may have been asked for all the same
            hive_id = job.request.get("hive_id")
            job = dataclasses.replace(job, child=ChildJob(hive_id=str(hive_id or ""), job_id=job_of(job.job_id)))
        if job.child is None or resume is None or kind is None or self._stopping:
            error = interrupted("The daemon ended while the job ran.", job.child)
            self._store.put(dataclasses.replace(job, state="failed", ended_at=error.timestamp, error=error))
            return
        child, last = job.child, await self._store.last(job.job_id)
        told = await self._store.events(job.job_id, max(0, last - _LOOK_BACK), _LOOK_BACK, large=False)
        behind = next((n for _, event in reversed(told) if (n := _child_event(event)) is not None), 0)
        try:
            place = self._lanes.enter(kind.lane, job.job_id)
        except Unavailable as e:
            error = interrupted(f"The daemon ended while the job ran, and too many go on: {e}", job.child)
            self._store.put(dataclasses.replace(job, state="failed", ended_at=error.timestamp, error=error))
            return
        live = Live(job, kind.lane, lambda context, _: resume(context, child, behind), job.request, resumed=True)
        live.feed = sse.Feed(first=last + 1)
        self._live[job.job_id] = live
        if live.endless:
            attend(live, self._unheard, lambda: self._abandon(live))
        if not place:
            self._begin(live)


def _child_event(event: bytes) -> int | None:
    """Its number among the child's events, when it is one of these."""
    found = codec.decode(dict[str, Any], event).get("child_event_id")
    return found if isinstance(found, int) else None
