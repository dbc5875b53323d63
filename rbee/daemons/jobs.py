# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: an operation that runs at once, tells what it does, and ends with a result, an error or a cancel."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from rbee.contracts import codec, defaults
from rbee.contracts.jobs import Job, JobAccepted, JobError
from rbee.contracts.operations import OperationType, parse_operation
from rbee.core.errors import Conflict, InvalidRequest, NotFound, RbeeError, Unavailable
from rbee.core.redact import Redactor
from rbee.daemons import sse
from rbee.daemons.app import Route
from rbee.daemons.job_ends import failure, tail
from rbee.daemons.job_store import JobStore
from rbee.daemons.lanes import Lanes
from rbee.daemons.live_job import Fading, Live, attend
from rbee.daemons.logs import current_job
from rbee.daemons.middleware import json_response
from rbee.daemons.narrate import JobContext, now
from rbee.daemons.writing import send_json

__all__ = ["Handler", "JobContext", "JobRunner", "JobStore"]

log = logging.getLogger(__name__)

#: What it gives is the operation's response: a value, or its JSON, as bytes.
Handler = Callable[[JobContext, Any], Awaitable[Any]]
#: Of one lane, in a daemon that has no limits of its own for them.
MAX_RUNNING = 1_000
CANCEL_WAIT = 10.0
#: A larger result is kept once, with the job; its event only says that it stands there.
WRITTEN_TWICE = 2**16
STATES = ("queued", "running", "completed", "failed", "cancelled")


