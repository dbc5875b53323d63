# SPDX-License-Identifier: GPL-3.0-or-later
"""A request whose only worker dies under it waits for the worker to come back, as long as that is to be expected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee.core.spec_queen import LimitsSpec
from rbee.daemons.queen.admission.patience import GRACE
from rbee.daemons.queen.known.registry import Registry
from tests.integration.test_admission import Got, Line, ask, limited
from tests.integration.test_cold_start import fleet
from tests.support.mock_engine import MockEngine, Script
from tests.support.queen import MODEL, Client, beat, queen_in, workers
from tests.support.small_hive import SmallHive, known
from tests.support.waiting import eventually

ANEW = "2026-01-02T00:00:00Z"


def says(status: int, code: str, message: str) -> Script:
    said = f'{{"error": {{"message": "{message}", "code": "{code}"}}}}'
    return Script(raw=f"HTTP/1.1 {status} X\r\nContent-Length: {len(said)}\r\n\r\n{said}")


DIED = says(503, "engine_died", "The engine stopped before it could answer (reset).")


async def bereft(c: Client, engine: MockEngine, **how: Any) -> asyncio.Task[Got]:
    """A request whose worker is gone, before the first byte, and with it the worker's port; it waits."""
    engine.next.append(Script(hang=True))
    task = asyncio.get_running_loop().create_task(ask(c, "bereft", **how))
    await eventually(lambda: engine.requests > 0)
    await engine.stop()
    await eventually(lambda: task.done() or c.queen.gate.waiting(MODEL) == 1)
    return task


