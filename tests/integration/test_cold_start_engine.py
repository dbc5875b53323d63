# SPDX-License-Identifier: GPL-3.0-or-later
"""Cold starts, idle timeouts, room and replicas on a real queen, a real hive, and real workers of llama.cpp."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import system
from rbee.contracts.configs import KnownHive, KnownModel, KnownWorker, QueenConfig
from rbee.contracts.operations.models import ModelDownload
from rbee.core.scaling import Limits
from rbee.core.spec import WorkerOptions
from rbee.daemons.queen.scaling.scaler import Pace
from tests.integration.test_cold_start import QUICK, ask
from tests.support.hive import MARK, HiveClient, install_engine, machine
from tests.support.queen import Client, queen_config, queen_in
from tests.support.spawning import end_all, running
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine

BEE, ENDLESS = "bee-tiny", "endless"
ALL = system.cores()
OPTIONS = WorkerOptions(context_length=512, parallel=1, threads=1)
#: A worker that takes all the threads of the machine: two of these do not fit.
WHOLE = WorkerOptions(context_length=512, parallel=1, threads=ALL)
#: Longer than any of these takes.
LONG = {"X-Request-Timeout": "60"}


def known(worker_id: str, model: str = BEE, **changes: Any) -> KnownWorker:
    said: dict[str, Any] = {
        "worker_id": worker_id,
        "spec_name": worker_id.rpartition("-")[0],
        "model": model,
        "hive_id": "h1",
        "worker_type": "cpu",
        "engine": "llama-cpp",
        "options": OPTIONS,
        "mark": MARK,
        "on_demand": True,
    }
    return KnownWorker(**{**said, **changes})


@dataclass
class Both:
    """A queen, and the hive that she knows."""

    client: Client
    hive: HiveClient

    def status(self, worker_id: str) -> str:
        worker = self.client.queen.registry.workers.get(worker_id)
        return worker.status if worker is not None else "unknown"

    async def pids(self) -> dict[str, int]:
        """Of all workers with a process, as the hive has them."""
        return {w.worker_id: w.pid for w in (await self.hive.capabilities()).workers if w.pid}

    async def all_did(self, operation: str, count: int) -> bool:
        """Whether the queen's jobs of this kind are so many, and have ended well."""
        found = (await self.client.get("/v1/jobs?limit=100"))["jobs"]
        states = [j["state"] for j in found if j["operation"] == operation]
        assert len(states) <= count
        return states == ["completed"] * count


@asynccontextmanager
async def machine_in(root: Path) -> AsyncIterator[HiveClient]:
    """A hive with two models; its workers end with it."""
    paths = machine(root)
    install_engine(paths, llama_cpp())
    async with running(paths, drain=2.0, look_every=0.1) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        write_tiny_gguf(root / "endless.gguf")
        await hive.run(ModelDownload(model=f"file:{root / 'endless.gguf'}", model_id=ENDLESS))
        try:
            yield hive
        finally:
            await end_all(hive)


def settings_of(hive: HiveClient, *workers: KnownWorker) -> QueenConfig:
    models = (KnownModel(name=BEE), KnownModel(name=ENDLESS))
    return queen_config(models=models, aliases={}, workers=workers, hives=(KnownHive(hive_id="h1", url=hive.url),))


@asynccontextmanager
async def fleet(root: Path, *workers: KnownWorker, pace: Pace = QUICK) -> AsyncIterator[Both]:
    async with machine_in(root) as hive, queen_in(root / "queen", settings_of(hive, *workers), scaling=pace) as client:
        await eventually(lambda: client.queen.hives.by_id["h1"].capabilities)
        yield Both(client, hive)


async def chat(both: Both, model: str = BEE, headers: Any = LONG, **fields: Any) -> tuple[int, Any]:
    return await ask(both.client, model, headers=headers, **{"max_tokens": 4, **fields})


async def test_fifty_requests_start_one_process_and_all_are_answered(tmp_path: Path) -> None:
    async with fleet(tmp_path, known("bee-0")) as both:
        async with both.client.chat(BEE, max_tokens=4) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
            body = await answer.json()
        assert (body["error"]["code"], body["loading"]["state"]) == ("model_loading", "starting")
        answers = await asyncio.gather(*(chat(both) for _ in range(50)))
        assert {status for status, _ in answers} == {200}
        await eventually(lambda: both.all_did("WorkerSpawn", 1))
        assert list(await both.pids()) == ["bee-0"]