class JobRunner:
    """Runs jobs of one daemon. Owned by its event loop; other threads only narrate.

    `lanes`: how many run at once, by kind; the others wait, `queued`, first come first served. Without it none waits:
    a queen's jobs are mostly other daemons' jobs, which these limit; limits of her own would only let one hive's
    queue hold up another's.
    `unheard`: seconds after which a job that would go on for ever, and that nobody reads, is cancelled.
    """

    def __init__(
        self,
        store: JobStore,
        handlers: Mapping[str, Handler],
        actor: str,
        secrets: Iterable[str] = (),
        lanes: Lanes | None = None,
        unheard: float = defaults.JOB_UNHEARD,
    ) -> None:
        self._store = store
        self._handlers = dict(handlers)
        self._actor = actor
        known = list(secrets)
        # Also as they look in JSON: a result is made into it first, and searched then.
        self._redactor = Redactor([*known, *(codec.encode(k).decode()[1:-1] for k in known)])
        self._unheard = unheard
        self._lanes = lanes or Lanes({}, MAX_RUNNING, queue=0)
        self._live: dict[str, Live] = {}
        #: Ended, and not yet written down.
        self._fading = Fading(store)
        self._stopping = False
        #: Jobs that ended since the start, by lane and state.
        self.ended: Counter[tuple[str, str]] = Counter()

    async def start(self) -> None:
        """Opens the store; jobs that a dead process left running become failed, code `interrupted`."""
        await self._store.open()
        error = JobError(error="The daemon ended while the job ran.", code="interrupted", timestamp=now())
        if found := await self._store.interrupt_running(error):
            log.warning("%d jobs of an earlier run were interrupted", found)

    def refuse(self) -> None:
        """No new jobs; those that run go on."""
        self._stopping = True

    async def stop(self) -> None:
        """Ends jobs (failed, code `interrupted`) and their streams, then closes the store."""
        self._stopping = True
        tasks = [x.task for x in self._live.values() if x.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_WAIT)
        for live in list(self._live.values()):
            self._end(live, "failed", error=failure("The daemon is stopping.", "interrupted"))
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

    async def submit(self, optype: OperationType, request: Any) -> Job:
        """Starts the operation as a job, or lets it wait for its turn, and answers once it is written down: a job
        that was accepted is never lost, whatever happens to the process. Raises RbeeError `not_served`, Unavailable.
        """
        handler = self._handlers.get(optype.name)
        if handler is None:
            raise RbeeError(f"This daemon does not serve {optype.name}.", code="not_served")
        if self._stopping:
            raise Unavailable("The daemon is stopping.", code="stopping")
        job_id = f"job-{uuid.uuid4()}"
        place = self._lanes.enter(optype.lane, job_id)
        try:
            asked = self._redactor.value(codec.plain(request))
        except BaseException:
            self._next(optype.lane, job_id)
            raise
        job = Job(job_id=job_id, operation=optype.name, state="queued", created_at=now(), request=asked)
        live = Live(job, optype.lane, handler, request)
        self._live[job_id] = live
        self._store.put(job)
        if live.endless:
            attend(live, self._unheard, lambda: self._abandon(live))
        if place:
            text = f"Waiting for a free place; {place - 1} wait before it."
            self._context(live).narrate("job_queued", text, lane=optype.lane, before=place - 1)
        else:
            self._begin(live)
        await self._store.settled()
        return live.job

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
        if live.cancelled:
            self._end(live, "cancelled")
        else:
            self._end(live, "failed", error=failure("The job was interrupted.", "interrupted"))
        self._next(live.lane, live.job.job_id)

    def _next(self, lane: str, job_id: str) -> None:
        """`job_id` leaves its lane, and who waited longest begins."""
        following = self._lanes.leave(lane, job_id)
        if following is not None and not self._stopping:
            self._begin(self._live[following])

    def _context(self, live: Live) -> JobContext:
        return JobContext(
            live.job.job_id,
            actor=self._actor,
            redactor=self._redactor,
            sink=lambda event: self._tell(live, event),
            loop=asyncio.get_running_loop(),
        )

    async def _run(self, live: Live) -> None:
        current_job.set(live.job.job_id)
        self._update(live, state="running", started_at=now())
        context = self._context(live)
        try:
            result = await live.handler(context, live.request)
            # JSON made once (it may be a list of 10,000), and without known secrets.
            live.result = self._redactor.data(result if isinstance(result, bytes) else codec.encode(result))
            told = codec.embedded(live.result)
            context.narrate("result", f"{live.job.operation} done.", verbatim=True, result=told)
            self._end(live, "completed", result=told, result_bytes=len(live.result))
        except asyncio.CancelledError:
            if live.cancelled:
                self._end(live, "cancelled")
            else:
                self._end(live, "failed", error=failure("The job was interrupted.", "interrupted"))
        except RbeeError as e:
            self._end(live, "failed", error=failure(self._redactor.text(str(e)), e.code))
        except Exception as e:
            log.exception("%s failed", live.job.operation)
            text = self._redactor.text(f"{type(e).__name__}: {e}")
            self._end(live, "failed", error=failure(text, "internal"))

    def _tell(self, live: Live, event: dict[str, Any]) -> None:
        if live.feed.ended:
            return
        if len(live.result) > WRITTEN_TWICE and event["event"] == "result":
            data = codec.encode({**event, "result": 0})[:-2]  # its last field, and the brace
            seq = live.feed.append(data, live.result)
        else:
            data = codec.encode(event)
            seq = live.feed.append(data)
        self._store.append(live.job.job_id, seq, data)

    def _update(self, live: Live, **changes: Any) -> None:
        live.job = dataclasses.replace(live.job, **changes)
        self._store.put(live.job)

    def _end(self, live: Live, state: str, **outcome: Any) -> None:
        if live.feed.ended:
            return
        self._update(live, state=state, ended_at=now(), **outcome)
        self.ended[live.lane, state] += 1
        live.feed.end(tail(live.job))
        self._live.pop(live.job.job_id, None)
        self._fading.add(live)

    async def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        live = self._live.get(job_id) or self._fading.get(job_id)
        return live.job if live is not None else await self._stored(job_id)

    async def _stored(self, job_id: str, *, result: bool = True) -> Job:
        job = await self._store.get(job_id, result=result)
        if job is None:
            raise NotFound(f"There is no job {job_id!r}.", code="job_not_found")
        return job

    async def cancel(self, job_id: str) -> Job:
        """Cancels and waits (bounded) until the handler is out; one that waits for its turn never runs.

        Raises NotFound, or Conflict when it has ended.
        """
        live = self._live.get(job_id)
        if live is None:
            job = await self.get(job_id)
            raise Conflict(f"The job has already ended: {job.state}.", code="job_ended")
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

    # The wire.

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/jobs", self._post),
            Route("GET", "/v1/jobs", self._list),
            Route("GET", "/v1/jobs/{job_id}", self._get),
            Route("DELETE", "/v1/jobs/{job_id}", self._delete),
            Route("GET", "/v1/jobs/{job_id}/stream", self._stream),
        ]

    async def _post(self, request: web.Request) -> web.StreamResponse:
        optype, asked = parse_operation(await request.read())
        job = await self.submit(optype, asked)
        accepted = JobAccepted(job_id=job.job_id, sse_url=f"/v1/jobs/{job.job_id}/stream")
        return json_response(accepted, 202, {"Location": f"/v1/jobs/{job.job_id}"})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        state, limit = query.get("state"), query.get("limit", "50")
        if state is not None and state not in STATES:
            raise InvalidRequest(f"There is no state {state!r}.", mend=f"States: {', '.join(STATES)}.")
        if not limit.isdecimal() or len(limit) > 4 or not 1 <= int(limit) <= 1000:
            raise InvalidRequest("`limit` must be a number from 1 to 1000.")
        return json_response(await self._store.page(state, int(limit), query.get("cursor")))

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return await send_json(request, await self.get(request.match_info["job_id"]))

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        return json_response(await self.cancel(request.match_info["job_id"]))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        job_id, after, large = request.match_info["job_id"], sse.last_event_id(request), sse.wants_large(request)
        live = self._live.get(job_id) or self._fading.get(job_id)
        if live is not None:
            return await sse.serve(request, live.feed, after, large=large)
        job = await self._stored(job_id, result=False)
        return await sse.serve_stored(
            request, lambda n: self._store.events(job_id, n, sse.BATCH, large=large), after, tail(job)
        )
