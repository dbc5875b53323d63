# SPDX-License-Identifier: GPL-3.0-or-later
"""What every store does, on a real file and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rbee.contracts import codec
from rbee.contracts.jobs import ChildJob, Job
from rbee.core.errors import InvalidRequest, RbeeError
from tests.support.stores import Stores, every_event, job, large, listed, result_of
from tests.support.waiting import eventually


@pytest.fixture(params=["sqlite", "postgres"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(tmp_path / "deep" / "jobs.db")
    if request.param == "postgres":
        made.cluster = request.getfixturevalue("postgres")
        made.database = await made.cluster.make()
    yield made
    await made.close()


async def test_reads_see_every_write_before_them(stores: Stores) -> None:
    store = await stores.open()
    for i in range(1, 501):
        store.append("job-1", i, b"%d" % i)
    store.put(job(1, "queued"))
    store.put(job(1))
    assert [seq for seq, _ in await store.events("job-1", 490, 100)] == list(range(491, 501))
    assert (await store.last("job-1"), await store.last("job-2")) == (500, 0)
    found = await store.get("job-1")
    assert found is not None
    assert found.state == "completed"
    assert await store.get("job-2") is None


async def test_events_of_one_job_are_bounded(stores: Stores) -> None:
    store = await stores.open(events_kept=100)
    for i in range(1, 1001):
        store.append("job-1", i, b"x")
    store.put(job(1))
    assert [seq for seq, _ in await store.events("job-1", 0, 10_000)] == list(range(901, 1001))


async def test_running_jobs_are_never_forgotten(stores: Stores) -> None:
    store = await stores.open(jobs_kept=2)
    store.put(job(0, "queued"))
    store.put(job(0, "running"))
    for i in range(1, 10):
        store.put(job(i, "queued"))
        store.append(f"job-{i}", 1, b"x")
        store.put(job(i))
    ids = await listed(store)
    assert ids[-1] == "job-0"
    assert len(ids) <= 4
    assert await store.events("job-1", 0, 10) == []


async def test_a_closed_store_answers_with_an_error(stores: Stores) -> None:
    store = await stores.open()
    await store.close()
    for asked in (store.get("job-1"), store.settled(), store.claim(starting=True)):
        with pytest.raises(RbeeError):
            await asyncio.wait_for(asked, 30)


async def test_the_bytes_of_one_jobs_events_are_bounded_while_it_runs_and_after(stores: Stores) -> None:
    store = await stores.open(event_bytes=100_000)
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


async def test_events_come_in_portions_of_bytes(stores: Stores) -> None:
    store = await stores.open()
    for i in range(1, 11):
        store.append("job-1", i, b"x" * 100_000)
    assert len(await store.events("job-1", 0, 256)) == 2
    assert [seq async for seq, _ in every_event(store, "job-1")] == list(range(1, 11))


async def test_the_oldest_ended_jobs_go_when_all_are_too_large(stores: Stores) -> None:
    def with_result(n: int, size: int) -> Job:
        return dataclasses.replace(job(n), result={"text": "x" * size})

    store = await stores.open(total_bytes=1_000_000)
    store.put(job(0, "running"))
    for i in range(1, 21):
        store.put(job(i, "queued"))
        store.append(f"job-{i}", 1, b"e" * 100_000)
        store.put(with_result(i, 100_000))
    assert await listed(store) == [f"job-{i}" for i in (20, 19, 18, 17, 0)]
    assert await store.events("job-16", 0, 10) == []
    await store.close()
    store = await stores.open(total_bytes=1_000_000)  # what is there is counted
    store.append("job-30", 1, b"e" * 1_500_000)
    store.put(job(30))
    assert await listed(store) == ["job-30", "job-0"]


async def test_large_results_push_no_other_job_out(stores: Stores) -> None:
    limits: dict[str, Any] = {"total_bytes": 300_000, "result_bytes": 1_000_000}
    store = await stores.open(**limits)
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

    store = await stores.open(**limits)
    assert await result_of(store, 99) == codec.encode(large(99).result)
    told = b'{"event":"result","result":' + codec.encode(large(100).result) + b"}"
    assert await store.events("job-100", 0, 10) == [(1, told)]
    assert await store.events("job-100", 0, 10, large=False) == []
    store.put(large(101, 2_000_000))
    assert [i for i in range(98, 102) if await result_of(store, i) is not None] == [101], "the last one stays"


async def test_a_large_result_goes_with_its_job(stores: Stores) -> None:
    store = await stores.open(jobs_kept=2)
    for i in range(1, 6):
        store.put(job(i, "queued"))
        store.put(large(i))
    store.put(job(6, "queued"))
    assert await listed(store) == ["job-6", "job-5"]
    assert await store.get("job-4") is None


async def test_a_page_is_bounded_by_bytes_and_goes_on_where_it_ended(stores: Stores) -> None:
    store = await stores.open()
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


async def test_a_list_is_what_was_asked_for_page_by_page(stores: Stores) -> None:
    store = await stores.open()
    for i in range(1, 31):
        said = {"operation": ("Status", "ModelList", "Infer")[i % 3], "request": {"hive_id": ("a", "b\0", 7)[i % 3]}}
        store.put(job(i, ("completed", "failed")[i % 2], created_at=f"2026-01-01T00:00:{i:02}.000Z", **said))
    store.put(job(31, "running", operation="Infer", child=ChildJob(hive_id="c", job_id="job-x")))
    assert await listed(store, operation="ModelList") == [f"job-{i}" for i in range(28, 0, -3)]
    assert await listed(store, operation="ModelList", state="failed") == [
        "job-25",
        "job-19",
        "job-13",
        "job-7",
        "job-1",
    ]
    assert await listed(store, hive_id="a", since="2026-01-01T00:00:24.000Z") == ["job-30", "job-27", "job-24"]
    assert await listed(store, hive_id="c") == ["job-31"], "the hive that does it, also when nobody named one"
    assert await listed(store, hive_id="' OR 1=1 --") == []
    assert await listed(store, operation="a\0b") == []
    pages, cursor = [], None
    while True:
        page = await store.page("completed", 4, cursor, operation="Infer")
        pages.append([j.job_id for j in page.jobs])
        cursor = page.cursor
        if cursor is None:
            break
    assert pages == [["job-26", "job-20", "job-14", "job-8"], ["job-2"]]
    with pytest.raises(InvalidRequest):
        await store.page(None, 4, "\u00b2")


async def test_jobs_that_an_earlier_life_left_are_claimed_with_all_that_is_known_of_them(stores: Stores) -> None:
    store = await stores.open()
    child = ChildJob(hive_id="cellar", job_id="job-child")
    for found in (job(1), job(2, "queued"), job(3, "running", child=child), job(4, "cancelled")):
        store.put(found)
    await store.close()
    store = await stores.open()
    assert await store.claim(starting=True) == [job(2, "queued"), job(3, "running", child=child)]
    assert await store.claim(starting=False) == [], "a living queen's jobs are nobody else's"
    store.put(job(3))
    await store.close()
    store = await stores.open()
    assert [j.job_id for j in await store.claim(starting=True)] == ["job-2"]


async def test_names_that_no_database_likes_are_nobody(stores: Stores) -> None:
    store = await stores.open()
    store.put(job(1))
    for name in ("", "../jobs.db", "job-1\0", "job-1' --", "\ud7ff" * 1000, "%"):
        assert await store.get(name) is None
        assert await store.events(name, 0, 10) == []
        assert await store.last(name) == 0


async def test_a_bucket_holds_its_burst_and_gains_its_rate(stores: Stores) -> None:
    store = await stores.open()
    assert [await store.take("a", 2, 0.0, 5) for _ in range(4)] == [True, True, False, False]
    assert await store.take("a", 1, 0.0, 5), "what is left is not lost with what was refused"
    assert not await store.take("a", 1, 0.0, 5)
    assert await store.take("b", 5, 0.0, 5), "another one"
    assert not await store.take("c", 6, 1000.0, 5), "more than it can ever hold"

    async def again() -> bool:
        return await store.take("a", 1, 50.0, 5)

    await eventually(again)


async def test_who_is_alone_has_every_lease(stores: Stores) -> None:
    store = await stores.open()
    assert [await store.lease("scaler", 60) for _ in range(3)] == [True] * 3
    await store.release("scaler")
    assert await store.lease("scaler", 60)
    assert store.trouble is None
