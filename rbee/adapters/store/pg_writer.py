# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes to PostgreSQL: in order, in batches, by one task; kept, bounded, while the database is away."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import asyncpg

from rbee.adapters.store.pg_link import Link, close, is_away, words
from rbee.adapters.store.pg_rows import Append, Note, Op, Rows
from rbee.adapters.store.written import Written
from rbee.contracts import defaults

log = logging.getLogger(__name__)

#: Writes made in one transaction, at most.
_BATCH = 2_000
#: What waits for the database, at most; beyond it the oldest events go. Jobs themselves never do.
MOST = 100_000
MOST_BYTES = 64 * 2**20
_BACKOFF_MAX = 2.0


class Writer:
    """Belongs to one event loop. Nothing here raises: who must know asks `settled` or reads `trouble`."""

    def __init__(self, link: Link, rows: Rows, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._link = link
        self._rows = rows
        self._most, self._most_bytes = most, most_bytes
        self._waiting: deque[Op | asyncio.Future[None]] = deque()
        self._bytes = 0
        #: What is being written: not gone until it is there.
        self._batch: list[Op | asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._closing = self._given_up = False
        self._db: asyncpg.Connection[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        #: Why nothing can be written at the moment.
        self.trouble: str | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="store-writer")

    def add(self, op: Op) -> None:
        if isinstance(op, Note) and self.trouble is not None:
            return  # nobody hears it, and what it says will be old
        self._waiting.append(op)
        self._bytes += _size(op)
        if self._bytes > self._most_bytes or len(self._waiting) > self._most:
            self._drop_oldest()
        self._wake.set()

    def settled(self) -> asyncio.Future[None]:
        """Done when everything before it is written."""
        mark: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._waiting and not self._batch:
            mark.set_result(None)
        else:
            self._waiting.append(mark)
            self._wake.set()
        return mark

    def _drop_oldest(self) -> None:
        """Down to seven eighths, so that it is not done for every event."""
        too_many = len(self._waiting) - self._most * 7 // 8
        too_large = self._bytes - self._most_bytes * 7 // 8
        kept: deque[Op | asyncio.Future[None]] = deque()
        dropped = 0
        for op in self._waiting:
            if isinstance(op, (Append, Note)) and (dropped < too_many or too_large > 0):
                dropped += 1
                too_large -= _size(op)
                self._bytes -= _size(op)
            else:
                kept.append(op)
        self._waiting = kept
        log.error("%s: %d events wait no more; the database is away or too slow", self._link.name, dropped)

    async def close(self) -> None:
        """Writes what waits, if the database takes it in time; one that is away may just be coming back."""
        within = 5.0 if self.trouble is None else 2.0
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=within)
            if not self._task.done():
                log.error("%s: %d writes are lost", self._link.name, len(self._waiting) + len(self._batch))
                self._given_up = True  # a cancel may be swallowed by a connection that is just being made
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        for mark in (*self._batch, *self._waiting):
            if isinstance(mark, asyncio.Future) and not mark.done():
                mark.cancel()
        await close(self._db)

    async def _run(self) -> None:
        wait = defaults.BACKOFF_FIRST
        while not self._given_up:
            if not self._batch and not self._waiting:
                if self._closing:
                    return
                await self._wake.wait()
                self._wake.clear()
                continue
            if not self._batch:
                self._batch = self._take()
            try:
                await self._write(self._batch)
            except Exception as e:
                self._lost(e)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _BACKOFF_MAX)
                continue
            wait = defaults.BACKOFF_FIRST
            self._written()

    def _take(self) -> list[Op | asyncio.Future[None]]:
        """What is next; a large result is the first of its batch, so that nobody waits for it who came before."""
        batch: list[Op | asyncio.Future[None]] = []
        while self._waiting and len(batch) < _BATCH:
            op = self._waiting[0]
            if batch and isinstance(op, Written) and op.large:
                break
            batch.append(self._waiting.popleft())
            self._bytes -= _size(op)
        return batch

    async def _write(self, batch: list[Op | asyncio.Future[None]]) -> None:
        ops = [op for op in batch if not isinstance(op, asyncio.Future)]
        if not ops:
            return
        if self._db is None or self._db.is_closed():
            self._db = await self._link.connect()
        try:
            await self._rows.write(self._db, ops)
        except Exception as e:
            if is_away(e):
                raise
            await self._one_by_one(self._db, ops)

    async def _one_by_one(self, db: asyncpg.Connection[Any], ops: list[Op]) -> None:
        """A write that is refused loses itself only."""
        lost, why = 0, ""
        for op in ops:
            try:
                await self._rows.write(db, [op])
            except Exception as e:
                if is_away(e):
                    raise
                lost, why = lost + 1, words(e)
        if lost:
            log.error("%s: %d writes were lost, the last one: %s", self._link.name, lost, why)

    def _lost(self, error: Exception) -> None:
        if self.trouble is None:
            log.warning("%s is away: %s", self._link.name, words(error))
        self.trouble = words(error)
        if self._db is not None:
            self._db.terminate()
            self._db = None
        self._waiting = deque(op for op in self._waiting if not isinstance(op, Note))
        self._bytes = sum(map(_size, self._waiting))
        self._batch = [op for op in self._batch if not isinstance(op, Note)]

    def _written(self) -> None:
        if self.trouble is not None:
            log.info("%s is back; %d writes wait", self._link.name, len(self._waiting))
            self.trouble = None
        batch, self._batch = self._batch, []
        for mark in batch:
            if isinstance(mark, asyncio.Future) and not mark.done():
                mark.set_result(None)


def _size(op: Op | asyncio.Future[None]) -> int:
    if isinstance(op, Append):
        return len(op.event) + 100
    if isinstance(op, Written):
        return len(op.text) + len(op.result or b"") + 100
    return len(op.text) + 100 if isinstance(op, Note) else 0
