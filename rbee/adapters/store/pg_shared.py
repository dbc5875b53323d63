# SPDX-License-Identifier: GPL-3.0-or-later
"""What queens on one PostgreSQL agree on: leases, shared limits, whose a job is. Times are the database's own: the
machines' clocks need not agree."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import asyncpg

from rbee.adapters.store.pg_rows import CHANNEL
from rbee.adapters.store.written import read
from rbee.contracts.jobs import Job

#: Lease of the one queen that throws old jobs away.
TRIMMING: Final = "trimming"
#: Letters are read within moments; buckets that nobody asked for so long are full again.
_LETTERS_KEPT = "10 minutes"
_BUCKETS_KEPT = "1 day"
#: Jobs taken over at once.
_CLAIMED = 200

_LEASE = """
INSERT INTO rbee.leases AS l (name, holder, until) VALUES ($1, $2, clock_timestamp() + $3 * interval '1 second')
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE l.holder = excluded.holder OR l.until <= clock_timestamp()
RETURNING true
"""
_TAKE = """
INSERT INTO rbee.buckets AS b (name, level, at) SELECT $1, $4::float8 - $2::float8, clock_timestamp() WHERE $4 >= $2
ON CONFLICT (name) DO UPDATE SET at = clock_timestamp(),
    level = least($4, b.level + $3::float8 * greatest(0, extract(epoch FROM clock_timestamp() - b.at))) - $2
WHERE least($4, b.level + $3 * greatest(0, extract(epoch FROM clock_timestamp() - b.at))) >= $2
RETURNING true
"""
_OWNER = "queen/"
_CLAIM = """
UPDATE rbee.jobs SET owner = $1 WHERE n IN (
    SELECT n FROM rbee.jobs j WHERE state IN ('queued', 'running') AND CASE
        WHEN owner = $1 THEN $2
        ELSE NOT $2 AND NOT EXISTS (
            SELECT 1 FROM rbee.leases l WHERE l.name = $3 || j.owner AND NOT ($4 AND l.until <= clock_timestamp()))
        END
    ORDER BY n LIMIT $5::bigint FOR UPDATE SKIP LOCKED)
RETURNING n, job
"""
_LOST = """
SELECT live.job_id FROM unnest($2::text[]) AS live (job_id) JOIN rbee.jobs j ON j.job_id = live.job_id
WHERE j.owner <> $1 OR j.state IN ('completed', 'failed', 'cancelled')
"""
_CANCELS = "SELECT job_id FROM rbee.jobs WHERE owner = $1 AND cancel AND state IN ('queued', 'running')"


async def lease(db: asyncpg.Connection[Any], name: str, holder: str, ttl: float) -> bool:
    return bool(await db.fetchval(_LEASE, name, holder, ttl))


async def lease_of_queen(db: asyncpg.Connection[Any], holder: str, ttl: float) -> bool:
    """That she lives."""
    return await lease(db, _OWNER + holder, holder, ttl)


async def release(db: asyncpg.Connection[Any], name: str, holder: str) -> None:
    await db.execute("DELETE FROM rbee.leases WHERE name = $1 AND holder = $2", name, holder)


async def release_all(db: asyncpg.Connection[Any], holder: str) -> None:
    """She ends, and says so."""
    await db.execute("DELETE FROM rbee.leases WHERE holder = $1", holder)
    await db.execute("SELECT pg_notify($1, $2)", CHANNEL, f"{holder}\ngone\n{holder}")


async def take(db: asyncpg.Connection[Any], name: str, tokens: float, rate: float, burst: float) -> bool:
    return bool(await db.fetchval(_TAKE, name, tokens, rate, burst))


async def claim(db: asyncpg.Connection[Any], holder: str, starting: bool, silent: bool) -> list[Job]:
    """`starting`: her own of before; else those of queens who have given their lease back, and with `silent` of those
    who let it run out. Older ones first."""
    rows = await db.fetch(_CLAIM, holder, starting, _OWNER, silent, None if starting else _CLAIMED)
    return [read(row[1], None) for row in sorted(rows, key=lambda row: row[0])]


async def request_cancel(db: asyncpg.Connection[Any], job_id: str) -> None:
    await db.execute("UPDATE rbee.jobs SET cancel = true WHERE job_id = $1", job_id)


async def orders(db: asyncpg.Connection[Any], holder: str, live: Collection[str]) -> tuple[list[str], list[str]]:
    cancels = [row[0] for row in await db.fetch(_CANCELS, holder)]
    lost = [row[0] for row in await db.fetch(_LOST, holder, list(live))] if live else []
    return cancels, lost


async def tidy(db: asyncpg.Connection[Any]) -> None:
    """For the one that trims: what nobody reads any more."""
    for table, kept in (("letters", _LETTERS_KEPT), ("buckets", _BUCKETS_KEPT)):
        await db.execute(f"DELETE FROM rbee.{table} WHERE at < now() - interval '{kept}'")  # noqa: S608 - constants
    await db.execute("DELETE FROM rbee.leases WHERE until < now() - interval '1 day'")
