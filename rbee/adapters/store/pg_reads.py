# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import asyncpg

from rbee.adapters.store.pg_rows import text
from rbee.adapters.store.written import CUT, EVENT_BYTES, PAGE_BYTES, RESULT_IN_PAGE, read
from rbee.contracts import codec
from rbee.contracts.jobs import Job, JobPage

_GET = """
SELECT j.job, j.result, r.result AS large FROM rbee.jobs j LEFT JOIN rbee.results r ON r.job_id = j.job_id
WHERE j.job_id = $1
"""
_PAGE = """
SELECT n, job, result, found FROM (
    SELECT n, job, result, size, sum(size) OVER (ORDER BY n DESC) AS so_far, count(*) OVER () AS found FROM (
        SELECT n, job, CASE WHEN octet_length(result) <= $2 THEN result END AS result,
            octet_length(job) + least(coalesce(octet_length(result), 0), $2) AS size
        FROM rbee.jobs WHERE n < $1 {where} ORDER BY n DESC LIMIT $3) AS few
    ) AS counted
WHERE so_far - size <= $4 ORDER BY n DESC
"""
_EVENTS = """
SELECT seq, event FROM (
    SELECT seq, event, sum(octet_length(event)) OVER (ORDER BY seq) AS so_far, row_number() OVER (ORDER BY seq) AS place
    FROM (SELECT seq, event FROM rbee.events WHERE job_id = $1 AND seq > $2 ORDER BY seq LIMIT $3) AS few
    ) AS counted
WHERE place = 1 OR so_far <= $4 ORDER BY seq
"""
_FILTERS = {"state": "state =", "operation": "operation =", "hive_id": "hive_id =", "since": "created_at >="}


async def get(db: asyncpg.Connection[Any], job_id: str, with_result: bool) -> Job | None:
    if not with_result:
        row = await db.fetchrow("SELECT job FROM rbee.jobs WHERE job_id = $1", text(job_id))
        return read(row["job"], None) if row is not None else None
    row = await db.fetchrow(_GET, text(job_id))
    if row is None:
        return None
    job = read(row["job"], row["result"])
    large = row["large"]
    if job.result is None and large is not None and job.result_bytes in (None, len(large)):
        job = replace(job, result=codec.embedded(large))
    return job


async def page(db: asyncpg.Connection[Any], where: Mapping[str, str | None], limit: int, before: int) -> JobPage:
    said = {name: text(value) for name, value in where.items() if value is not None}
    wanted = " ".join(f"AND {_FILTERS[name]} ${place}" for place, name in enumerate(said, 5))
    query = _PAGE.format(where=wanted)
    rows = await db.fetch(query, before, RESULT_IN_PAGE, limit + 1, PAGE_BYTES, *said.values())
    shown = rows[:limit]
    more = bool(shown) and shown[0]["found"] > len(shown)
    jobs = tuple(read(row["job"], row["result"]) for row in shown)
    return JobPage(jobs=jobs, cursor=str(shown[-1]["n"]) if more else None)


async def events(
    db: asyncpg.Connection[Any], job_id: str, after: int, limit: int, large: bool
) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for seq, event in await db.fetch(_EVENTS, text(job_id), after, limit, EVENT_BYTES):
        if event.endswith(CUT):
            whole = await _completed(db, job_id, event) if large else None
            if whole is not None:
                found.append((seq, whole))
        else:
            found.append((seq, event))
    return found


async def _completed(db: asyncpg.Connection[Any], job_id: str, event: bytes) -> bytes | None:
    """None when the queen died before the result was written, or it is kept no more."""
    job = await get(db, job_id, True)
    return event + codec.encode(job.result) + b"}" if job is not None and job.result is not None else None


async def last(db: asyncpg.Connection[Any], job_id: str) -> int:
    return int(await db.fetchval("SELECT max(seq) FROM rbee.events WHERE job_id = $1", text(job_id)) or 0)
