# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that follows something is of use only while somebody listens: one whose reader is gone is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from rbee.adapters.store import SqliteJobStore
from rbee.daemons.access import Listener
from rbee.daemons.app import Server, build
from rbee.daemons.job_routes import JobRoutes
from rbee.daemons.jobs import JobContext, JobRunner
from rbee.daemons.lanes import Lanes
from tests.support.waiting import eventually


async def follows(context: JobContext, request: object) -> None:
    """As the log of a worker that says little: for ever, if nobody cancels it."""
    context.narrate("worker_logs_line", "the first line")
    await asyncio.Event().wait()


class Jobs:
    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self.http = url, http

    async def submit(self, **fields: Any) -> str:
        body = {"operation": {"WorkerLogs": {"worker_id": "w1", **fields}}}
        async with self.http.post(f"{self.url}/v1/jobs", json=body) as answer:
            return str((await answer.json())["job_id"])

    async def state(self, job_id: str) -> str:
        async with self.http.get(f"{self.url}/v1/jobs/{job_id}") as answer:
            return str((await answer.json())["state"])

    async def ends(self, job_id: str, state: str) -> None:
        async def has() -> bool:
            return await self.state(job_id) == state

        await eventually(has)

    def stream(self, job_id: str) -> Any:
        return self.http.get(f"{self.url}/v1/jobs/{job_id}/stream")


@contextlib.asynccontextmanager
async def jobs(path: Path, unheard: float, lanes: Lanes | None = None) -> AsyncIterator[Jobs]:
    runner = JobRunner(SqliteJobStore(path), {"WorkerLogs": follows}, "test", lanes=lanes, unheard=unheard)
    await runner.start()
    server = Server(build(JobRoutes(runner).routes()), [Listener("127.0.0.1", 0)])
    await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Jobs(server.urls[0], http)
    finally:
        await runner.stop()
        await server.stop(drain=1)


async def test_a_follower_whose_reader_was_killed_is_cancelled_and_says_why(tmp_path: Path) -> None:
    async with jobs(tmp_path / "a.db", 0.3) as b:
        job_id = await b.submit(follow=True)
        async with b.stream(job_id) as answer:
            assert b"the first line" in await answer.content.readline() + await answer.content.readline()
            answer.close()  # no DELETE comes: the reader is dead
        await b.ends(job_id, "cancelled")
        async with b.stream(job_id) as answer:
            events = [json.loads(line[6:]) for line in (await answer.text()).splitlines() if line.startswith("data: {")]
        told = next(e for e in events if e["event"] == "job_unheard")
        assert told["seconds"] == 0.3
        assert events[-1]["event"] == "cancelled"


async def test_one_that_nobody_ever_read_is_cancelled_also_while_it_waits_for_its_turn(tmp_path: Path) -> None:
    lanes = Lanes({"logs": 1}, 1)
    async with jobs(tmp_path / "a.db", 0.3, lanes) as b, b.stream(await b.submit(follow=True)) as heard:
        await heard.content.readline()
        waiting = await b.submit(follow=True)
        assert await b.state(waiting) == "queued"
        await b.ends(waiting, "cancelled")


async def test_its_place_is_the_next_ones(tmp_path: Path) -> None:
    async with jobs(tmp_path / "a.db", 0.3, Lanes({"logs": 1}, 1)) as b:
        left = await b.submit(follow=True)
        second = await b.submit(follow=True)
        async with b.stream(second) as answer:
            said = b""
            while b"the first line" not in said:
                said += await answer.content.readline()
            assert await b.state(left) == "cancelled"


async def test_those_that_are_read_and_those_that_end_by_themselves_go_on(tmp_path: Path) -> None:
    async with jobs(tmp_path / "a.db", 0.1) as b:
        unread = await b.submit(follow=False)
        read = await b.submit(follow=True)
        lonely = await b.submit(follow=True)
        async with b.stream(read) as answer:
            await answer.content.readline()
            await b.ends(lonely, "cancelled")
            assert [await b.state(j) for j in (read, unread)] == ["running", "running"]
