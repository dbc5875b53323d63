# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that wait for their turn: over HTTP, in a hive's lanes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rbee.adapters.store import SqliteJobStore
from rbee.contracts.operations.preload import ModelPreload, ModelPreloadEvict, ModelPreloadEvictResponse
from rbee.daemons.access import Listener
from rbee.daemons.app import Server, build
from rbee.daemons.job_routes import JobRoutes
from rbee.daemons.jobs import JobContext, JobRunner
from rbee.daemons.lanes import Lanes
from tests.support.hive import HiveClient


class Slow:
    """The handler of a slow operation: it runs until it is let go, by the id of its model."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.go: dict[str, asyncio.Event] = {}
        self.tidying: asyncio.Event | None = None

    async def __call__(self, ctx: JobContext, request: ModelPreload) -> dict[str, str]:
        self.began.append(request.model_id)
        ctx.narrate("model_preload_start", "Began.")
        try:
            await self.go.setdefault(request.model_id, asyncio.Event()).wait()
        finally:
            if self.tidying is not None:
                await self.tidying.wait()
        return {"model_id": request.model_id}


async def quick(ctx: JobContext, request: ModelPreloadEvict) -> ModelPreloadEvictResponse:
    return ModelPreloadEvictResponse(model_id=request.model_id, freed_bytes=1)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
async def runner(tmp_path: Path, slow: Slow) -> AsyncIterator[JobRunner]:
    lanes = Lanes({"load": 2}, 64, queue=5)
    made = JobRunner(
        SqliteJobStore(tmp_path / "a.db"), {"ModelPreload": slow, "ModelPreloadEvict": quick}, "t", lanes=lanes
    )
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def hive(runner: JobRunner) -> AsyncIterator[HiveClient]:
    server = Server(build(JobRoutes(runner).routes()), [Listener("127.0.0.1", 0)])
    await server.start()
    async with aiohttp.ClientSession() as http:
        yield HiveClient(server.urls[0], http)
    await runner.stop()
    await server.stop(drain=1)


async def state(hive: HiveClient, job_id: str) -> str:
    async with hive.session.get(f"{hive.url}/v1/jobs/{job_id}") as answer:
        return str((await answer.json())["state"])


async def first(hive: HiveClient, job_id: str) -> dict[str, Any]:
    async for event in hive.events(job_id):
        return event
    raise AssertionError("nothing was told")


async def test_more_than_the_lane_takes_wait_in_order_and_hold_up_nobody_else(hive: HiveClient, slow: Slow) -> None:
    jobs = [await hive.submit(ModelPreload(model_id=name)) for name in "abcd"]
    assert [await state(hive, j) for j in jobs] == ["running", "running", "queued", "queued"]
    told = await first(hive, jobs[3])
    assert (told["event"], told["lane"], told["before"]) == ("job_queued", "load", 1)
    assert (await hive.run(ModelPreloadEvict(model_id="z"))).response.freed_bytes == 1
    slow.go["b"].set()
    assert [e["event"] async for e in hive.events(jobs[1])] == ["model_preload_start", "result"]
    async for event in hive.events(jobs[2]):
        if event["event"] == "model_preload_start":
            break
    assert slow.began == ["a", "b", "c"]
    assert [await state(hive, j) for j in jobs] == ["running", "completed", "running", "queued"]
    for name in "acd":
        slow.go.setdefault(name, asyncio.Event()).set()
    assert [e["event"] async for e in hive.events(jobs[3])] == ["job_queued", "model_preload_start", "result"]


async def test_a_queued_job_that_is_cancelled_never_runs(hive: HiveClient, slow: Slow, runner: JobRunner) -> None:
    jobs = [await hive.submit(ModelPreload(model_id=name)) for name in "abcd"]
    reader = asyncio.create_task(_all(hive, jobs[2]))
    await hive.cancel(jobs[2])
    assert [e.get("event") for e in await reader] == ["job_queued", "cancelled"]
    assert await state(hive, jobs[2]) == "cancelled"
    await hive.cancel(jobs[0])
    async for event in hive.events(jobs[3]):
        if event["event"] == "model_preload_start":
            break
    assert slow.began == ["a", "b", "d"]
    assert runner.lanes()["load"] == (2, 0)
    async with hive.session.delete(f"{hive.url}/v1/jobs/{jobs[2]}") as answer:
        assert answer.status == 409


async def _all(hive: HiveClient, job_id: str) -> list[dict[str, Any]]:
    return [e async for e in hive.events(job_id)]


async def test_a_lane_that_is_full_says_so_and_the_others_go_on(hive: HiveClient) -> None:
    for i in range(7):
        await hive.submit(ModelPreload(model_id=f"m{i}"))
    body = {"operation": {"ModelPreload": {"model_id": "one-more"}}}
    async with hive.session.post(f"{hive.url}/v1/jobs", json=body) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert (await answer.json())["error"]["code"] == "too_many_jobs"
    assert (await hive.run(ModelPreloadEvict(model_id="z"))).response.freed_bytes == 1


async def test_a_second_cancel_does_not_disturb_the_tidying_up(hive: HiveClient, slow: Slow) -> None:
    slow.tidying = asyncio.Event()
    job = await hive.submit(ModelPreload(model_id="a"))
    cancels = [asyncio.create_task(hive.cancel(job)) for _ in range(2)]
    assert (await hive.run(ModelPreloadEvict(model_id="z"))).response.freed_bytes == 1
    assert not any(c.done() for c in cancels)
    slow.tidying.set()
    await asyncio.gather(*cancels)
    assert await state(hive, job) == "cancelled"


async def test_a_daemon_that_stops_interrupts_what_waits_too(
    hive: HiveClient, slow: Slow, runner: JobRunner, tmp_path: Path
) -> None:
    jobs = [await hive.submit(ModelPreload(model_id=name)) for name in "abc"]
    readers = [asyncio.create_task(_all(hive, j)) for j in jobs]
    for job in jobs:
        await first(hive, job)
    await runner.stop()
    assert [(await r)[-1]["code"] for r in readers] == ["interrupted"] * 3
    assert slow.began == ["a", "b"]
    again = JobRunner(SqliteJobStore(tmp_path / "a.db"), {}, "t")
    await again.start()
    assert [(await again.get(j)).state for j in jobs] == ["failed"] * 3
    await again.stop()