async def test_idle_it_is_unloaded_and_a_request_brings_it_back(tmp_path: Path) -> None:
    async with fleet(tmp_path, known("bee-0", idle_timeout=1.0)) as both:
        assert (await chat(both))[0] == 200
        before = (await both.pids())["bee-0"]
        await eventually(lambda: both.status("bee-0") == "unloaded", seconds=20)
        assert await both.pids() == {}
        answers = await asyncio.gather(*(chat(both) for _ in range(10)))
        assert {status for status, _ in answers} == {200}
        (worker,) = (await both.hive.capabilities()).workers
        assert worker.pid not in (0, before)
        assert (worker.idle_timeout, worker.mark) == (1.0, MARK)
        await eventually(lambda: both.all_did("WorkerSpawn", 2))


async def test_two_models_that_do_not_fit_take_turns_and_a_busy_one_is_never_ended(tmp_path: Path) -> None:
    both_of = (known("bee-0", options=WHOLE), known("long-0", ENDLESS, options=WHOLE))
    async with fleet(tmp_path, *both_of) as both:
        assert (await chat(both))[0] == 200
        streaming = asyncio.create_task(stream(both))  # the idle one makes room
        await eventually(lambda: both.status("long-0") in ("ready", "busy"), seconds=30)
        assert both.status("bee-0") == "unloaded"
        pid = (await both.pids())["long-0"]
        waiting = asyncio.create_task(chat(both))
        await eventually(lambda: _queued(both, BEE), seconds=20)
        tokens = await streaming
        assert tokens > 100  # all of it, to its end
        assert (await waiting)[0] == 200
        assert both.status("long-0") == "unloaded"
        assert pid not in (await both.pids()).values()


async def stream(both: Both) -> int:
    """Tokens of a long answer that came whole."""
    count, ended = 0, False
    async with both.client.chat(ENDLESS, headers=LONG, stream=True, max_tokens=400) as answer:
        assert answer.status == 200
        async for line in answer.content:
            if line.startswith(b"data: {"):
                assert "error" not in json.loads(line[6:])
                count += 1
            ended = ended or line.startswith(b"data: [DONE]")
    assert ended
    return count


def _queued(both: Both, model: str) -> bool:
    found = both.client.queen.starter.loading((model,))
    return found is not None and found.state == "queued"


async def test_who_is_always_kept_is_named_when_there_is_no_room(tmp_path: Path) -> None:
    always = known("bee-0", options=WHOLE, on_demand=False)
    async with fleet(tmp_path, always, known("long-0", ENDLESS, options=WHOLE)) as both:
        assert (await chat(both))[0] == 200
        status, body = await chat(both, ENDLESS)
        assert status == 503
        assert "CPU thread" in body["error"]["message"]
        assert "bee-0 (bee-tiny" in body["error"]["message"]
        assert "always kept" in body["error"]["message"]
        assert list(await both.pids()) == ["bee-0"]


@pytest.mark.skipif(ALL < 2, reason="two workers want a core each")
async def test_a_load_brings_a_second_process_and_its_end_takes_it_away(tmp_path: Path) -> None:
    limits = Limits(up_after=0.3, up_soonest=0.1, down_after=1.0, cooldown=0.1)
    pair = (known("bee-0", on_demand=False), known("bee-1"))
    async with fleet(tmp_path, *pair, pace=Pace(limits=limits, every=0.1, min_stay=0.0)) as both:
        assert (await chat(both))[0] == 200
        going, statuses = True, set[int]()

        async def one() -> None:
            while going:
                statuses.add((await chat(both, max_tokens=40))[0])

        asking = [asyncio.create_task(one()) for _ in range(6)]
        await eventually(lambda: {both.status("bee-0"), both.status("bee-1")} <= {"ready", "busy"}, seconds=40)
        going = False
        await asyncio.gather(*asking)
        assert statuses == {200}
        await eventually(lambda: "unloaded" in (both.status("bee-0"), both.status("bee-1")), seconds=30)
        assert len(await both.pids()) == 1
        assert both.client.queen.scaler.downs == 1


async def test_a_queen_that_ends_while_it_loads_leaves_it_to_the_next(tmp_path: Path) -> None:
    async with machine_in(tmp_path) as hive:
        config = settings_of(hive, known("bee-0"))
        async with queen_in(tmp_path / "queen", config, scaling=QUICK) as client:
            first = Both(client, hive)
            await eventually(lambda: client.queen.hives.by_id["h1"].capabilities)
            assert (await chat(first, headers=None))[0] == 503
            await eventually(lambda: first.status("bee-0") == "starting")
        async with queen_in(tmp_path / "queen", config, scaling=QUICK) as client:
            second = Both(client, hive)
            status, body = await chat(second)
            assert status == 200, body
            assert list(await second.pids()) == ["bee-0"]
            assert (await hive.capabilities()).workers[0].restarts == 0
            assert client.queen.starter.launcher is not None
            assert client.queen.starter.launcher.starts == 0
