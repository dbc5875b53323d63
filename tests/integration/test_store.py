# SPDX-License-Identifier: GPL-3.0-or-later
"""The job store on a real file."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee.adapters.store import SqliteJobStore
from rbee.contracts import codec
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


async def test_the_bytes_of_one_jobs_events_are_bounded_while_it_runs_and_after(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db", event_bytes=100_000)
    await store.open()
    store.put(job(1, "running"))
    for i in range(1, 2001):
        store.append("job-1", i, b"%04d" % i + b"x" * 996)
        if i % 200 == 0:
            found = [e async for e in every_event(store, "job-1")]
            assert sum(len(data) for _, data in found) <= 113_500
            assert [seq for seq, _ in found] == list(range(i - len(found) + 1, i + 1))
    store.append("job-1", 2001, b"y" * 500_000)
    store.put(job(1))
    assert [seq async for seq, _ in every_event(store, "job-1")] == [2001], "the newest stays, whatever its size"
    await store.close()
    assert (tmp_path / "jobs.db").stat().st_size < 1_500_000


async def every_event(store: SqliteJobStore, job_id: str) -> AsyncIterator[tuple[int, bytes]]:
    after = 0
    while found := await store.events(job_id, after, 256):
        for seq, data in found:
            yield seq, data
        after = found[-1][0]


async def test_events_come_in_portions_of_bytes(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    await store.open()
    for i in range(1, 11):
        store.append("job-1", i, b"x" * 100_000)
    assert len(await store.events("job-1", 0, 256)) == 2
    assert [seq async for seq, _ in every_event(store, "job-1")] == list(range(1, 11))
    await store.close()


async def test_the_oldest_ended_jobs_go_when_all_are_too_large(tmp_path: Path) -> None:
    def with_result(n: int, size: int, state: str = "completed") -> Job:
        return dataclasses.replace(job(n, state), result={"text": "x" * size})

    store = SqliteJobStore(tmp_path / "jobs.db", total_bytes=1_000_000)
    await store.open()
    store.put(job(0, "running"))
    for i in range(1, 21):
        store.put(job(i, "queued"))
        store.append(f"job-{i}", 1, b"e" * 100_000)
        store.put(with_result(i, 100_000))
    ids = [j.job_id for j in (await store.page(None, 100, None)).jobs]
    assert ids == [f"job-{i}" for i in (20, 19, 18, 17, 0)]
    assert await store.events("job-16", 0, 10) == []
    await store.close()
    assert (tmp_path / "jobs.db").stat().st_size < 2_000_000
    store = SqliteJobStore(tmp_path / "jobs.db", total_bytes=1_000_000)
    await store.open()  # what is there is counted
    store.append("job-30", 1, b"e" * 1_500_000)
    store.put(job(30))
    assert [j.job_id for j in (await store.page(None, 100, None)).jobs] == ["job-30", "job-0"]
    await store.close()


def large(n: int, size: int = 400_000) -> Job:
    return dataclasses.replace(job(n), result={"text": f"{n:04}" + "x" * size}, result_bytes=size + 15)


async def result_of(store: SqliteJobStore, n: int) -> bytes | None:
    found = await store.get(f"job-{n}")
    assert found is not None
    return None if found.result is None else codec.encode(found.result)


async def test_large_results_push_no_other_job_out_and_do_not_stay_in_the_file(tmp_path: Path) -> None:
    limits = {"total_bytes": 300_000, "result_bytes": 1_000_000}
    store = SqliteJobStore(tmp_path / "jobs.db", **limits)
    await store.open()
    for i in range(1, 101):
        store.put(large(i))
        store.append(f"job-{i}", 1, b'{"event":"result","result":')
    page = await store.page(None, 1000, None)
    assert [(j.job_id, j.result, j.result_bytes) for j in page.jobs] == [
        (f"job-{i}", None, 400_015) for i in range(100, 0, -1)
    ]
    assert [i for i in range(1, 101) if await result_of(store, i) is not None] == [99, 100]
    assert await store.events("job-98", 0, 10) == [], "a result that is gone is not told"
    await store.close()
    assert (tmp_path / "jobs.db").stat().st_size < 200_000
    folder = tmp_path / "jobs.results"
    assert sorted(p.name for p in folder.iterdir()) == ["job-100", "job-99"]
    assert [p.stat().st_mode & 0o077 for p in (folder, folder / "job-100")] == [0, 0]

    store = SqliteJobStore(tmp_path / "jobs.db", **limits)
    await store.open()
    assert await result_of(store, 99) == codec.encode(large(99).result)
    told = b'{"event":"result","result":' + codec.encode(large(100).result) + b"}"
    assert await store.events("job-100", 0, 10) == [(1, told)]
    store.put(large(101, 2_000_000))
    assert [i for i in range(98, 102) if await result_of(store, i) is not None] == [101], "the last one stays"
    await store.close()


async def test_a_result_goes_with_its_job_and_what_belongs_to_none_goes_at_start(tmp_path: Path) -> None:
    folder = tmp_path / "jobs.results"
    store = SqliteJobStore(tmp_path / "jobs.db", jobs_kept=2)
    await store.open()
    for i in range(1, 6):
        store.put(job(i, "queued"))
        store.put(large(i))
    store.put(job(6, "queued"))
    assert [j.job_id for j in (await store.page(None, 100, None)).jobs] == ["job-6", "job-5"]
    await store.close()
    assert [p.name for p in folder.iterdir()] == ["job-5"]

    (folder / ".job-6").write_bytes(b"cut short")
    (folder / "job-4").write_bytes(b"of a job that is forgotten")
    (folder / "job-5").write_bytes(codec.encode(large(5).result)[:-1])
    store = SqliteJobStore(tmp_path / "jobs.db", jobs_kept=2)
    await store.open()
    assert [p.name for p in folder.iterdir()] == ["job-5"]
    assert await result_of(store, 5) is None, "a machine's crash has cut it short"
    await store.close()


async def test_a_result_that_cannot_be_kept_does_not_keep_its_job_from_ending(tmp_path: Path) -> None:
    (tmp_path / "jobs.results").write_bytes(b"in the way")
    with pytest.raises(RbeeError) as caught:
        await SqliteJobStore(tmp_path / "jobs.db").open()
    assert caught.value.code == "store_unusable"
    (tmp_path / "jobs.results").unlink()
    store = SqliteJobStore(tmp_path / "jobs.db")
    await store.open()
    (tmp_path / "jobs.results").write_bytes(b"in the way")
    store.put(large(1))
    assert await result_of(store, 1) is None
    (found,) = (await store.page("completed", 10, None)).jobs
    assert found.result_bytes == 400_015
    (tmp_path / "jobs.results").unlink()
    store.put(large(2))
    assert await result_of(store, 2) is not None
    (tmp_path / "jobs.results" / "job-2").unlink()
    assert await result_of(store, 2) is None
    assert await store.get("../jobs.db") is None
    await store.close()


async def test_a_page_is_bounded_by_bytes_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    await store.open()
    for i in range(1, 11):
        store.put(dataclasses.replace(job(i), request={"text": "x" * 1_000_000}))
    seen, cursor = [], None
    for _ in range(4):
        page = await store.page(None, 100, cursor)
        assert len(page.jobs) <= 5
        seen += [j.job_id for j in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [f"job-{i}" for i in range(10, 0, -1)]
    await store.close()


async def test_a_file_of_an_older_release_is_taken_over(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "jobs.db")
    db.executescript(
        "CREATE TABLE schema_version (version INTEGER NOT NULL); INSERT INTO schema_version VALUES (1);"
        "CREATE TABLE jobs (n INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL UNIQUE, state TEXT NOT NULL,"
        " job TEXT NOT NULL);"
    )
    old = dataclasses.replace(job(1), result={"message": "ok"})
    db.execute("INSERT INTO jobs (job_id, state, job) VALUES ('job-1', 'completed', ?)", (codec.encode(old).decode(),))
    db.commit()
    db.close()
    store = SqliteJobStore(tmp_path / "jobs.db", total_bytes=100)
    await store.open()
    assert await store.get("job-1") == old
    store.put(job(2))
    assert [j.job_id for j in (await store.page(None, 100, None)).jobs] == ["job-2"], "its size is known too"
    await store.close()
