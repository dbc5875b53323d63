# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs and their events in SQLite: one thread owns the connection, writes are batched, the loop never blocks."""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rbee.adapters.store.alone import Alone
from rbee.adapters.store.rows import Rows
from rbee.adapters.store.written import place_of, written
from rbee.contracts import defaults
from rbee.contracts.jobs import Job, JobPage
from rbee.core.errors import RbeeError

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Writes made in one transaction, at most.
_BATCH = 2_000

_Work = Callable[[Rows], None]


@dataclass(frozen=True, slots=True)
class _Large:
    """A write of its own: whoever waits for what was before needs not wait for it too."""

    write: _Work

    def __call__(self, rows: Rows) -> None:
        self.write(rows)


class SqliteJobStore(Alone):
    """The store of one daemon (`queen.db`, `hive.db`); `rbee.daemons.job_store.Store` says what each method does."""

    def __init__(
        self,
        path: Path,
        *,
        jobs_kept: int = defaults.JOBS_KEPT,
        events_kept: int = defaults.MAX_JOB_EVENTS,
        event_bytes: int = defaults.MAX_JOB_BYTES,
        total_bytes: int = defaults.JOBS_BYTES,
        result_bytes: int = defaults.RESULTS_BYTES,
    ) -> None:
        super().__init__()
        self._path = path
        self._bounds = {
            "jobs": jobs_kept,
            "events": events_kept,
            "event_bytes": event_bytes,
            "total_bytes": total_bytes,
            "result_bytes": result_bytes,
        }
        self._work: queue.SimpleQueue[_Work | Future[None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """Opens or makes the file. Raises RbeeError (code `store_unusable`): no permission, damaged, or newer."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._own, args=(opened,), name="rbee-store", daemon=True)
        self._thread.start()
        try:
            await asyncio.wrap_future(opened)
        except (sqlite3.Error, OSError) as e:
            raise RbeeError(f"The database {self._path} cannot be used: {e}.", code="store_unusable") from None

    def put(self, job: Job) -> None:
        row = written(job)

        def write(rows: Rows) -> None:
            rows.put(row)

        self._work.put(_Large(write) if row.large else write)

    def append(self, job_id: str, seq: int, event: bytes) -> None:
        self._work.put(lambda rows: rows.append(job_id, seq, event))

    async def settled(self) -> None:
        if self._thread is None:
            raise RbeeError("The store is closed.", code="store_closed")
        done: Future[None] = Future()
        self._work.put(done)
        await asyncio.wrap_future(done)

    async def get(self, job_id: str, *, result: bool = True) -> Job | None:
        return await self._ask(lambda rows: rows.get(job_id, result))

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
        """Raises InvalidRequest for a cursor that this store did not give."""
        before = place_of(cursor)
        where = {"state": state, "operation": operation, "hive_id": hive_id, "since": since}
        return await self._ask(lambda rows: rows.page(where, limit, before))

    async def events(self, job_id: str, after: int, limit: int, *, large: bool = True) -> list[tuple[int, bytes]]:
        return await self._ask(lambda rows: rows.events(job_id, after, limit, large))

    async def last(self, job_id: str) -> int:
        return await self._ask(lambda rows: rows.last(job_id))

    async def claim(self, *, starting: bool) -> list[Job]:
        """The file has one daemon at a time: what an earlier one left is this one's."""
        return await self._ask(lambda rows: rows.not_ended()) if starting else []

    async def close(self) -> None:
        """Writes what waits and closes the file. Nothing may be asked after."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._work.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    async def _ask(self, read: Callable[[Rows], T]) -> T:
        if self._thread is None:
            raise RbeeError("The store is closed.", code="store_closed")
        answer: Future[T] = Future()

        def work(rows: Rows) -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(read(rows))
            except Exception as e:
                answer.set_exception(e)

        self._work.put(work)
        return await asyncio.wrap_future(answer)

    # In the thread.

    def _own(self, opened: Future[None]) -> None:
        try:
            rows = Rows(self._path, **self._bounds)
        except BaseException as e:
            opened.set_exception(e)
            return
        opened.set_result(None)
        try:
            self._serve(rows)
        finally:
            rows.db.close()

    def _serve(self, rows: Rows) -> None:
        going, left = True, None
        while going:
            batch = [left or self._work.get()]
            left = None
            while len(batch) < _BATCH and not self._work.empty():
                found = self._work.get()
                if isinstance(found, _Large):
                    left = found
                    break
                batch.append(found)
            going = None not in batch
            try:
                self._together(rows, [work for work in batch if work is not None and not isinstance(work, Future)])
            except sqlite3.Error:  # a full disk, mostly: what comes later may find room again
                log.exception("writes to %s were lost", self._path)
                if rows.db.in_transaction:
                    rows.db.execute("ROLLBACK")
            for mark in batch:
                if isinstance(mark, Future) and mark.set_running_or_notify_cancel():
                    mark.set_result(None)

    def _together(self, rows: Rows, batch: list[_Work]) -> None:
        """One transaction; a write that fails loses itself only, unless SQLite gave up the whole of it."""
        rows.db.execute("BEGIN")
        for work in batch:
            try:
                work(rows)
            except Exception:
                log.exception("a write to %s was lost", self._path)
        if rows.db.in_transaction:
            rows.db.execute("COMMIT")
