# SPDX-License-Identifier: GPL-3.0-or-later
"""Several queens on one PostgreSQL: any of them answers for any job, and what one hears all know."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rbee.contracts import codec, defaults
from rbee.contracts.heartbeat import HiveHeartbeat, MonitorData
from rbee.contracts.jobs import ChildJob, job_of
from rbee.contracts.operations.fleet import QueenCheckResponse
from rbee.core.errors import RbeeError
from rbee.daemons.access import Listener
from rbee.daemons.app import Server, build
from rbee.daemons.job_routes import JobRoutes
from rbee.daemons.jobs import Handler, JobContext, JobRunner, Resume
from rbee.daemons.queen.admission.shared_rates import SharedRates
from tests.support.postgres import PASSWORD, Cluster, cluster
from tests.support.queen import Client, FakeHive, beat, queen_config, queen_in
from tests.support.stores import Stores, job
from tests.support.waiting import eventually

Frames = list[tuple[int | None, Any]]


@pytest.fixture
async def stores(postgres: Cluster, tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(tmp_path, postgres, await postgres.make())
    yield made
    await made.close()


class Queen:
    """A runner on the shared store, and its HTTP."""

    def __init__(self, runner: JobRunner, server: Server, http: aiohttp.ClientSession) -> None:
        self.runner, self.server, self.http = runner, server, http

    @property
    def url(self) -> str:
        return f"{self.server.urls[0]}/v1/jobs"

    async def submit(self, name: str = "QueenCheck", **fields: Any) -> str:
        async with self.http.post(self.url, json={"operation": {name: fields}}) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["job_id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        async with self.http.get(f"{self.url}/{job_id}") as answer:
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found

    async def state(self, job_id: str) -> str:
        return str((await self.job(job_id))["state"])

    async def cancel(self, job_id: str) -> tuple[int, dict[str, Any]]:
        async with self.http.delete(f"{self.url}/{job_id}") as answer:
            return answer.status, await answer.json()

    async def stream(self, job_id: str, after: int = 0, large: str = "true") -> Frames:
        headers = {"Last-Event-ID": str(after)}
        url = f"{self.url}/{job_id}/stream?large={large}"
        async with self.http.get(url, headers=headers) as answer:
            assert answer.status == 200
            return frames(await answer.text())


def frames(text: str) -> Frames:
    found: Frames = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            data = lines["data"]
            found.append((int(lines["id"]) if "id" in lines else None, data if data == "[DONE]" else json.loads(data)))
    return found


@contextlib.asynccontextmanager
async def queen(
    stores: Stores, name: str, handler: Handler, *, resumes: Mapping[str, Resume] | None = None, ttl: float = 60.0
) -> AsyncIterator[Queen]:
    store = stores.make(name, owner_ttl=ttl)
    runner = JobRunner(store, {"QueenCheck": handler}, f"queen/{name}", resumes=resumes, beat=min(ttl / 3, 1.0))
    await runner.start()
    server = Server(build(JobRoutes(runner).routes()), [Listener("127.0.0.1", 0)])
    await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Queen(runner, server, http)
    finally:
        await runner.stop()
        await server.stop(drain=0.2)


async def test_one_key_is_one_job_whichever_queen_is_asked(stores: Stores) -> None:
    begun: list[object] = []

    async def once(context: JobContext, request: object) -> dict[str, str]:
        begun.append(request)
        return {"message": "ok"}

    async def ask(q: Queen) -> str | None:
        headers = {"Idempotency-Key": "nightly"}
        async with q.http.post(q.url, json={"operation": {"QueenCheck": {}}}, headers=headers) as answer:
            said = await answer.json()
            if answer.status == 503:  # the other is just making it
                assert (said["error"]["code"], answer.headers["Retry-After"]) == ("being_made", "1")
                return None
            assert answer.status == 202, said
            return str(said["job_id"])

    async with queen(stores, "a", once) as a, queen(stores, "b", once) as b:
        told = await asyncio.gather(*(eventually(partial(ask, q)) for q in (a, b) * 4))
        assert set(told) == {job_of("nightly")}
        assert await ask(a) == await ask(b) == job_of("nightly")
    assert len(begun) == 1


async def no_handler(context: JobContext, request: object) -> None:
    raise RbeeError("This queen should not run it.")


class Steps:
    """A handler that goes on when it is told to, and knows whether it was cancelled."""

    def __init__(self) -> None:
        self.go: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled = asyncio.Event()

    async def __call__(self, context: JobContext, request: object) -> QueenCheckResponse:
        try:
            while (step := await self.go.get()) != "end":
                context.narrate("queen_check_step", step)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return QueenCheckResponse(message="x" * 300_000)


async def test_any_queen_tells_of_any_job_as_it_goes_and_to_its_end(stores: Stores) -> None:
    steps = Steps()
    async with queen(stores, "a", steps) as a, queen(stores, "b", no_handler) as b:
        job_id = await a.submit()
        assert (await b.job(job_id))["operation"] == "QueenCheck"
        async with b.http.get(f"{b.url}/{job_id}/stream") as live:
            for n in range(3):
                steps.go.put_nowait(f"step {n}")
                told = frames((await asyncio.wait_for(live.content.readuntil(b"\n\n"), 10)).decode())
                assert [(i, x["message"]) for i, x in told] == [(n + 1, f"step {n}")]
            later = asyncio.create_task(b.stream(job_id, after=2))
            without = asyncio.create_task(b.stream(job_id, after=2, large="false"))
            steps.go.put_nowait("end")
            rest = frames((await asyncio.wait_for(live.content.read(), 10)).decode())
        assert [i for i, _ in rest] == [4, None]
        assert (rest[0][1]["event"], rest[-1][1]) == ("result", "[DONE]")
        assert rest[0][1]["result"] == {"message": "x" * 300_000}
        assert [i for i, _ in await later] == [3, 4, None]
        assert [i for i, _ in await without] == [3, None]
        assert await b.stream(job_id) == await a.stream(job_id), "the same to the byte, from either"
        assert (await b.job(job_id))["result"] == {"message": "x" * 300_000}
        for q in (a, b):
            async with q.http.get(f"{q.url}?operation=QueenCheck&state=completed") as answer:
                assert [j["job_id"] for j in (await answer.json())["jobs"]] == [job_id]


async def test_a_cancel_by_any_queen_reaches_the_handler(stores: Stores) -> None:
    steps = Steps()
    async with queen(stores, "a", steps) as a, queen(stores, "b", no_handler) as b:
        job_id = await a.submit()
        reader = asyncio.create_task(b.stream(job_id))
        status, told = await b.cancel(job_id)
        assert (status, told["state"]) == (200, "cancelled")
        await asyncio.wait_for(steps.cancelled.wait(), 10)
        said = await asyncio.wait_for(reader, 10)
        assert (said[-2][1]["event"], said[-1][1]) == ("cancelled", "[DONE]")
        status, told = await b.cancel(job_id)
        assert (status, told["error"]["code"]) == (409, "job_ended")
        assert (await a.cancel(job_id))[0] == 409
        assert (await b.cancel("job-none"))[0] == 404


async def test_a_queen_that_starts_ends_her_own_jobs_of_before_and_no_others(stores: Stores) -> None:
    steps = Steps()
    dead = await stores.open("b", owner_ttl=60)
    dead.put(job(1, "running"))
    await dead.settled()
    async with queen(stores, "a", steps) as a:
        job_id = await a.submit()
        async with queen(stores, "b", no_handler) as b:
            told = await b.stream("job-1")
            assert told[0][1]["code"] == "interrupted"
            assert await b.state(job_id) == "running"
            steps.go.put_nowait("end")
            assert (await b.stream(job_id))[-1][1] == "[DONE]"
            assert await b.state(job_id) == "completed"


async def test_jobs_of_a_queen_who_died_are_ended_or_gone_on_with_by_another_once(stores: Stores) -> None:
    dead = await stores.open("dead", owner_ttl=0.5)
    child = ChildJob(hive_id="cellar", job_id="job-child")
    for n in range(1, 6):
        more: dict[str, Any] = {"operation": "ModelDownload", "child": child} if n % 2 else {"operation": "QueenCheck"}
        dead.put(job(n, "running", **more))
        dead.append(f"job-{n}", 1, b'{"event":"started"}')
        dead.append(f"job-{n}", 2, b'{"event":"model_download_progress","child_event_id":7}')
        dead.append(f"job-{n}", 3, b'{"event":"of the queen herself"}')
    await dead.settled()
    resumed: list[tuple[str, str, int]] = []

    def by(name: str) -> Resume:
        async def resume(context: JobContext, found: ChildJob, after: int) -> bytes:
            assert found == child
            resumed.append((name, context.job_id, after))
            context.relay({"event": "model_download_complete", "job_id": "job-child"}, after + 1)
            return b'{"model_id":"m"}'

        return resume

    async with (
        queen(stores, "a", no_handler, resumes={"ModelDownload": by("a")}, ttl=1.5) as a,
        queen(stores, "b", no_handler, resumes={"ModelDownload": by("b")}, ttl=1.5) as b,
    ):
        told = {n: await asyncio.wait_for(a.stream(f"job-{n}"), 20) for n in range(1, 6)}
        assert sorted((job_id, after) for _, job_id, after in resumed) == [(f"job-{n}", 7) for n in (1, 3, 5)]
        for n in (1, 3, 5):
            assert [i for i, _ in told[n]] == [1, 2, 3, 4, 5, None]
            assert told[n][3][1]["child_event_id"] == 8
            found = await b.job(f"job-{n}")
            assert (found["state"], found["result"]) == ("completed", {"model_id": "m"})
        for n in (2, 4):
            assert told[n][-2][1]["code"] == "interrupted"
            assert (await b.job(f"job-{n}"))["state"] == "failed"


async def test_a_job_that_nobody_can_write_down_is_refused_and_never_begins(tmp_path: Path) -> None:
    begun: list[str] = []

    async def handler(context: JobContext, request: object) -> QueenCheckResponse:
        begun.append(context.job_id)
        return QueenCheckResponse(message="ok")

    with cluster() as own:
        stores = Stores(tmp_path, own, await own.make())
        async with queen(stores, "a", handler) as a:
            done = await a.submit()
            await a.stream(done)
            await asyncio.to_thread(own.stop)
            for _ in range(2):  # when nobody knows it yet, and when it is known
                async with a.http.post(a.url, json={"operation": {"QueenCheck": {}}}) as answer:
                    assert answer.status == 503
                    assert int(answer.headers["Retry-After"]) >= 1
                    assert (await answer.json())["error"]["code"] == "store_away"
            async with a.http.get(f"{a.url}/job-of-another-queen") as answer:
                assert answer.status == 503
            assert begun == [done]
            await asyncio.to_thread(own.start)
            await eventually(lambda: a.runner.store.trouble is None, seconds=20)
            again = await a.submit()
            await a.stream(again)
            assert begun == [done, again]
            async with a.http.get(a.url) as answer:
                states = {j["job_id"]: j["state"] for j in (await answer.json())["jobs"]}
            assert {states.pop(done), states.pop(again)} == {"completed"}
            assert set(states.values()) <= {"failed"}, "what was refused is shown as that"


# Whole queens.


@contextlib.asynccontextmanager
async def whole(stores: Stores, name: str, root: Path, **settings: Any) -> AsyncIterator[Client]:
    assert stores.cluster is not None
    password = root / "password"
    root.mkdir(parents=True, exist_ok=True)
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    config = queen_config(store=stores.cluster.url(stores.database), store_password_file=str(password), **settings)
    async with queen_in(root / name, config) as client:
        yield client


async def test_what_one_queen_hears_of_workers_and_hives_the_other_knows(stores: Stores, tmp_path: Path) -> None:
    hive = FakeHive()
    async with hive.run(tmp_path / "hive"):
        known = {"hives": (hive.known,)}
        async with whole(stores, "a", tmp_path, **known) as a, whole(stores, "b", tmp_path, **known) as b:
            assert await a.heartbeat(beat("w1", 9_300)) == 200
            found = await eventually(lambda: b.queen.registry.workers.get("w1"))
            assert found.trusted
            assert await b.heartbeat(beat("w1", 9_300, status="stopping")) == 200
            await eventually(lambda: a.queen.registry.workers["w1"].status == "stopping")
            await a.heartbeat(beat("w2", 9_301, hive_id="nowhere"))  # of no hive of this fleet
            monitor = MonitorData(cpu_usage_percent=12.5, ram_used_gb=1, ram_total_gb=2, uptime_seconds=3)
            said = HiveHeartbeat(hive_id="h1", timestamp="2026-01-01T00:00:00Z", monitor_data=monitor)
            async with b.http.post(f"{b.url}/v1/hive-heartbeat", data=codec.encode(said)) as answer:
                assert answer.status == 200
            await eventually(lambda: a.queen.hives.by_id["h1"].heartbeat == said)
            assert set(a.queen.registry.workers) == set(b.queen.registry.workers) == {"w1"}
            assert await a.queen.store.lease("scaler", 60) or await b.queen.store.lease("scaler", 60)


async def test_a_job_on_a_hive_is_cancelled_by_the_other_queen_down_to_the_hive(stores: Stores, tmp_path: Path) -> None:
    steps = Steps()
    hive = FakeHive(handlers={"HiveCheck": steps})
    async with hive.run(tmp_path / "hive"):
        known = {"hives": (hive.known,)}
        async with whole(stores, "a", tmp_path, **known) as a, whole(stores, "b", tmp_path, **known) as b:
            job_id = await a.submit("HiveCheck", hive_id="h1")
            child = (await eventually(lambda: _child(b, job_id)))["job_id"]
            assert hive.runner.held(child) is not None
            async with b.http.delete(f"{b.url}/v1/jobs/{job_id}") as answer:
                assert (answer.status, (await answer.json())["state"]) == (200, "cancelled")
            assert (await hive.runner.get(child)).state == "cancelled"
            assert (await a.get(f"/v1/jobs/{job_id}"))["state"] == "cancelled"


async def _child(client: Client, job_id: str) -> Any:
    return (await client.get(f"/v1/jobs/{job_id}"))["child"]


async def test_when_a_queen_stops_the_other_goes_on_with_what_a_hive_does_for_her(
    stores: Stores, tmp_path: Path
) -> None:
    steps = Steps()
    hive = FakeHive(handlers={"HiveCheck": steps})
    async with hive.run(tmp_path / "hive"):
        known = {"hives": (hive.known,)}
        async with whole(stores, "b", tmp_path, **known) as b:
            async with whole(stores, "a", tmp_path, **known) as a:
                job_id = await a.submit("HiveCheck", hive_id="h1")
                steps.go.put_nowait("one")
                reader = asyncio.create_task(b.events(job_id))
                await eventually(lambda: _told(b, job_id))
            assert (await b.get(f"/v1/jobs/{job_id}"))["state"] == "running"
            steps.go.put_nowait("two")
            steps.go.put_nowait("end")
            told = frames(await asyncio.wait_for(reader, 3 * defaults.OWNER_TTL))
            assert [x["message"] for i, x in told if i and x["event"] == "queen_check_step"] == ["one", "two"]
            assert (await b.get(f"/v1/jobs/{job_id}"))["state"] == "completed"
            assert not steps.cancelled.is_set()


async def _told(client: Client, job_id: str) -> bool:
    return await client.queen.store.last(job_id) > 0


async def test_a_rate_holds_for_both_queens_together(stores: Stores) -> None:
    a, b = await stores.open("a"), await stores.open("b")
    rates = [SharedRates(store, lambda: 1000.0) for store in (a, b)]
    for each in rates:
        each.start()
    first, second = rates
    assert [first.take("key", 10, 1000.0) for _ in range(7)] == [0.0] * 7
    await eventually(lambda: second.left("key", 10, 1000.0).remaining == 3)
    assert [second.take("key", 10, 1000.0) == 0.0 for _ in range(4)] == [True, True, True, False]
    await eventually(lambda: first.left("key", 10, 1000.0).remaining == 0)
    assert first.take("key", 10, 1000.0) > 0
    assert first.take("another", 10, 1000.0) == 0
    b.publish("rates", b'{"key":[-5,10],"x":[1,0],"y":[1000000,1]}')
    b.publish("rates", b"nonsense")
    await eventually(lambda: first.left("y", 1, 1000.0).remaining == 0)
    assert first.take("y", 1, 1000.0) <= 120, "nobody waits for ever for what others took"
    for each in rates:
        each.stop()
