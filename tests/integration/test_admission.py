# SPDX-License-Identifier: GPL-3.0-or-later
"""Who waits for a slot, in which order, and who is refused. A hanging request holds the slot until its client goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rbee.contracts import codec
from rbee.contracts.configs import KnownModel, QueenConfig
from rbee.core.spec_queen import KeySpec, LimitsSpec
from tests.support.mock_engine import MockEngine, Script
from tests.support.queen import MODEL, Client, beat, queen_config, queen_in, workers
from tests.support.waiting import eventually

HANG = {"hang": True}
KEYS = {"alice": "alices-key-0123456789", "bob": "bobs-key-0123456789", "cron": "crons-key-0123456789"}


@dataclass
class Got:
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])

    @property
    def retry_after(self) -> int:
        return int(self.headers["Retry-After"])


async def ask(
    c: Client, name: str = "r", *, key: str = "", model: str = MODEL, mock: Any = None, **headers: str
) -> Got:
    """A whole request; `name` is its id, `key` its bearer."""
    said = {"X-Request-Id": name, **{k.replace("_", "-"): v for k, v in headers.items()}}
    if key:
        said["Authorization"] = f"Bearer {KEYS.get(key, key)}"
    async with c.chat(model, headers=said, **({"mock": mock} if mock else {})) as answer:
        return Got(answer.status, answer.headers, await answer.json())


class Line:
    """Requests that wait, one after the other."""

    def __init__(self, c: Client) -> None:
        self.c = c
        self.tasks: list[asyncio.Task[Got]] = []

    async def add(self, name: str, **how: Any) -> asyncio.Task[Got]:
        """Sends one and sees it in the queue."""
        gate = self.c.queen.gate
        before = sum(gate.depths().values())
        task = asyncio.get_running_loop().create_task(ask(self.c, name, **how))
        self.tasks.append(task)
        await eventually(lambda: task.done() or sum(gate.depths().values()) > before)
        return task

    async def ends(self) -> list[Got]:
        return await asyncio.gather(*self.tasks)


@contextlib.asynccontextmanager
async def busy(c: Client, engine: MockEngine, **how: Any) -> AsyncIterator[None]:
    """The engine's slot is taken for as long as this lasts."""
    before = engine.requests
    task = asyncio.get_running_loop().create_task(ask(c, "holder", mock=HANG, **how))
    await eventually(lambda: engine.requests > before)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def served(engine: MockEngine) -> list[str]:
    """Ids of what the engine was asked, in order, without what held its slot."""
    ids = [seen.header("x-request-id")[0] for seen in engine.seen]
    return [i for i in ids if i != "holder"]


def limited(**changes: Any) -> QueenConfig:
    return queen_config(limits=LimitsSpec(**changes))


def with_keys(root: Path, **specs: Mapping[str, Any]) -> dict[str, KeySpec]:
    found = {}
    for name in KEYS:
        file = root / f"{name}.key"
        file.write_text(KEYS[name])
        file.chmod(0o600)
        found[name] = KeySpec(name=name, key_file=str(file), **specs.get(name, {}))
    return found


