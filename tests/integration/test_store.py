# SPDX-License-Identifier: GPL-3.0-or-later
"""The job store on a real file."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from rbee.adapters.store import SqliteJobStore
from rbee.contracts.jobs import Job
from rbee.core.errors import RbeeError


def job(n: int, state: str = "completed") -> Job:
    return Job(job_id=f"job-{n}", operation="Status", state=state, created_at="2026-01-01T00:00:00Z")  # type: ignore[arg-type]


async def test_reads_see_every_write_before_them(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "deep" / "jobs.db")
    await store.open()
    for i in range(1, 501):
        store.append("job-1", i, b"%d" % i)
    store.put(job(1, "queued"))
    store.put(job(1))
    assert [seq for seq, _ in await store.events("job-1", 490, 100)] == list(range(491, 501))
    found = await store.get("job-1")
    assert found is not None
    assert found.state == "completed"
    assert await store.get("job-2") is None
    await store.close()
    assert ((tmp_path / "deep" / "jobs.db").stat().st_mode & 0o077) == 0


async def test_events_of_one_job_are_bounded(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db", events_kept=100)
    await store.open()
    for i in range(1, 1001):
        store.append("job-1", i, b"x")
    store.put(job(1))
    kept = [seq for seq, _ in await store.events("job-1", 0, 10_000)]
    assert kept == list(range(901, 1001))
    await store.close()


async def test_running_jobs_are_never_forgotten(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db", jobs_kept=2)
    await store.open()
    store.put(job(0, "queued"))
    store.put(job(0, "running"))
    for i in range(1, 10):
        store.put(job(i, "queued"))
        store.append(f"job-{i}", 1, b"x")
        store.put(job(i))
    ids = [j.job_id for j in (await store.page(None, 100, None)).jobs]
    assert ids[-1] == "job-0"
    assert len(ids) <= 4
    assert await store.events("job-1", 0, 10) == []
    await store.close()


async def test_a_damaged_or_newer_file_is_an_error_for_people(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"this is no database at all" * 100)
    newer = tmp_path / "newer.db"
    db = sqlite3.connect(newer)
    db.execute("CREATE TABLE schema_version (version INTEGER)")
    db.execute("INSERT INTO schema_version VALUES (99)")
    db.commit()
    db.close()
    for path in (damaged, newer):
        with pytest.raises(RbeeError) as caught:
            await SqliteJobStore(path).open()
        assert caught.value.code == "store_unusable"
        assert str(path) in str(caught.value)


async def test_a_closed_store_answers_with_an_error(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    await store.open()
    await store.close()
    with pytest.raises(RbeeError):
        await asyncio.wait_for(store.get("job-1"), 5)
