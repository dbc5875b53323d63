# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that has not ended yet, as its runner holds it; and one that only goes on while somebody listens."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from rbee.contracts.jobs import Job
from rbee.core.errors import RbeeError, Unavailable
from rbee.daemons import sse
from rbee.daemons.job_store import JobStore
from rbee.daemons.narrate import Ties

log = logging.getLogger(__name__)
#: Ended jobs that no disk takes, which are kept in memory.
UNWRITTEN: Final = 32
#: Seconds until a database that was away is asked again.
_AGAIN: Final = 1.0


@dataclass(slots=True)
class Live:
    """Without a task it waits for its turn."""

    job: Job
    lane: str
    handler: Callable[..., Any]
    request: Any
    feed: sse.Feed = field(default_factory=sse.Feed)
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    #: Begun in an earlier life of this daemon, or by another: its first events are in the store only.
    resumed: bool = False
    #: Its end is another queen's to tell.
    lost: bool = False
    #: Once it is written down.
    written: asyncio.Future[None] | None = None
    ties: Ties = field(default_factory=Ties)
    #: As JSON, once there is one.
    result: bytes = b""

    @property
    def endless(self) -> bool:
        """Whether it goes on until it is cancelled: then it is of use only to those who read its stream."""
        asked = self.request
        return (asked.get("follow") if isinstance(asked, dict) else getattr(asked, "follow", False)) is True


def attend(live: Live, longest: float, abandon: Callable[[], None]) -> None:
    """`abandon()` is called once nobody has read the job's stream for `longest` seconds. Needs a running loop.

    Whoever follows a log and is killed, or loses the network, cancels nothing: their job would write its events and
    keep its place in its lane for ever.
    """
    loop = asyncio.get_running_loop()

    def look() -> None:
        if live.feed.ended:
            return
        left = longest - live.feed.unheard()
        if left <= 0:
            abandon()
        else:
            loop.call_later(left, look)

    loop.call_later(longest, look)


class Fading:
    """Ended jobs, told from memory until they are written down: a large result takes a moment.

    Those that a full disk did not take stay, the newest `UNWRITTEN`: who cannot learn what became of his jobs cannot
    delete what fills the disk.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._jobs: dict[str, Live] = {}
        self._unwritten: deque[str] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, job_id: str) -> Live | None:
        return self._jobs.get(job_id)

    def add(self, live: Live) -> None:
        """Needs a running loop."""
        self._jobs[live.job.job_id] = live
        task = asyncio.get_running_loop().create_task(self._fade(live.job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fade(self, job: Job) -> None:
        try:
            found = await self._kept(job)
        except RbeeError:  # closed meanwhile: nobody will ask
            found = job
        except Exception:  # what cannot be read is as good as not written
            log.exception("the job %s cannot be read", job.job_id)
            found = None
        gone: str | None = job.job_id
        if found is None or found.state != job.state:
            self._unwritten.append(job.job_id)
            gone = self._unwritten.popleft() if len(self._unwritten) > UNWRITTEN else None
        if gone is not None:
            self._jobs.pop(gone, None)

    async def _kept(self, job: Job) -> Job | None:
        while True:
            await self._store.settled()
            try:
                return await self._store.get(job.job_id, result=False)
            except Unavailable:  # away again: the job is told from memory until then
                await asyncio.sleep(_AGAIN)
