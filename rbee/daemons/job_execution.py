# SPDX-License-Identifier: GPL-3.0-or-later
"""How one job is done: its handler run, what it tells kept and streamed, its end written down."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from rbee.adapters.system import now
from rbee.contracts import codec
from rbee.contracts.jobs import ChildJob, Job
from rbee.core.errors import Conflict, NotFound, RbeeError
from rbee.core.redact import Redactor
from rbee.daemons.job_ends import failure, interrupted, tail
from rbee.daemons.job_store import Store
from rbee.daemons.live_job import Fading, Live
from rbee.daemons.logs import current_job
from rbee.daemons.narrate import JobContext

log = logging.getLogger(__name__)

#: Goes on with a job whose child runs on a hive, behind that number of the child's events.
Resume = Callable[[JobContext, ChildJob, int], Awaitable[Any]]
#: A larger result is kept once, with the job; its event only says that it stands there.
WRITTEN_TWICE = 2**16


class JobsHere:
    """The jobs that this daemon does, and those that have just ended. Base of the runner, which says when one begins
    and which is called off."""

    def __init__(self, store: Store, actor: str, secrets: Iterable[str], resumes: Mapping[str, Resume]) -> None:
        self.store = self._store = store
        self._actor = actor
        self._resumes = dict(resumes)
        known = list(secrets)
        # Also as they look in JSON: a result is made into it first, and searched then.
        self._redactor = Redactor([*known, *(codec.encode(k).decode()[1:-1] for k in known)])
        self._live: dict[str, Live] = {}
        #: Ended, and not yet written down.
        self._fading = Fading(store)
        #: Jobs that ended since the start, by lane and state.
        self.ended: Counter[tuple[str, str]] = Counter()

    def _context(self, live: Live) -> JobContext:
        return JobContext(
            live.job.job_id,
            actor=self._actor,
            redactor=self._redactor,
            sink=lambda event: self._tell(live, event),
            loop=asyncio.get_running_loop(),
            ties=live.ties,
        )

    async def _run(self, live: Live) -> None:
        current_job.set(live.job.job_id)
        context = self._context(live)
        live.ties.on_child = lambda child: self._update(live, child=child)
        try:
            if live.written is not None:
                await asyncio.shield(live.written)
            self._update(live, state="running", started_at=live.job.started_at or now())
            result = await live.handler(context, live.request)
            # JSON made once (it may be a list of 10,000), and without known secrets.
            live.result = self._redactor.data(result if isinstance(result, bytes) else codec.encode(result))
            told = codec.embedded(live.result)
            context.narrate("result", f"{live.job.operation} done.", verbatim=True, result=told)
            self._end(live, "completed", result=told, result_bytes=len(live.result))
        except asyncio.CancelledError:
            self._cut(live)
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

    def _cut(self, live: Live, why: str = "The job was interrupted.") -> None:
        """It ended before its end."""
        child = live.job.child
        if live.cancelled:
            self._end(live, "cancelled")
        elif live.lost or (live.ties.leaving and child is not None and live.job.operation in self._resumes):
            self._leave(live)
        else:
            self._end(live, "failed", error=interrupted(why, child))

    def _leave(self, live: Live) -> None:
        """Its stream ends without an end: who reads it asks again."""
        if not live.feed.ended:
            live.feed.end(b"")
            self._live.pop(live.job.job_id, None)

    def held(self, job_id: str) -> Live | None:
        """A job that is told from memory."""
        return self._live.get(job_id) or self._fading.get(job_id)

    async def again(self, job_id: str, operation: str, asked: Mapping[str, Any]) -> Job | None:
        """The job that the same key made before, once it is written down; None when there is none yet: then nothing
        else has run since that was found out. Raises Conflict when something else was asked under that key."""
        job = None
        if self.held(job_id) is None:
            job = await self._store.get(job_id, result=False)
        live = self.held(job_id)  # it may have been made meanwhile
        if live is not None:
            if live.written is not None:
                await asyncio.shield(live.written)
            job = live.job
        if job is not None and (job.operation != operation or codec.encode(job.request) != codec.encode(asked)):
            raise Conflict("Something else was asked under this key before.", code="key_used", mend="Use another key.")
        return job

    async def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        live = self.held(job_id)
        return live.job if live is not None else await self.stored(job_id)

    async def stored(self, job_id: str, *, result: bool = True) -> Job:
        """Raises NotFound."""
        job = await self._store.get(job_id, result=result)
        if job is None:
            raise NotFound(f"There is no job {job_id!r}.", code="job_not_found")
        return job
