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
from pathlib import Path
from typing import Any, TypeVar

from rbee.contracts import codec, defaults
from rbee.contracts.jobs import ENDED, Job, JobError, JobPage
from rbee.core.errors import InvalidRequest, RbeeError

log = logging.getLogger(__name__)
T = TypeVar("T")

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    job TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, n);
CREATE TABLE IF NOT EXISTS events (
    job_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    event BLOB NOT NULL,
    PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
"""
_PUT = (
    "INSERT INTO jobs (job_id, state, job) VALUES (?, ?, ?) "
    "ON CONFLICT (job_id) DO UPDATE SET state = excluded.state, job = excluded.job"
)
_OLD = (
    "SELECT job_id FROM jobs WHERE state IN ('completed', 'failed', 'cancelled') "
    "AND n <= (SELECT n FROM jobs ORDER BY n DESC LIMIT 1 OFFSET ?)"
)
#: Writes made in one transaction, at most.
_BATCH = 2_000

_Work = Callable[[sqlite3.Connection], None]


class SqliteJobStore:
    """The store of one daemon (`queen.db`, `hive.db`); `rbee.daemons.jobs.JobStore` says what each method does."""

    def __init__(
        self, path: Path, *, jobs_kept: int = defaults.JOBS_KEPT, events_kept: int = defaults.MAX_JOB_EVENTS
    ) -> None:
        self._path = path
        self._jobs_kept = jobs_kept
        self._events_kept = events_kept
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
        except sqlite3.Error as e:
            raise RbeeError(f"The database {self._path} cannot be used: {e}.", code="store_unusable") from None

    def put(self, job: Job) -> None:
        row = (job.job_id, job.state, codec.encode(job).decode())
        new, ended = job.state == "queued", job.state in ENDED

        def write(db: sqlite3.Connection) -> None:
            db.execute(_PUT, row)
            if new:
                self._forget_old(db)
            if ended:
                db.execute(
                    "DELETE FROM events WHERE job_id = ? AND seq <= (SELECT max(seq) FROM events WHERE job_id = ?) - ?",
                    (row[0], row[0], self._events_kept),
                )

        self._work.put(write)

    def append(self, job_id: str, seq: int, event: bytes) -> None:
        def write(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO events VALUES (?, ?, ?)", (job_id, seq, event))
            if seq > self._events_kept and seq % 256 == 0:
                db.execute("DELETE FROM events WHERE job_id = ? AND seq <= ?", (job_id, seq - self._events_kept))

        self._work.put(write)

    async def settled(self) -> None:
        if self._thread is None:
            raise RbeeError("The store is closed.", code="store_closed")
        written: Future[None] = Future()
        self._work.put(written)
        await asyncio.wrap_future(written)

    async def get(self, job_id: str) -> Job | None:
        def read(db: sqlite3.Connection) -> Job | None:
            row = db.execute("SELECT job FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            return codec.decode(Job, row[0]) if row else None

        return await self._ask(read)

    async def page(self, state: str | None, limit: int, cursor: str | None) -> JobPage:
        """Raises InvalidRequest for a cursor that this store did not give."""
        if cursor is not None and not (cursor.isdecimal() and len(cursor) < 19):
            raise InvalidRequest("This is not a cursor of this list.")
        before = int(cursor) if cursor else 2**62
        where, values = ("AND state = ?", [state]) if state else ("", [])

        def read(db: sqlite3.Connection) -> JobPage:
            rows = db.execute(
                f"SELECT n, job FROM jobs WHERE n < ? {where} ORDER BY n DESC LIMIT ?",  # noqa: S608 - a constant
                (before, *values, limit + 1),
            ).fetchall()
            more = str(rows[limit - 1][0]) if len(rows) > limit else None
            return JobPage(jobs=tuple(codec.decode(Job, job) for _, job in rows[:limit]), cursor=more)

        return await self._ask(read)

    async def events(self, job_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        def read(db: sqlite3.Connection) -> list[tuple[int, bytes]]:
            return db.execute(
                "SELECT seq, event FROM events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?",
                (job_id, after, limit),
            ).fetchall()

        return await self._ask(read)

    async def interrupt_running(self, error: JobError) -> int:
        def write(db: sqlite3.Connection) -> int:
            rows = db.execute("SELECT job FROM jobs WHERE state IN ('queued', 'running')").fetchall()
            for (text,) in rows:
                found = codec.decode(dict[str, Any], text)
                found |= {"state": "failed", "error": codec.plain(error), "ended_at": error.timestamp}
                job = codec.convert(Job, found)
                db.execute(_PUT, (job.job_id, job.state, codec.encode(job).decode()))
            return len(rows)

        return await self._ask(write)

    async def close(self) -> None:
        """Writes what waits and closes the file. Nothing may be asked after."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._work.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    async def _ask(self, read: Callable[[sqlite3.Connection], T]) -> T:
        if self._thread is None:
            raise RbeeError("The store is closed.", code="store_closed")
        answer: Future[T] = Future()

        def work(db: sqlite3.Connection) -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(read(db))
            except Exception as e:
                answer.set_exception(e)

        self._work.put(work)
        return await asyncio.wrap_future(answer)

    def _forget_old(self, db: sqlite3.Connection) -> None:
        old = db.execute(_OLD, (self._jobs_kept,)).fetchall()
        if old:
            db.executemany("DELETE FROM events WHERE job_id = ?", old)
            db.executemany("DELETE FROM jobs WHERE job_id = ?", old)

    # In the thread.

    def _own(self, opened: Future[None]) -> None:
        try:
            db = self._open()
        except BaseException as e:
            opened.set_exception(e)
            return
        opened.set_result(None)
        try:
            self._serve(db)
        finally:
            db.close()

    def _open(self) -> sqlite3.Connection:
        self._path.touch(mode=0o600, exist_ok=True)
        db = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
            row = db.execute("SELECT version FROM schema_version").fetchone()
            if row is None:
                db.execute("INSERT INTO schema_version VALUES (?)", (VERSION,))
            elif row[0] > VERSION:
                raise sqlite3.DatabaseError(f"it was made by a newer rbee (schema {row[0]}, known {VERSION})")
        except BaseException:
            db.close()
            raise
        return db

    def _serve(self, db: sqlite3.Connection) -> None:
        going = True
        while going:
            batch = [self._work.get()]
            while len(batch) < _BATCH and not self._work.empty():
                batch.append(self._work.get())
            going = None not in batch
            try:
                self._together(db, [work for work in batch if work is not None and not isinstance(work, Future)])
            except sqlite3.Error:  # a full disk, mostly: what comes later may find room again
                log.exception("writes to %s were lost", self._path)
                if db.in_transaction:
                    db.execute("ROLLBACK")
            for written in batch:
                if isinstance(written, Future) and written.set_running_or_notify_cancel():
                    written.set_result(None)

    def _together(self, db: sqlite3.Connection, batch: list[_Work]) -> None:
        """One transaction; a write that fails loses itself only, unless SQLite gave up the whole of it."""
        db.execute("BEGIN")
        for work in batch:
            try:
                work(db)
            except Exception:
                log.exception("a write to %s was lost", self._path)
        if db.in_transaction:
            db.execute("COMMIT")
