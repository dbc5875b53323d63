# SPDX-License-Identifier: GPL-3.0-or-later
"""The store on a real file: what only a file can suffer."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from rbee.adapters.store import SqliteJobStore
from rbee.adapters.store.migrations import SQLITE, Step, migrate
from rbee.contracts import codec
from rbee.contracts.jobs import JobError
from rbee.core.errors import RbeeError
from tests.support.stores import job, large, listed, result_of

OLD = Path(__file__).parent / "goldens" / "store_v1.sql"


def old(path: Path) -> None:
    """A file as version 1 wrote it."""
    db = sqlite3.connect(path)
    db.executescript(OLD.read_text())
    db.close()


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


async def test_a_result_goes_with_its_job_and_what_belongs_to_none_goes_at_start(tmp_path: Path) -> None:
    folder = tmp_path / "jobs.results"
    store = SqliteJobStore(tmp_path / "jobs.db", jobs_kept=2)
    await store.open()
    for i in range(1, 6):
        store.put(job(i, "queued"))
        store.put(large(i))
    store.put(job(6, "queued"))
    assert await listed(store) == ["job-6", "job-5"]
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
    assert await listed(store) == ["job-2"], "its size is known too"
    await store.close()


async def test_a_file_of_version_1_is_brought_up_to_date_and_loses_nothing(tmp_path: Path) -> None:
    old(tmp_path / "jobs.db")
    store = SqliteJobStore(tmp_path / "jobs.db")
    await store.open()
    first, second, third = (f"job-00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
    found = await store.get(first)
    assert found is not None
    assert (found.state, found.request, codec.encode(found.result)) == (
        "completed", {"hive_id": "cellar", "model": "hf:a/b"}, b'{"model_id":"a--b"}',
    )  # fmt: skip
    assert [seq for seq, _ in await store.events(first, 0, 10)] == [1, 2]
    failed = await store.get(second)
    assert failed is not None
    assert failed.error == JobError(
        error="No memory.", code="insufficient_memory", timestamp="2026-10-01T08:00:05.000Z"
    )
    assert await listed(store) == [third, second, first]
    assert await listed(store, operation="ModelDownload") == [first]
    assert await listed(store, hive_id="attic") == [second]
    assert await listed(store, since="2026-10-01T08:00:05.000Z") == [third]
    assert [j.job_id for j in await store.claim(starting=True)] == [third]
    store.put(job(4, "queued"))
    assert (await listed(store))[0] == "job-4", "numbers go on"
    await store.close()
    db = sqlite3.connect(tmp_path / "jobs.db")
    assert db.execute("SELECT version FROM schema_version").fetchall() == [(2,)]
    assert db.execute("SELECT bytes FROM jobs WHERE n = 1").fetchone() == (331,), "its size is what it was"
    db.close()


async def test_a_newer_file_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    old(path)
    db = sqlite3.connect(path)
    db.execute("UPDATE schema_version SET version = 99")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(RbeeError, match=r"made by a newer rbee \(schema 99, known 2\)"):
        await SqliteJobStore(path).open()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["jobs.db"]


def test_a_step_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    old(tmp_path / "jobs.db")
    db = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    before = list(db.iterdump())
    bad = (*SQLITE, Step(version=3, statements=("DROP TABLE events", "INSERT INTO nowhere VALUES (1)")))
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(db, bad)
    assert list(db.iterdump()) == before
    db.execute("UPDATE jobs SET job = 'no JSON' WHERE n = 2")
    before = list(db.iterdump())
    with pytest.raises(sqlite3.DatabaseError, match="a job in it cannot be read"):
        migrate(db)
    assert list(db.iterdump()) == before
    db.close()


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    migrate(db)
    before = list(db.iterdump())
    migrate(db)
    assert list(db.iterdump()) == before
    assert SQLITE[-1].version == 2
    db.close()


async def test_the_file_and_what_is_beside_it_are_the_owners_only(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "deep" / "jobs.db")
    await store.open()
    store.put(large(1))
    await store.settled()
    beside = [
        tmp_path / "deep" / "jobs.db",
        tmp_path / "deep" / "jobs.results",
        tmp_path / "deep" / "jobs.results" / "job-1",
    ]
    assert [p.stat().st_mode & 0o077 for p in beside] == [0, 0, 0]
    assert (tmp_path / "deep" / "jobs.db").stat().st_size < 200_000
    await store.close()


async def test_the_file_stays_small(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db", total_bytes=1_000_000, event_bytes=100_000)
    await store.open()
    for i in range(1, 41):
        store.append(f"job-{i}", 1, b"y" * 500_000)
        store.put(dataclasses.replace(job(i), result={"text": "x" * 100_000}))
    await store.close()
    assert (tmp_path / "jobs.db").stat().st_size < 2_500_000
