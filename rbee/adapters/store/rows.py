# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of the job store, and what is kept in them. Everything here runs in the thread of the connection."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rbee.adapters.store.migrations import migrate
from rbee.adapters.store.results import Results
from rbee.adapters.store.written import CUT, EVENT_BYTES, PAGE_BYTES, RESULT_IN_PAGE, Written, read
from rbee.contracts import codec
from rbee.contracts.jobs import ENDED, Job, JobPage

log = logging.getLogger(__name__)

_PUT = (
    "INSERT INTO jobs (job_id, state, operation, hive_id, created_at, job, result, bytes) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE SET state = excluded.state, "
    "hive_id = excluded.hive_id, job = excluded.job, result = excluded.result, bytes = excluded.bytes"
)
_OLD = (
    "SELECT job_id, bytes FROM jobs WHERE state IN ('completed', 'failed', 'cancelled') "
    "AND n <= (SELECT n FROM jobs ORDER BY n DESC LIMIT 1 OFFSET ?)"
)
_OLDEST = (
    "SELECT job_id, bytes FROM jobs WHERE state IN ('completed', 'failed', 'cancelled') AND job_id != ? "
    "ORDER BY n LIMIT 20"
)
_FILTERS = {
    "state": "AND state = ? ",
    "operation": "AND operation = ? ",
    "hive_id": "AND hive_id = ? ",
    "since": "AND created_at >= ? ",
}
_SIZE = "SELECT coalesce(sum(length(event)), 0) FROM events WHERE job_id = ?"