async def test_it_waits_for_the_workers_next_process(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        asking = await bereft(c, engine)
        late = await ask(c, "late")
        assert (late.status, late.code) == (503, "no_worker_ready")  # it was never let in
        await c.heartbeat(beat("w1", engine.port, status="starting", started_at=ANEW))
        await engine.start()
        await c.heartbeat(beat("w1", engine.port, started_at=ANEW))
        got = await asking
        assert (got.status, got.headers["X-Rbee-Worker"]) == (200, "w1")
        assert [seen.header("x-request-id") for seen in engine.seen if seen.method == "POST"] == [["bereft"]] * 2


async def test_one_whose_hive_does_not_tell_is_found_when_it_answers(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        asking = await bereft(c, engine)
        await engine.start()
        assert (await asking).status == 200


async def test_those_behind_it_wait_too(tmp_path: Path) -> None:
    """Longer than the first moments: the worker is heard of, and loads."""
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        engine.next.append(Script(hang=True))
        line.tasks.append(asyncio.get_running_loop().create_task(ask(c, "bereft")))
        await eventually(lambda: engine.requests == 1)
        await line.add("a")
        await engine.stop()
        await eventually(lambda: c.queen.gate.waiting(MODEL) == 2)
        await eventually(lambda: c.queen.gate.oldest(MODEL) > GRACE + 2.0)
        assert c.queen.gate.waiting(MODEL) == 2
        await engine.start()
        await c.heartbeat(beat("w1", engine.port, slots=1, started_at=ANEW))
        assert [got.status for got in await line.ends()] == [200, 200]


async def test_a_worker_that_lost_its_engine_is_asked_again_when_it_has_another(tmp_path: Path) -> None:
    """What it said in the moment of the engine's death is no news of another engine."""
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        engine.script = DIED
        asking = asyncio.get_running_loop().create_task(ask(c))
        await eventually(lambda: c.queen.gate.waiting(MODEL) == 1)
        await c.heartbeat(beat("w1", engine.port, requests_handled=1))
        await c.heartbeat(beat("w1", engine.port, status="starting"))
        await eventually(lambda: c.queen.gate.oldest(MODEL) > 2.0)
        assert engine.requests - _probes(engine) == 1
        engine.script = None
        await c.heartbeat(beat("w1", engine.port))
        assert (await asking).status == 200
        assert engine.requests - _probes(engine) == 2


def _probes(engine: MockEngine) -> int:
    return sum(seen.method == "GET" for seen in engine.seen)


@pytest.mark.parametrize("mock", [{"raw": DIED.raw}, {"die_after": 0}])
async def test_one_that_dies_again_under_the_same_request_is_spared(tmp_path: Path, mock: dict[str, Any]) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        beating = asyncio.get_running_loop().create_task(_beats(c, engine))
        async with c.chat(stream=True, mock=mock) as answer:
            got = Got(answer.status, answer.headers, await answer.json())
        beating.cancel()
        assert (got.status, got.code) == (503, "no_worker_ready")
        assert got.retry_after >= 1
        assert engine.requests - _probes(engine) == 2


async def _beats(c: Client, engine: MockEngine) -> None:
    while True:
        await c.heartbeat(beat("w1", engine.port))
        await asyncio.sleep(0.1)


def _forgotten(registry: Registry) -> None:
    registry.forget("w1")


def _stopped(registry: Registry) -> None:
    registry.hold(registry.workers["w1"], "being stopped")


def _given_up(registry: Registry) -> None:
    registry.workers["w1"].status = "failed"


def _silent(registry: Registry) -> None:
    registry.workers["w1"].last_seen -= registry.stale_after


@pytest.mark.parametrize("gone", [_forgotten, _stopped, _given_up, _silent])
async def test_when_it_will_not_come_back_the_request_is_told(tmp_path: Path, gone: Callable[[Registry], None]) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        asking = await bereft(c, engine, X_Request_Timeout="600")
        assert not asking.done()
        gone(c.queen.registry)
        got = await asking
        assert (got.status, got.code) == (503, "no_worker_ready")
        assert got.retry_after >= 1


async def test_its_patience_is_that_of_the_queue(tmp_path: Path) -> None:
    async with queen_in(tmp_path, limited(queue_timeout=1.0)) as c, workers(c, "w1") as (engine,):
        got = await (await bereft(c, engine))
        assert (got.status, got.code) == (503, "no_worker_ready")
        assert "w1: unreachable" in got.body["error"]["message"]
        assert got.retry_after >= 1


async def test_or_that_of_the_client(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        asking = await bereft(c, engine, X_Request_Timeout="2")
        assert (await asking).code == "deadline_exceeded"
        await engine.start()
        await eventually(lambda: c.queen.registry.workers["w1"].unreachable is None)
        leaving = await bereft(c, engine)
        leaving.cancel()
        await eventually(lambda: not c.queen.gate.depths())
        assert c.queen.registry.workers["w1"].in_flight == 0


async def test_a_job_waits_too(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        engine.script = DIED
        job_id = await c.submit("Infer", model=MODEL, prompt="hi")
        await eventually(lambda: c.queen.gate.waiting(MODEL) == 1)
        engine.script = None
        await c.heartbeat(beat("w1", engine.port, status="starting"))
        await c.heartbeat(beat("w1", engine.port))
        await c.events(job_id)
        assert (await c.get(f"/v1/jobs/{job_id}"))["state"] == "completed"


async def test_when_it_is_stopped_another_is_started_on_demand(tmp_path: Path) -> None:
    """Nobody waits for the one that was taken away when the plan has another."""
    hive = SmallHive(script=Script(hang=True))
    limits = LimitsSpec(queue_timeout=60.0)
    async with fleet(tmp_path, hive, known("a-0", "llama"), known("a-1", "llama"), limits=limits) as c:
        await c.submit("WorkerSpawn", hive_id="h1", model="llama", worker_id="a-0")
        await eventually(lambda: c.queen.registry.workers.get("a-0") and "a-0" in hive.engines)
        await eventually(lambda: c.queen.registry.workers["a-0"].status == "ready")
        asking = asyncio.get_running_loop().create_task(ask(c, model="llama"))
        await eventually(lambda: hive.engines["a-0"].requests == 1)
        hive.script = None
        hive.breaks["a-0"] = "its disk is gone"
        del hive.records["a-0"]
        hive._tell_records()
        await hive.engines["a-0"].stop()
        await hive.hive_says("removed", "a-0")
        got = await asking
        assert (got.status, got.headers.get("X-Rbee-Worker")) == (200, "a-1")
