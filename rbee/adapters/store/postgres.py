# SPDX-License-Identifier: GPL-3.0-or-later
"""The store of several queens: one PostgreSQL. Reads come from a pool; writes go through one task, in order; what
other queens tell is heard on a connection of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeVar

import asyncpg

from rbee.adapters.store import pg_reads, pg_shared
from rbee.adapters.store.migrations import POSTGRES, Step
from rbee.adapters.store.pg_link import Link, gone, is_away
from rbee.adapters.store.pg_mail import Mail
from rbee.adapters.store.pg_rows import Append, Bounds, Note, Rows
from rbee.adapters.store.pg_writer import Writer
from rbee.adapters.store.written import place_of, written
from rbee.contracts import defaults
from rbee.contracts.jobs import Job, JobPage
from rbee.core.errors import RbeeError

T = TypeVar("T")

_CONNECTIONS = 8
#: Who asks is told within so many seconds that the database is away.
_WITHIN = 4.0
#: Longer letters are not sent: nothing that queens tell each other is so long.
_LETTER = 2**20


class PostgresStore:
    """`rbee.daemons.job_store.Store` says what each method does. Belongs to one event loop.

    `holder` is the queen's name among those on this database. One that was silent for `owner_ttl` seconds is taken
    for dead: her jobs are given to others.
    """

    shared = True

    def __init__(
        self,
        url: str,
        holder: str,
        *,
        password: str | None = None,
        owner_ttl: float = defaults.OWNER_TTL,
        jobs_kept: int = defaults.JOBS_KEPT,
        events_kept: int = defaults.MAX_JOB_EVENTS,
        event_bytes: int = defaults.MAX_JOB_BYTES,
        total_bytes: int = defaults.JOBS_BYTES,
        result_bytes: int = defaults.RESULTS_BYTES,
        steps: Sequence[Step] = POSTGRES,
    ) -> None:
        """Raises RbeeError (`bad_config`) for a bad URL."""
        self.holder = holder
        self._ttl = owner_ttl
        self._steps = steps
        self._link = Link(url, password)
        bounds = Bounds(
            jobs=jobs_kept,
            events=events_kept,
            event_bytes=event_bytes,
            total_bytes=total_bytes,
            result_bytes=result_bytes,
        )
        self._rows = Rows(holder, bounds)
        self._writer = Writer(self._link, self._rows)
        self._mail = Mail(self._link, holder, self._letter)
        self._pool: asyncpg.Pool[Any] | None = None
        #: Since when it is heard without a break that others live, by this process's clock.
        self._heard_since = 0.0

    @property
    def trouble(self) -> str | None:
        return self._writer.trouble

    async def open(self) -> None:
        await self._link.prepare(self._steps)
        try:
            self._pool = await self._link.pool(_CONNECTIONS)
            async with self._pool.acquire() as db:
                await pg_shared.lease_of_queen(db, self.holder, self._ttl)
                self._rows.trims = await pg_shared.lease(db, pg_shared.TRIMMING, self.holder, self._ttl)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncio.TimeoutError, TimeoutError) as e:
            raise self._link.unusable(str(e)) from None
        self._heard_since = time.monotonic()
        self._writer.start()
        self._mail.start()
        try:
            await asyncio.wait_for(self._mail.listening.wait(), _WITHIN)
        except (asyncio.TimeoutError, TimeoutError):
            raise self._link.unusable("it cannot be listened to") from None

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        await self._mail.close()
        await self._writer.close()
        if pool is None:
            return
        try:
            async with pool.acquire(timeout=2.0) as db:
                await pg_shared.release_all(db, self.holder)
            await asyncio.wait_for(pool.close(), 5.0)
        except Exception:  # whatever it is: nobody needs the connections any more
            pool.terminate()

    # Jobs.

    def put(self, job: Job) -> None:
        self._writer.add(written(job))

    def append(self, job_id: str, seq: int, event: bytes) -> None:
        self._writer.add(Append(job_id, seq, event))

    async def settled(self) -> None:
        if self._pool is None:
            raise RbeeError("The store is closed.", code="store_closed")
        try:
            await self._writer.settled()
        except asyncio.CancelledError:
            if self._pool is None:
                raise RbeeError("The store is closed.", code="store_closed") from None
            raise

    async def get(self, job_id: str, *, result: bool = True) -> Job | None:
        return await self._read(lambda db: pg_reads.get(db, job_id, result))

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
        before = place_of(cursor)
        where = {"state": state, "operation": operation, "hive_id": hive_id, "since": since}
        return await self._read(lambda db: pg_reads.page(db, where, limit, before))

    async def events(self, job_id: str, after: int, limit: int, *, large: bool = True) -> list[tuple[int, bytes]]:
        return await self._read(lambda db: pg_reads.events(db, job_id, after, limit, large))

    async def last(self, job_id: str) -> int:
        return await self._read(lambda db: pg_reads.last(db, job_id))

    async def claim(self, *, starting: bool) -> list[Job]:
        """Nobody is taken for dead before this queen has listened for as long as a lease lasts: after the database
        was away, all leases look old."""
        silent = time.monotonic() - self._heard_since >= self._ttl
        return await self._read(lambda db: pg_shared.claim(db, self.holder, starting, silent))

    # What queens share.

    async def lease(self, name: str, ttl: float) -> bool:
        try:
            return await self._ask(lambda db: pg_shared.lease(db, name, self.holder, ttl))
        except RbeeError:
            return False

    async def release(self, name: str) -> None:
        await self._ask(lambda db: pg_shared.release(db, name, self.holder))

    async def take(self, name: str, tokens: float, rate: float, burst: float) -> bool:
        return await self._ask(lambda db: pg_shared.take(db, name, tokens, rate, burst))

    async def request_cancel(self, job_id: str) -> None:
        await self._read(lambda db: pg_shared.request_cancel(db, job_id))
        self.publish("cancel", job_id.encode())

    async def orders(self, live: Collection[str]) -> tuple[list[str], list[str]]:
        async def look(db: asyncpg.Connection[Any]) -> tuple[list[str], list[str]]:
            await pg_shared.lease_of_queen(db, self.holder, self._ttl)
            self._rows.trims = await pg_shared.lease(db, pg_shared.TRIMMING, self.holder, self._ttl)
            if self._rows.trims:
                await pg_shared.tidy(db)
            return await pg_shared.orders(db, self.holder, live)

        try:
            return await self._read(look)
        except RbeeError:
            self._rows.trims = False
            self._heard_since = time.monotonic()
            raise

    def publish(self, topic: str, data: bytes) -> None:
        if len(data) <= _LETTER:
            self._writer.add(Note(topic, data.decode("utf-8", "replace").replace("\0", "\ufffd")))

    def subscribe(self, topic: str, hear: Callable[[bytes], None]) -> Callable[[], None]:
        return self._mail.subscribe(topic, hear)

    async def _letter(self, n: int) -> str | None:
        async def fetch(db: asyncpg.Connection[Any]) -> str | None:
            found: str | None = await db.fetchval("SELECT body FROM rbee.letters WHERE n = $1", n)
            return found

        return await self._ask(fetch)

    # How it is asked.

    async def _read(self, work: Callable[[asyncpg.Connection[Any]], Awaitable[T]]) -> T:
        """After everything that was written before."""
        if self._pool is None:
            raise RbeeError("The store is closed.", code="store_closed")
        if self.trouble is not None:
            raise gone(self.trouble)
        mark = self._writer.settled()
        await asyncio.wait({mark}, timeout=_WITHIN)
        if not mark.done():
            mark.cancel()
            raise gone(self.trouble or "it takes no writes")
        return await self._ask(work)

    async def _ask(self, work: Callable[[asyncpg.Connection[Any]], Awaitable[T]]) -> T:
        """A second time when a connection turns out to be lost: the pool has others, or makes one."""
        for again in (True, False):
            try:
                return await asyncio.wait_for(self._once(work), _WITHIN)
            except Exception as e:
                if not is_away(e):
                    raise
                if not again or isinstance(e, (asyncio.TimeoutError, TimeoutError, ConnectionRefusedError)):
                    raise gone(e) from None
        raise AssertionError

    async def _once(self, work: Callable[[asyncpg.Connection[Any]], Awaitable[T]]) -> T:
        if self._pool is None:
            raise RbeeError("The store is closed.", code="store_closed")
        async with self._pool.acquire() as db:
            return await work(db)
