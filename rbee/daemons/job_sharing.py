# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs of several queens on one store: each says that she lives, hears of the others' jobs, and takes up those of a
queen who is dead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol

from rbee.contracts.jobs import Job
from rbee.core.errors import RbeeError
from rbee.daemons.job_store import Store

log = logging.getLogger(__name__)

#: Seconds after which a reader of another queen's job looks by himself, should no word have come.
LOOK: Final = 2.0


class Owner(Protocol):
    """Whoever runs jobs."""

    def live(self) -> Collection[str]:
        """The jobs that run or wait here."""
        ...

    def call_off(self, job_id: str) -> None:
        """Cancels it, if it is one of hers."""
        ...

    def lose(self, job_id: str) -> None:
        """It is another's by now: ends here without a word, its hive's part goes on."""
        ...

    async def take_up(self, job: Job) -> None:
        """It is hers from now on: goes on with it, or ends it."""
        ...


class Sharing:
    """Belongs to one event loop. With a store that is not shared there is nothing to do."""

    def __init__(self, store: Store, owner: Owner, beat: float) -> None:
        self._store = store
        self._owner = owner
        self._beat = beat
        self._watching: dict[str, set[asyncio.Event]] = {}
        self._forget: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._ended = False

    def start(self) -> None:
        if self._store.shared:
            self._forget = [
                self._store.subscribe("job", self._more),
                self._store.subscribe("cancel", self._cancel),
                self._store.subscribe("gone", lambda _: self._look.set()),
            ]
            self._task = asyncio.get_running_loop().create_task(self._run(), name="job-sharing")

    async def stop(self) -> None:
        for forget in self._forget:
            forget()
        self._forget.clear()
        # Before Python 3.12 `wait_for` may swallow a cancel that comes just as it ends.
        self._ended = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """Is set whenever there is more of a job in the store, or may be."""
        more = asyncio.Event()
        watching = self._watching.setdefault(job_id, set())
        watching.add(more)
        try:
            yield more
        finally:
            watching.discard(more)
            if not watching:
                self._watching.pop(job_id, None)

    def _more(self, data: bytes) -> None:
        for job_id in data.decode().split("\n") if data else list(self._watching):
            for more in self._watching.get(job_id, ()):
                more.set()

    def _cancel(self, data: bytes) -> None:
        if data:
            self._owner.call_off(data.decode())
        else:
            self._look.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._ended:
            try:
                await self._look_around()
            except RbeeError as e:  # away; the store has said so
                log.debug("no word from other queens: %s", e)
            except Exception:
                log.exception("looking after shared jobs failed")
            self._look.clear()
            timer = loop.call_later(0.0 if self._ended else self._beat, self._look.set)
            try:
                await self._look.wait()
            finally:
                timer.cancel()

    async def _look_around(self) -> None:
        cancels, lost = await self._store.orders(self._owner.live())
        for job_id in cancels:
            self._owner.call_off(job_id)
        for job_id in lost:
            self._owner.lose(job_id)
        for job in await self._store.claim(starting=False):
            log.warning("the queen of %s (%s) is gone; it is ours now", job.job_id, job.operation)
            await self._owner.take_up(job)
