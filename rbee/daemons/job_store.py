# SPDX-License-Identifier: GPL-3.0-or-later
"""The port behind which jobs are kept, and what several queens on one store share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from rbee.contracts.jobs import Job, JobPage


class JobStore(Protocol):
    """Where jobs and their events stay. Writes are kept in order and never block; reads see all writes before.

    A job's `result` goes in, and comes out of `get`, as `codec.embedded` JSON: it is never taken apart. A database
    that is away for a while: what is written is kept, bounded, until it is back; what is asked raises Unavailable,
    code `store_away`, within seconds.
    """

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written down at the moment; None when it can."""
        ...

    async def open(self) -> None:
        """Raises RbeeError `store_unusable`: not there, no permission, damaged, or made by a newer release."""
        ...

    def put(self, job: Job) -> None:
        """An ended job stays as it ended, and a job that another queen has taken over is hers."""
        ...

    def append(self, job_id: str, seq: int, event: bytes) -> None:
        """One that ends behind `"result":` is read with the job's result there, and the brace that is missing."""
        ...

    async def settled(self) -> None:
        """Returns when all writes before are in the file (or the disk has refused them, which is logged). As long as
        the database is away, it waits."""
        ...

    async def get(self, job_id: str, *, result: bool = True) -> Job | None: ...

    async def page(
        self,
        state: str | None,
        limit: int,
        cursor: str | None,
        *,
        operation: str | None = None,
        hive_id: str | None = None,
        since: str | None = None,
    ) -> JobPage:
        """Without the larger results; shorter than `limit` when the jobs are large, `cursor` tells where to go on.

        `since`: made at that time or later, RFC 3339 as jobs have it.
        """
        ...

    async def events(self, job_id: str, after: int, limit: int, *, large: bool = True) -> list[tuple[int, bytes]]:
        """The events behind number `after`: at most `limit`, and not many bytes at once; none only at the end.

        Without `large` an event that has the job's large result in it is left out.
        """
        ...

    async def last(self, job_id: str) -> int:
        """The number of the last event; 0 when there is none."""
        ...

    async def claim(self, *, starting: bool) -> list[Job]:
        """Jobs that have not ended and that nobody runs: at the start those of this daemon's earlier life, later
        those of queens who have been silent for longer than their lease. Each is given to one queen only, and is
        hers from then on. Those of a queen who lives are never among them."""
        ...

    async def close(self) -> None:
        """Writes what waits, gives leases back. Nothing may be asked after."""
        ...


class Store(JobStore, Protocol):
    """A store that several queens may share. `shared` is false for one that only this process uses: then whoever asks
    for a lease has it, limits count here, and nobody hears what is published."""

    @property
    def shared(self) -> bool: ...

    @property
    def holder(self) -> str:
        """Who this is among those that share the store: the same after a restart."""
        ...

    async def lease(self, name: str, ttl: float) -> bool:
        """Takes or renews the lease `name`; whether it is this queen's for `ttl` seconds, counted from the call.

        It is somebody's at most at any time. False too while the database is away.
        """
        ...

    async def release(self, name: str) -> None:
        """Gives it back, if it is hers."""
        ...

    async def take(self, name: str, tokens: float, rate: float, burst: float) -> bool:
        """Takes `tokens` from a bucket that all queens share, all or none; it holds `burst` and gains `rate` a second.

        Raises Unavailable (`store_away`).
        """
        ...

    async def request_cancel(self, job_id: str) -> None:
        """Tells the queen that runs it. Raises Unavailable."""
        ...

    async def orders(self, live: Collection[str]) -> tuple[list[str], list[str]]:
        """Says that this queen lives and runs the jobs `live`. Of these: those that somebody wants cancelled, and
        those that are hers no more. Raises Unavailable."""
        ...

    def publish(self, topic: str, data: bytes) -> None:
        """Tells the other queens; `data` is UTF-8. Never blocks; while the database is away it is lost."""
        ...

    def subscribe(self, topic: str, hear: Callable[[bytes], None]) -> Callable[[], None]:
        """`hear` is called on the loop with what others publish, and with nothing (`b""`) when something may have been
        missed. Topic `job`: ids of jobs of which there is more, or to be cancelled (`cancel`). What it gives ends it.
        """
        ...