async def test_one_after_the_other(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            for name in ("a", "b", "c"):
                await line.add(name)
            assert c.queen.gate.waiting(MODEL) == 3
            assert c.queen.gate.depths() == {MODEL: 3}
            assert served(engine) == []
            assert c.queen.gate.oldest(MODEL) > 0
        assert [got.status for got in await line.ends()] == [200] * 3
        assert served(engine) == ["a", "b", "c"]
        assert c.queen.gate.waiting(MODEL) == 0
        assert c.queen.gate.oldest(MODEL) == 0
        assert c.queen.registry.workers["w1"].in_flight == 0


async def test_never_more_at_a_worker_than_it_has_slots(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2", slots=2) as engines:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, *(w.in_flight for w in c.queen.registry.workers.values()))
                await asyncio.sleep(0)

        watcher = asyncio.get_running_loop().create_task(watch())
        got = await asyncio.gather(*(ask(c, mock={"delay": 0.01}) for _ in range(40)))
        watcher.cancel()
        assert {g.status for g in got} == {200}
        assert most == 2
        assert sum(e.requests for e in engines) == 40


async def test_priority_and_fairness(tmp_path: Path) -> None:
    """Interactive before batch; of two clients each in his turn, whatever the other has waiting."""
    keys = with_keys(tmp_path, cron={"priority": "batch"})
    async with queen_in(tmp_path, queen_config(keys=keys)) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            await line.add("cron1", key="cron")
            for name in ("alice1", "alice2", "alice3"):
                await line.add(name, key="alice")
            await line.add("bob1", key="bob")
            await line.add("bob2", key="bob", X_Priority="batch")
        assert {got.status for got in await line.ends()} == {200}
        assert served(engine) == ["alice1", "bob1", "alice2", "alice3", "cron1", "bob2"]


async def test_nobody_comes_first_by_a_header(tmp_path: Path) -> None:
    keys = with_keys(tmp_path, cron={"priority": "batch"})
    async with queen_in(tmp_path, queen_config(keys=keys)) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            await line.add("cron", key="cron", X_Priority="interactive")
            await line.add("alice", key="alice")
        await line.ends()
        assert served(engine) == ["alice", "cron"]


async def test_by_weight(tmp_path: Path) -> None:
    keys = with_keys(tmp_path, alice={"weight": 3})
    async with queen_in(tmp_path, queen_config(keys=keys)) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            for number in range(9):
                await line.add(f"a{number}", key="alice")
                await line.add(f"b{number}", key="bob")
        await line.ends()
        assert sum(i.startswith("a") for i in served(engine)[:12]) == 9


async def test_strangers_are_told_apart(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            for name in ("x1", "x2", "x3"):
                await line.add(name, key="program-x")
            await line.add("y1", key="program-y")
        await line.ends()
        assert served(engine) == ["x1", "y1", "x2", "x3"]


async def test_a_full_queue(tmp_path: Path) -> None:
    async with queen_in(tmp_path, limited(queue=2)) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            await line.add("a")
            await line.add("b")
            refused = await ask(c)
            assert refused.status == 429
            assert refused.code == "queue_full"
            assert refused.body["error"]["type"]
            assert refused.retry_after == 5  # nothing was measured yet
        assert [got.status for got in await line.ends()] == [200, 200]


async def test_who_has_filled_the_queue_makes_room_for_others(tmp_path: Path) -> None:
    async with queen_in(tmp_path, limited(queue=4)) as c, workers(c, "w1", slots=1) as (engine,):
        ended: list[str] = []
        c.queen.gate.waits = lambda model, seconds, how: ended.append(how)
        line = Line(c)
        async with busy(c, engine):
            greedy = [await line.add(f"a{n}", key="greedy") for n in range(4)]
            line.tasks.append(other := asyncio.get_running_loop().create_task(ask(c, "b0", key="modest")))
            assert (await greedy[3]).code == "queue_full"
            assert (await greedy[3]).retry_after >= 1
            assert ended == ["crowded_out"]
            assert (await ask(c, key="greedy")).code == "queue_full"
            assert c.queen.gate.waiting(MODEL) == 4
        assert [got.status for got in await line.ends()] == [200, 200, 200, 429, 200]
        assert (await other).status == 200
        assert served(engine) == ["a0", "b0", "a1", "a2"]


async def test_no_queue_at_all(tmp_path: Path) -> None:
    async with queen_in(tmp_path, limited(queue=0)) as c, workers(c, "w1", slots=1) as (engine,):
        async with busy(c, engine):
            assert (await ask(c)).code == "queue_full"
        await eventually(lambda: c.queen.registry.workers["w1"].in_flight == 0)
        assert (await ask(c)).status == 200


async def test_retry_after_is_what_was_measured(tmp_path: Path) -> None:
    async with queen_in(tmp_path, limited(queue=9)) as c, workers(c, "w1", slots=1) as (engine,):
        assert (await ask(c, mock={"delay": 0.3})).status == 200
        mean = c.queen.gate.estimate(MODEL)
        assert mean is not None and mean >= 0.3
        line = Line(c)
        async with busy(c, engine):
            for number in range(9):
                await line.add(f"r{number}")
            refused = await ask(c)
            assert mean * 9 <= refused.retry_after <= mean * 10 + 1
            estimate = c.queen.gate.estimate(MODEL)
            assert estimate == pytest.approx(mean * 10)
        await line.ends()


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        assert (await ask(c, mock={"delay": 0.5})).status == 200
        async with busy(c, engine):
            line = Line(c)
            await line.add("a")
            refused = await ask(c, X_Request_Timeout="1.4")
            assert refused.status == 429
            assert refused.code == "deadline_unmeetable"
            assert "cannot be met: an answer of 'llama' takes about" in refused.body["error"]["message"]
            assert refused.retry_after >= 1
            assert c.queen.gate.waiting(MODEL) == 1
            await line.add("b", X_Request_Timeout="60")  # this one can
        assert [got.status for got in await line.ends()] == [200, 200]


async def test_nothing_measured_nothing_refused_and_the_deadline_ends_in_504(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        async with busy(c, engine):
            late = await ask(c, X_Request_Timeout="0.2")
            assert late.status == 504
            assert late.code == "deadline_exceeded"
            assert c.queen.gate.waiting(MODEL) == 0
        assert (await ask(c, "next")).status == 200
        assert served(engine) == ["next"]


async def test_without_a_deadline_the_queue_has_a_bound_of_its_own(tmp_path: Path) -> None:
    async with queen_in(tmp_path, limited(queue_timeout=0.2)) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            late = await (await line.add("a"))
            assert late.status == 503
            assert late.code == "queue_timeout"
            assert late.retry_after >= 1
            assert c.queen.gate.waiting(MODEL) == 0


async def test_who_leaves_frees_his_place(tmp_path: Path) -> None:
    async with queen_in(tmp_path, limited(queue=2)) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            first = await line.add("a")
            await line.add("b")
            assert (await ask(c)).code == "queue_full"
            first.cancel()
            await eventually(lambda: c.queen.gate.waiting(MODEL) == 1)
            await line.add("c")
        done = await asyncio.gather(*line.tasks, return_exceptions=True)
        assert [d.status for d in done if isinstance(d, Got)] == [200, 200]
        assert served(engine) == ["b", "c"]
        assert c.queen.registry.workers["w1"].in_flight == 0


async def test_all_leave_at_once_and_no_slot_is_lost(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            for number in range(20):
                await line.add(f"r{number}")
            for task in line.tasks:
                task.cancel()
        await eventually(lambda: c.queen.registry.workers["w1"].in_flight == 0)
        assert c.queen.gate.depths() == {}
        assert (await ask(c)).status == 200


async def test_new_limits_and_nobody_loses_his_place(tmp_path: Path) -> None:
    config = [limited(queue=5)]
    async with (
        queen_in(tmp_path, config[0], reread=lambda: config[0]) as c,
        workers(c, "w1", slots=1) as (engine,),
    ):
        line = Line(c)
        async with busy(c, engine):
            for name in ("a", "b", "c"):
                await line.add(name)
            config[0] = replace(config[0], limits=LimitsSpec(queue=1, queue_timeout=60.0))
            c.queen.reload()
            assert c.queen.gate.waiting(MODEL) == 3
            assert (await ask(c)).code == "queue_full"
        assert [got.status for got in await line.ends()] == [200] * 3
        assert served(engine) == ["a", "b", "c"]


async def test_a_shorter_timeout_is_for_those_too_that_wait_already(tmp_path: Path) -> None:
    config = [limited(queue_timeout=600.0)]
    async with (
        queen_in(tmp_path, config[0], reread=lambda: config[0]) as c,
        workers(c, "w1", slots=1) as (engine,),
    ):
        line = Line(c)
        async with busy(c, engine):
            waiting = await line.add("a")
            config[0] = limited(queue_timeout=0.1)
            c.queen.reload()
            assert (await waiting).code == "queue_timeout"


async def test_a_worker_that_comes_takes_those_that_wait(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            for name in ("a", "b", "c"):
                await line.add(name)
            async with workers(c, "w2", slots=2) as (second,):
                assert [got.status for got in await line.ends()] == [200] * 3
                assert served(second) == ["a", "b", "c"]
                assert served(engine) == []


async def test_load_of_others_that_falls_makes_room(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=2, slots_busy=2) as (engine,):
        line = Line(c)
        await line.add("a")
        await line.add("b")
        await c.heartbeat(beat("w1", engine.port, slots=2, slots_busy=1))
        assert [got.status for got in await line.ends()] == [200, 200]
        assert served(engine) == ["a", "b"]


async def test_what_a_worker_said_before_an_answer_ended_is_no_load_of_others(tmp_path: Path) -> None:
    """A heartbeat that was sent while it answered, and comes after: its slot is free all the same."""
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        assert (await ask(c)).status == 200
        await c.heartbeat(beat("w1", engine.port, slots=1, slots_busy=1))
        assert c.queen.registry.workers["w1"].foreign == 0
        assert (await ask(c)).status == 200


async def test_a_worker_dies_while_others_wait(tmp_path: Path) -> None:
    """What it was answering goes to the other worker, and so do those that waited."""
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with workers(c, "w2", slots=1) as (second,):
            holders = [asyncio.get_running_loop().create_task(ask(c, "holder", mock=HANG)) for _ in range(2)]
            await eventually(lambda: engine.requests == second.requests == 1)
            await line.add("a")
            await line.add("b")
            await engine.stop()  # its request is asked anew: it is the first of those that wait
            await eventually(lambda: c.queen.gate.waiting(MODEL) == 3)
            for holder in holders:
                holder.cancel()
            assert [got.status for got in await line.ends()] == [200, 200]
            assert served(second) == ["a", "b"]
            await asyncio.gather(*holders, return_exceptions=True)
        assert c.queen.gate.depths() == {}


async def test_the_last_worker_dies_and_comes_back_while_some_wait(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        engine.next.append(Script(hang=True))
        line.tasks.append(asyncio.get_running_loop().create_task(ask(c, "first")))
        await eventually(lambda: engine.requests == 1)
        await line.add("a")
        await line.add("b")
        await engine.stop()
        await eventually(lambda: c.queen.gate.waiting(MODEL) == 3)
        await engine.start()  # on its port
        await c.heartbeat(beat("w1", engine.port, slots=1, started_at="2026-01-02T00:00:00Z"))
        assert [got.status for got in await line.ends()] == [200] * 3


async def test_those_whose_last_worker_stays_away_are_told(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        holder = asyncio.get_running_loop().create_task(ask(c, "holder", mock=HANG))
        await eventually(lambda: engine.requests == 1)
        await line.add("a")
        await line.add("b", X_Request_Timeout="60")
        await engine.stop()
        await eventually(lambda: c.queen.gate.waiting(MODEL) == 3)
        c.queen.registry.workers["w1"].last_seen -= c.queen.registry.stale_after  # silent for long
        got = [await holder, *await line.ends()]
        assert [(g.status, g.code) for g in got] == [(503, "no_worker_ready")] * 3
        assert "w1" in got[1].body["error"]["message"]


async def test_a_worker_that_loads(tmp_path: Path) -> None:
    """Who has time waits for it, and is served when it is ready; who has none is told how far it is."""
    async with queen_in(tmp_path) as c, MockEngine() as engine:
        await c.heartbeat(beat("w1", engine.port, status="starting"))
        told = await ask(c)
        assert (told.status, told.code) == (503, "model_loading")
        assert told.body["loading"]["state"] == "starting"
        assert told.retry_after >= 1
        line = Line(c)
        await line.add("a", X_Request_Timeout="60")
        await c.heartbeat(beat("w1", engine.port))
        assert (await line.ends())[0].status == 200
        late = asyncio.get_running_loop().create_task(ask(c, X_Request_Timeout="60"))
        assert (await late).status == 200


async def test_cold_wait_is_for_those_without_a_deadline(tmp_path: Path) -> None:
    async with queen_in(tmp_path, limited(cold_wait=60.0)) as c, MockEngine() as engine:
        await c.heartbeat(beat("w1", engine.port, status="starting"))
        line = Line(c)
        await line.add("a")
        await c.heartbeat(beat("w1", engine.port))
        assert (await line.ends())[0].status == 200


async def test_cold_wait_ends(tmp_path: Path) -> None:
    async with queen_in(tmp_path, limited(cold_wait=0.1)) as c, MockEngine() as engine:
        await c.heartbeat(beat("w1", engine.port, status="starting"))
        assert (await ask(c)).code == "model_loading"
        late = await ask(c, X_Request_Timeout="0.1")
        assert (late.status, late.code) == (504, "deadline_exceeded")


async def test_an_alias_waits_once_and_its_second_model_is_for_when_the_first_has_nobody(tmp_path: Path) -> None:
    config = queen_config(models=(KnownModel(name=MODEL), KnownModel(name="small")), aliases={"any": (MODEL, "small")})
    async with (
        queen_in(tmp_path, config) as c,
        workers(c, "w1", slots=1) as (engine,),
        workers(c, "w2", model="small", slots=1) as (small,),
    ):
        line = Line(c)
        async with busy(c, engine), busy(c, small, model="small"):
            await line.add("a", model="any")
            assert c.queen.gate.depths() == {MODEL: 1, "small": 1}
            await c.heartbeat(beat("w1", engine.port, slots=1, status="stopping"))
        assert (await line.ends())[0].status == 200
        assert served(small) == ["a"]
        assert c.queen.gate.depths() == {}


async def test_those_that_cannot_use_a_slot_hold_up_nobody(tmp_path: Path) -> None:
    """Seventy that ask for another hive stand before one that does not."""
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,), MockEngine() as other:
        c.queen.registry.label({"h1": {"region": "us"}, "h2": {"region": "eu"}})
        await c.heartbeat(beat("w2", other.port, hive_id="h2", slots=1))
        line = Line(c)
        async with busy(c, other, X_Rbee_Require="region=eu"):
            async with busy(c, engine):
                for number in range(70):
                    task = asyncio.get_running_loop().create_task(ask(c, f"eu{number}", X_Rbee_Require="region=eu"))
                    line.tasks.append(task)
                await eventually(lambda: c.queen.gate.waiting(MODEL) == 70)
                last = await line.add("us")
            assert (await last).status == 200
            assert served(engine) == ["us"]
        assert {got.status for got in await line.ends()} == {200}


async def test_what_was_waited_is_known(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        seen: list[tuple[str, float, str]] = []
        c.queen.gate.waits = lambda model, seconds, ended: seen.append((model, seconds, ended))
        line = Line(c)
        async with busy(c, engine):
            gone = await line.add("a")
            gone.cancel()
            await eventually(lambda: seen)
            await ask(c, X_Request_Timeout="0.1")
            await line.add("b")
        await asyncio.gather(*line.tasks, return_exceptions=True)
        assert [(model, ended) for model, _, ended in seen] == [(MODEL, e) for e in ("left", "deadline", "entered")]
        assert all(seconds > 0 for _, seconds, _ in seen)


async def test_the_overhead_told_is_without_the_waiting(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        line = Line(c)
        async with busy(c, engine):
            await line.add("a")
            began = time.monotonic()
            await eventually(lambda: c.queen.gate.oldest(MODEL) > 0.3)
            waited = time.monotonic() - began
        got = (await line.ends())[0]
        assert float(got.headers["X-Rbee-Overhead-Ms"]) / 1e3 < waited


async def test_a_job_waits_as_others_do(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        async with busy(c, engine):
            job_id = await c.submit("Infer", model=MODEL, prompt="hi")
            await eventually(lambda: c.queen.gate.waiting(MODEL) == 1)
        await c.events(job_id)
        assert (await c.get(f"/v1/jobs/{job_id}"))["state"] == "completed"
        assert codec.plain(c.queen.gate.depths()) == {}


async def test_a_stream_holds_its_slot_to_its_end(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        engine.next = [Script(tokens=1000, interval=0.01)]
        line = Line(c)
        async with c.chat(stream=True, headers={"X-Request-Id": "holder"}) as answer:
            await answer.content.readany()
            await line.add("a")
            assert served(engine) == []
        assert (await line.ends())[0].status == 200
