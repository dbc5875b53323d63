# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written to PostgreSQL together, and what of it is kept. Everything here can be done twice: after an error
nobody knows whether it was done once already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from rbee.adapters.store.written import Written
from rbee.contracts.jobs import ENDED

#: PostgreSQL takes notifications of up to 7,999 bytes.
_NOTE = 7_800
CHANNEL = "rbee"

_PUT = """
INSERT INTO rbee.jobs (job_id, state, operation, hive_id, created_at, job, result, owner)
SELECT j.job_id, j.state, j.operation, j.hive_id, j.created_at, j.job, j.result, $8
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[])
WITH ORDINALITY AS j (job_id, state, operation, hive_id, created_at, job, result, place) ORDER BY j.place
ON CONFLICT (job_id) DO UPDATE
SET state = excluded.state, hive_id = excluded.hive_id, job = excluded.job, result = excluded.result
WHERE jobs.owner = excluded.owner AND jobs.state NOT IN ('completed', 'failed', 'cancelled')
"""
_APART = """
INSERT INTO rbee.results (job_id, result) SELECT job_id, $2 FROM rbee.jobs WHERE job_id = $1 AND owner = $3
ON CONFLICT (job_id) DO UPDATE SET result = excluded.result
"""
_APPEND = """
INSERT INTO rbee.events (job_id, seq, event)
SELECT e.job_id, e.seq, e.event FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS e (job_id, seq, event)
WHERE NOT EXISTS (SELECT 1 FROM rbee.jobs j WHERE j.job_id = e.job_id AND j.owner <> $4)
ON CONFLICT DO NOTHING
"""
_TRIM = """
DELETE FROM rbee.events WHERE job_id = $1 AND seq <= (
    SELECT max(seq) FROM (
        SELECT seq, row_number() OVER newest AS place, sum(octet_length(event)) OVER newest AS size
        FROM rbee.events WHERE job_id = $1 WINDOW newest AS (ORDER BY seq DESC)
    ) AS e WHERE place > 1 AND (place > $2 OR size > $3))
"""
_SIZE = "SELECT coalesce(sum(octet_length(event)), 0), count(*) FROM rbee.events WHERE job_id = $1"
_WEIGH = """
UPDATE rbee.jobs SET bytes = octet_length(job) + coalesce(octet_length(result), 0) +
    (SELECT coalesce(sum(octet_length(event)), 0) FROM rbee.events e WHERE e.job_id = jobs.job_id)
WHERE job_id = ANY($1::text[])
"""
_OLD = """
SELECT job_id FROM (
    SELECT job_id, state, row_number() OVER (ORDER BY n DESC) AS place FROM rbee.jobs
) AS j WHERE place > $1 AND state IN ('completed', 'failed', 'cancelled')
UNION
SELECT job_id FROM (
    SELECT job_id, row_number() OVER newest AS place, sum(bytes) OVER newest AS size FROM rbee.jobs
    WHERE state IN ('completed', 'failed', 'cancelled') WINDOW newest AS (ORDER BY n DESC)
) AS e WHERE size > $2 AND place > 1
"""
_OLD_RESULTS = """
DELETE FROM rbee.results WHERE n <= (
    SELECT max(n) FROM (
        SELECT n, row_number() OVER newest AS place, sum(octet_length(result)) OVER newest AS size FROM rbee.results
        WINDOW newest AS (ORDER BY n DESC)
    ) AS r WHERE place > 1 AND size > $1)
"""


@dataclass(frozen=True, slots=True)
class Append:
    job_id: str
    seq: int
    event: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """For the other queens."""

    topic: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """As `rbee.adapters.store.rows.Rows` has them."""

    jobs: int
    events: int
    event_bytes: int
    total_bytes: int
    result_bytes: int


Op = Written | Append | Note


