# SPDX-License-Identifier: GPL-3.0-or-later
"""How the schema came to be what it is, step by step. A file of an older release is brought up to date when it is
opened, all steps in one transaction; one of a newer release is refused and stays as it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rbee.contracts import codec

_ENDED = "('completed', 'failed', 'cancelled')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What makes a schema of `version` out of the one before: statements, then what they cannot say."""

    version: int
    statements: tuple[str, ...]
    then: Callable[[sqlite3.Connection], None] | None = None


_FIRST = (
    "CREATE TABLE IF NOT EXISTS jobs (n INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL UNIQUE, "
    "state TEXT NOT NULL, job TEXT NOT NULL, result BLOB, bytes INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, n)",
    "CREATE TABLE IF NOT EXISTS events (job_id TEXT NOT NULL, seq INTEGER NOT NULL, event BLOB NOT NULL, "
    "PRIMARY KEY (job_id, seq)) WITHOUT ROWID",
)


def _searchable(db: sqlite3.Connection) -> None:
    """What lists are filtered by gets columns. The first releases of version 1 had fewer than its last ones."""
    there = {column[1] for column in db.execute("PRAGMA table_info(jobs)")}
    wanted = {"result": "BLOB", "bytes": "INTEGER NOT NULL DEFAULT 0"}
    wanted |= dict.fromkeys(("operation", "hive_id", "created_at"), "TEXT NOT NULL DEFAULT ''")
    for name, kind in wanted.items():
        if name not in there:
            db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
    for n, text in db.execute("SELECT n, job FROM jobs").fetchall():
        job = codec.decode(dict[str, object], text)
        request = job.get("request")
        hive = request.get("hive_id") if isinstance(request, dict) else None
        said = (str(job.get("operation", "")), hive if isinstance(hive, str) else "", str(job.get("created_at", "")))
        db.execute("UPDATE jobs SET operation = ?, hive_id = ?, created_at = ? WHERE n = ?", (*said, n))
    db.execute(
        "UPDATE jobs SET bytes = length(job) + "  # noqa: S608 - constants
        "(SELECT coalesce(sum(length(event)), 0) FROM events WHERE events.job_id = jobs.job_id) "
        f"WHERE bytes = 0 AND state IN {_ENDED}"
    )


SQLITE = (
    Step(version=1, statements=_FIRST),
    Step(version=2, statements=_FIRST, then=_searchable),
)

#: Its own schema, so that it can live in a database that has other tenants. `n` is the order of jobs; an ended job's
#: `bytes` are those of its row and its events. Nothing in `buckets` outlives a crash of the database, nor needs to.
POSTGRES = (
    Step(
        version=1,
        statements=(
            "CREATE TABLE rbee.jobs (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, job_id text NOT NULL UNIQUE, "
            "state text NOT NULL, operation text NOT NULL, hive_id text NOT NULL, created_at text NOT NULL, "
            "job text NOT NULL, result bytea, bytes bigint NOT NULL DEFAULT 0, owner text NOT NULL, "
            "cancel boolean NOT NULL DEFAULT false)",
            "CREATE INDEX jobs_by_state ON rbee.jobs (state, n)",
            "CREATE INDEX jobs_not_ended ON rbee.jobs (owner) WHERE state IN ('queued', 'running')",
            "CREATE TABLE rbee.events (job_id text NOT NULL, seq bigint NOT NULL, event bytea NOT NULL, "
            "PRIMARY KEY (job_id, seq))",
            "CREATE TABLE rbee.results (job_id text PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, "
            "result bytea NOT NULL)",
            "CREATE TABLE rbee.leases (name text PRIMARY KEY, holder text NOT NULL, until timestamptz NOT NULL)",
            "CREATE UNLOGGED TABLE rbee.buckets (name text PRIMARY KEY, level double precision NOT NULL, "
            "at timestamptz NOT NULL)",
            "CREATE UNLOGGED TABLE rbee.letters (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
            "at timestamptz NOT NULL DEFAULT clock_timestamp(), body text NOT NULL)",
        ),
    ),
)


def newer(found: int, steps: Sequence[Step]) -> str:
    """Why a schema of version `found` is refused; nothing when it is known."""
    known = steps[-1].version
    return f"it was made by a newer rbee (schema {found}, known {known})" if found > known else ""


def migrate(db: sqlite3.Connection, steps: Sequence[Step] = SQLITE) -> None:
    """Brings an open SQLite file up to date. Raises sqlite3.Error; then it is as it was."""
    if why := newer(_version(db), steps):
        raise sqlite3.DatabaseError(why)
    if _version(db) == steps[-1].version:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        found = _version(db)
        db.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        for step in steps:
            if step.version > found:
                for statement in step.statements:
                    db.execute(statement)
                if step.then is not None:
                    step.then(db)
        db.execute("DELETE FROM schema_version")
        db.execute("INSERT INTO schema_version VALUES (?)", (steps[-1].version,))
        db.execute("COMMIT")
    except BaseException as e:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if isinstance(e, codec.CodecError):
            raise sqlite3.DatabaseError(f"a job in it cannot be read: {e}") from None
        raise


def _version(db: sqlite3.Connection) -> int:
    """0: nothing of ours is in it yet."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'").fetchone() is None:
        return 0
    row = db.execute("SELECT version FROM schema_version").fetchone()
    return int(row[0]) if row is not None else 0