class Rows:
    """An open database. Bounded: events of a job by number and bytes (the newest stays whatever its size), ended jobs
    by number and bytes (the last one stays), their large results by bytes of their own."""

    def __init__(
        self, path: Path, *, jobs: int, events: int, event_bytes: int, total_bytes: int, result_bytes: int
    ) -> None:
        """Opens or makes the file. Raises sqlite3.Error."""
        self._jobs, self._events, self._event_bytes, self._total_bytes = jobs, events, event_bytes, total_bytes
        #: Of jobs that have not ended: bytes of their events, and how many there are, or a few more.
        self._growing: dict[str, list[int]] = {}
        self.db = self._open(path)
        self._total: int = self.db.execute("SELECT coalesce(sum(bytes), 0) FROM jobs").fetchone()[0]
        self._results = Results(path.with_suffix(".results"), result_bytes)
        done = self.db.execute("SELECT job_id FROM jobs WHERE state = 'completed' AND result IS NULL")
        self._results.open({row[0] for row in done})

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        path.touch(mode=0o600, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            migrate(db)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 16777216")
        except BaseException:
            db.close()
            raise
        return db

    def put(self, job: Written) -> None:
        job_id, result, size = job.job_id, job.result, 0
        if result is not None and job.large:
            self._keep_apart(job_id, result)
            result = None
        if job.state in ENDED:
            if job_id in self._growing:
                self._trim(job_id)
                del self._growing[job_id]
            size = len(job.text) + len(result or b"") + self.db.execute(_SIZE, (job_id,)).fetchone()[0]
        said = (job_id, job.state, job.operation, job.hive_id, job.created_at, job.text, result, size)
        self.db.execute(_PUT, said)
        self._total += size
        if job.state == "queued":
            self._forget(self.db.execute(_OLD, (self._jobs,)).fetchall())
        while self._total > self._total_bytes:
            oldest = self.db.execute(_OLDEST, (job_id,)).fetchall()
            if not oldest:
                break
            over = self._total - self._total_bytes
            while len(oldest) > 1 and sum(row[1] for row in oldest[:-1]) >= over:
                oldest.pop()
            self._forget(oldest)

    def _keep_apart(self, job_id: str, result: bytes | memoryview) -> None:
        try:
            self._results.put(job_id, result)
        except OSError as e:  # the job has ended all the same
            log.error("the result of %s is not kept: %s", job_id, e)

    def _forget(self, old: list[tuple[str, int]]) -> None:
        if old:
            self.db.executemany("DELETE FROM events WHERE job_id = ?", [(row[0],) for row in old])
            self.db.executemany("DELETE FROM jobs WHERE job_id = ?", [(row[0],) for row in old])
            self._total -= sum(row[1] for row in old)
            self._results.forget(row[0] for row in old)

    def append(self, job_id: str, seq: int, event: bytes) -> None:
        self.db.execute("INSERT OR REPLACE INTO events VALUES (?, ?, ?)", (job_id, seq, event))
        growing = self._growing.setdefault(job_id, [0, 0])
        growing[0] += len(event)
        growing[1] += 1
        # A little beyond the bounds, so that it is not done for every event.
        if growing[0] > self._event_bytes * 9 // 8 or growing[1] > self._events * 9 // 8:
            self._trim(job_id)

    def _trim(self, job_id: str) -> None:
        """Back within the bounds: the oldest events go."""
        count = size = 0
        rows = self.db.execute("SELECT seq, length(event) FROM events WHERE job_id = ? ORDER BY seq DESC", (job_id,))
        for seq, length in rows.fetchall():
            if count and (count >= self._events or size + length > self._event_bytes):
                self.db.execute("DELETE FROM events WHERE job_id = ? AND seq <= ?", (job_id, seq))
                break
            count, size = count + 1, size + length
        self._growing[job_id] = [size, count]

    def get(self, job_id: str, with_result: bool) -> Job | None:
        what = "result" if with_result else "NULL"
        query = f"SELECT job, {what} FROM jobs WHERE job_id = ?"  # noqa: S608 - one of these two
        row = self.db.execute(query, (job_id,)).fetchone()
        if row is None:
            return None
        job = read(*row)
        if with_result and job.result is None and (apart := self._apart(job)) is not None:
            job = replace(job, result=codec.embedded(apart))
        return job

    def _apart(self, job: Job) -> bytes | None:
        """Its large result; None when it has none, or it is kept no more."""
        found = self._results.get(job.job_id)
        return found if found is not None and job.result_bytes in (None, len(found)) else None

    def page(self, where: Mapping[str, str | None], limit: int, before: int) -> JobPage:
        said = {name: value for name, value in where.items() if value is not None}
        rows = self.db.execute(
            "SELECT n, job, iif(length(result) <= ?, result, NULL), length(job) + coalesce(length(result), 0) "  # noqa: S608
            f"FROM jobs WHERE n < ? {''.join(map(_FILTERS.__getitem__, said))} ORDER BY n DESC LIMIT ?",
            (RESULT_IN_PAGE, before, *said.values(), limit + 1),
        )
        jobs: list[Job] = []
        last, size, more = 0, 0, None
        for n, job, result, length in rows:
            if len(jobs) == limit or (jobs and size > PAGE_BYTES):
                more = str(last)
                break
            jobs.append(read(job, result))
            last, size = n, size + min(length, len(job) + RESULT_IN_PAGE)
        rows.close()
        return JobPage(jobs=tuple(jobs), cursor=more)

    def events(self, job_id: str, after: int, limit: int, large: bool) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        size = 0
        rows = self.db.execute(
            "SELECT seq, event FROM events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?", (job_id, after, limit)
        )
        for seq, event in rows:
            if event.endswith(CUT):
                event = self._completed(job_id, event) if large else None
                if event is None:
                    continue
            if found and size + len(event) > EVENT_BYTES:
                break
            found.append((seq, event))
            size += len(event)
        rows.close()
        return found

    def _completed(self, job_id: str, event: bytes) -> bytes | None:
        """None when the daemon died before the result was written, or it is kept no more."""
        row = self.db.execute("SELECT job, result FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:
            return None
        result = row[1] if row[1] is not None else self._apart(codec.decode(Job, row[0]))
        return event + result + b"}" if result is not None else None

    def last(self, job_id: str) -> int:
        row = self.db.execute("SELECT max(seq) FROM events WHERE job_id = ?", (job_id,)).fetchone()
        return row[0] or 0

    def not_ended(self) -> list[Job]:
        rows = self.db.execute("SELECT job FROM jobs WHERE state IN ('queued', 'running') ORDER BY n").fetchall()
        return [read(text, None) for (text,) in rows]