@dataclass(slots=True)
class Rows:
    """Writes of one queen, `holder`. `trims`: whether it is this queen that throws old jobs of all queens away."""

    holder: str
    bounds: Bounds
    trims: bool = False
    #: Of jobs that have not ended: bytes of their events, and how many there are, or a few more.
    _growing: dict[str, list[int]] = field(default_factory=dict)

    async def write(self, db: asyncpg.Connection[Any], ops: Sequence[Op]) -> None:
        """All of it or nothing. Raises what asyncpg does."""
        #: The last word on a job, in the order of their first.
        puts = {op.job_id: op for op in ops if isinstance(op, Written)}
        appends = [op for op in ops if isinstance(op, Append)]
        ended = [job_id for job_id, put in puts.items() if put.state in ENDED]
        async with db.transaction():
            if puts:
                await self._put(db, list(puts.values()))
            if appends:
                columns = ([a.job_id for a in appends], [a.seq for a in appends], [a.event for a in appends])
                await db.execute(_APPEND, *columns, self.holder)
                await self._bound(db, appends)
            if ended:
                for job_id in ended:
                    if self._growing.pop(job_id, None) is not None:
                        await db.execute(_TRIM, job_id, self.bounds.events, self.bounds.event_bytes)
                await db.execute(_WEIGH, ended)
            if self.trims and (ended or any(put.state == "queued" for put in puts.values())):
                await self.trim(db)
            touched = "\n".join(dict.fromkeys([*(a.job_id for a in appends), *puts]))
            notes = [op for op in ops if isinstance(op, Note)]
            await self._tell(db, [*([Note("job", touched)] if touched else []), *notes])

    async def _put(self, db: asyncpg.Connection[Any], puts: Sequence[Written]) -> None:
        columns = [
            [p.job_id for p in puts],
            [p.state for p in puts],
            [p.operation for p in puts],
            [text(p.hive_id) for p in puts],
            [text(p.created_at) for p in puts],
            [p.text for p in puts],
            [None if p.result is None or p.large else bytes(p.result) for p in puts],
        ]
        await db.execute(_PUT, *columns, self.holder)
        for put in puts:
            if put.result is not None and put.large:
                await db.execute(_APART, put.job_id, bytes(put.result), self.holder)

    async def _bound(self, db: asyncpg.Connection[Any], appends: Sequence[Append]) -> None:
        touched = set()
        for append in appends:
            growing = self._growing.setdefault(append.job_id, [0, 0])
            growing[0] += len(append.event)
            growing[1] += 1
            touched.add(append.job_id)
        most = self.bounds
        for job_id in touched:
            size, count = self._growing[job_id]
            # A little beyond the bounds, so that it is not done for every batch.
            if size > most.event_bytes * 9 // 8 or count > most.events * 9 // 8:
                await db.execute(_TRIM, job_id, most.events, most.event_bytes)
                self._growing[job_id] = list(await db.fetchrow(_SIZE, job_id))

    async def trim(self, db: asyncpg.Connection[Any]) -> None:
        """What is too old or too much, of all queens' jobs; the last one stays."""
        old = [row[0] for row in await db.fetch(_OLD, self.bounds.jobs, self.bounds.total_bytes)]
        if old:
            for table in ("events", "results", "jobs"):
                await db.execute(f"DELETE FROM rbee.{table} WHERE job_id = ANY($1::text[])", old)  # noqa: S608 - of these three
        await db.execute(_OLD_RESULTS, self.bounds.result_bytes)

    async def _tell(self, db: asyncpg.Connection[Any], notes: Sequence[Note]) -> None:
        """A long one is laid down, and its number told."""
        said = []
        for note in notes:
            head = f"{self.holder}\n{note.topic}\n"
            if len(head) + len(note.text.encode()) <= _NOTE:
                said.append(head + note.text)
            else:
                n = await db.fetchval("INSERT INTO rbee.letters (body) VALUES ($1) RETURNING n", note.text)
                said.append(f"{self.holder}\n@{note.topic}\n{n}")
        if said:
            await db.execute("SELECT pg_notify($1, said) FROM unnest($2::text[]) AS said", CHANNEL, said)


def text(said: str) -> str:
    """As PostgreSQL can hold it: without NUL."""
    return said.replace("\0", "\ufffd")
