# SPDX-License-Identifier: GPL-3.0-or-later
"""Models that nobody runs: started once for all that wait, with room made for them, and told of while they load."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rbee.contracts.configs import KnownModel, KnownWorker
from rbee.core.scaling import Limits
from rbee.daemons.queen.scaling.scaler import Pace
from tests.support.mock_engine import Script
from tests.support.queen import Client, queen_config, queen_in
from tests.support.small_hive import SmallHive, known
from tests.support.waiting import eventually

#: Nobody is kept for being new, and looks come fast.
QUICK = Pace(limits=Limits(), every=0.05, min_stay=0.0)
ANY = {"any": ("first", "second")}
WITHIN = {"X-Request-Timeout": "20"}


@asynccontextmanager
async def fleet(
    root: Path, hive: SmallHive, *workers: KnownWorker, pace: Pace = QUICK, **changes: Any
) -> AsyncIterator[Client]:
    """A queen that knows the hive, and these workers as the plan has placed them."""
    models = tuple(KnownModel(name=m) for m in dict.fromkeys(w.model for w in workers))
    async with hive.run(root):
        config = queen_config(models=models, aliases={}, workers=workers, hives=(hive.fake.known,))
        async with queen_in(root, dataclasses.replace(config, **changes), scaling=pace) as client:
            await eventually(lambda: client.queen.hives.by_id["h1"].capabilities)
            yield client


async def ask(client: Client, model: str, headers: Any = WITHIN, **fields: Any) -> tuple[int, Any]:
    async with client.chat(model, headers=headers, **fields) as answer:
        return answer.status, await answer.json()


async def test_fifty_requests_for_a_cold_model_start_it_once_and_are_all_answered(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, known("a-0", "llama"), known("a-1", "llama")) as client:
        hive.gate.clear()
        asking = [asyncio.create_task(ask(client, "llama")) for _ in range(50)]
        await eventually(lambda: "a-0" in hive.loading)
        found = client.queen.starter.loading(("llama",))
        assert found is not None and found.state == "starting"
        hive.gate.set()
        assert {status for status, _ in await asyncio.gather(*asking)} == {200}
        assert hive.spawned == ["a-0"]
        assert hive.started == {"a-0": 1}
        assert client.queen.starter.launcher is not None
        assert client.queen.starter.launcher.starts == 1

        async def done() -> bool:
            """A worker serves a moment before the job that started it has ended."""
            jobs = (await client.get("/v1/jobs"))["jobs"]
            assert [j["operation"] for j in jobs] == ["WorkerSpawn"]
            return bool(jobs[0]["state"] == "completed")

        await eventually(done)


async def test_a_request_without_a_deadline_is_told_how_far_the_model_is(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, known("a-0", "llama")) as client:
        hive.gate.clear()
        async with client.chat("llama") as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
            body = await answer.json()
        assert body["error"]["code"] == "model_loading"
        assert body["loading"]["state"] == "starting"
        await eventually(lambda: "a-0" in client.queen.registry.workers)
        status, body = await ask(client, "llama", headers=None)
        assert (status, body["loading"]["progress"]) == (503, 0.25)
        assert hive.spawned == ["a-0"]
        hive.gate.set()
        assert (await ask(client, "llama"))[0] == 200
        assert hive.spawned == ["a-0"]


async def test_an_infer_waits_for_a_cold_model_and_says_so(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, known("a-0", "llama")) as client:
        job = await client.run("Infer", model="llama", prompt="x", timeout=20)
        assert (job["state"], job["result"]["worker_id"]) == ("completed", "a-0")
        assert "Waiting for a worker of llama." in await client.events(job["job_id"])


async def test_a_measured_load_tells_the_next_one_how_long_it_takes(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, known("a-0", "llama")) as client:
        assert (await ask(client, "llama"))[0] == 200
        launcher = client.queen.starter.launcher
        assert launcher is not None
        expected = await eventually(lambda: launcher.expected("llama", "h1"))
        await hive.idle("a-0")
        await eventually(lambda: _status(client, "a-0") == "unloaded")
        hive.gate.clear()
        status, body = await ask(client, "llama", headers=None)
        assert (status, body["loading"]["state"]) == (503, "starting")
        assert 0 <= body["loading"]["eta_seconds"] <= round(expected, 1)


async def test_cancelled_requests_leave_the_start_going_on(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, known("a-0", "llama")) as client:
        hive.gate.clear()
        asking = asyncio.create_task(ask(client, "llama"))
        await eventually(lambda: "a-0" in hive.loading)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        hive.gate.set()
        await eventually(lambda: hive.started["a-0"])
        assert (await ask(client, "llama"))[0] == 200
        assert hive.spawned == ["a-0"]


async def test_an_unloaded_worker_comes_back_before_another_is_begun(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(
        tmp_path, hive, known("a-0", "llama", on_demand=False), known("a-1", "llama"), known("a-2", "llama")
    ) as client:
        assert (await ask(client, "llama"))[0] == 200
        assert hive.spawned == ["a-1"]  # the plan's own missing one is apply's first of all
        await hive.idle("a-1")
        await eventually(lambda: _status(client, "a-1") == "unloaded")
        assert (await ask(client, "llama"))[0] == 200
        assert hive.spawned == ["a-1", "a-1"]


async def test_an_unloaded_worker_that_no_plan_names_comes_back_as_it_was(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, known("a-0", "other")) as client:
        job = await client.run("WorkerSpawn", hive_id="h1", model="mine", worker_id="by-hand", idle_timeout=1.0)
        assert job["state"] == "completed"
        assert (await ask(client, "mine"))[0] == 200
        await hive.idle("by-hand")
        await eventually(lambda: _status(client, "by-hand") == "unloaded")
        assert client.queen.starter.cold("mine")
        assert (await ask(client, "mine"))[0] == 200
        again = hive.asked[-1]
        assert (again.worker_id, again.model, again.idle_timeout) == ("by-hand", "mine", None)  # type: ignore[union-attr]


async def test_several_models_are_started_side_by_side(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, *(known(f"{m}-0", m) for m in "abcd")) as client:
        hive.gate.clear()
        asking = [asyncio.create_task(ask(client, m)) for m in "abcd" for _ in range(3)]
        await eventually(lambda: len(hive.loading) == 4)
        hive.gate.set()
        assert {status for status, _ in await asyncio.gather(*asking)} == {200}
        assert sorted(hive.spawned) == ["a-0", "b-0", "c-0", "d-0"]


async def test_the_next_of_an_alias_is_started_when_the_first_cannot_be(tmp_path: Path) -> None:
    hive = SmallHive(breaks={"a-0": "no such file"})
    async with fleet(tmp_path, hive, known("a-0", "first"), known("b-0", "second"), aliases=ANY) as client:
        status, _ = await ask(client, "any")
        if status != 200:  # told of the first one's end
            status, _ = await ask(client, "any")
        assert status == 200
        assert hive.spawned == ["a-0", "b-0"]


# What goes wrong.


async def test_a_start_that_fails_is_told_and_not_tried_again_at_once(tmp_path: Path) -> None:
    hive = SmallHive(breaks={"a-0": "its engine ended: no kernel image"})
    async with fleet(tmp_path, hive, known("a-0", "llama")) as client:
        asking = [asyncio.create_task(ask(client, "llama")) for _ in range(5)]
        for status, body in await asyncio.gather(*asking):
            assert status == 503
            assert "no kernel image" in body["error"]["message"]
        assert hive.spawned == ["a-0"]
        status, body = await ask(client, "llama", headers=None)
        assert (status, body["error"]["code"]) == (503, "no_worker_ready")
        assert "no kernel image" in body["error"]["message"]
        assert hive.spawned == ["a-0"]
        assert client.queen.starter.launcher is not None
        assert client.queen.starter.launcher.failures == 1
        assert "no kernel image" in (await client.get("/v1/models"))["data"][0]["rbee"]["error"]
        del hive.breaks["a-0"]
        # Changed settings may have mended it: nobody waits for the pause.
        mended = known("a-0", "llama", idle_timeout=5.0)
        client.queen.starter.configure(queen_config(workers=(mended,)))
        assert (await ask(client, "llama"))[0] == 200
        assert "error" not in (await client.get("/v1/models"))["data"][0]["rbee"]


async def test_status_tells_of_workers_that_never_ran_and_why_one_could_not_be_started(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=1000.0, sizes={"large": 5000.0})
    plan = (
        known("a-0", "llama"),
        known("b-0", "large"),
        known("c-0", "other", on_demand=False, worker_type="cuda", device=1),
    )
    async with fleet(tmp_path, hive, *plan) as client:

        async def states() -> dict[str, Any]:
            found = (await client.run("Status"))["result"]
            return {w["worker_id"]: w for w in found["planned"]}

        found = await states()
        assert {k: (w["state"], w.get("trouble")) for k, w in found.items()} == {
            "a-0": ("on_demand", None),
            "b-0": ("on_demand", None),
            "c-0": ("missing", None),
        }
        assert (found["a-0"]["device"], found["c-0"]["device"]) == ("cpu", "cuda:1")
        assert (found["a-0"]["model"], found["a-0"]["hive_id"], found["a-0"]["engine"]) == ("llama", "h1", "mock")

        assert (await ask(client, "large"))[0] == 503
        found = await states()
        assert found["b-0"]["state"] == "failed"
        trouble = found["b-0"]["trouble"]
        assert trouble["why"].startswith("Not enough memory for 'large'") and trouble["times"] == 1
        assert 0 < trouble["retry_seconds"] <= 2.0

        hive.gate.clear()
        asking = asyncio.create_task(ask(client, "llama"))
        await eventually(lambda: "a-0" in client.queen.registry.workers)
        assert set(await states()) == {"b-0", "c-0"}, "it tells of itself now"
        hive.gate.set()
        assert (await asking)[0] == 200


async def test_status_tells_why_a_worker_that_ran_could_not_be_started_again(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, known("a-0", "llama")) as client:
        assert (await ask(client, "llama"))[0] == 200
        await hive.idle("a-0")
        await eventually(lambda: _status(client, "a-0") == "unloaded")
        hive.sizes["llama"] = 5000.0
        assert (await ask(client, "llama"))[0] == 503
        found = (await client.run("Status"))["result"]
        (worker,) = found["workers"]
        assert worker["worker"]["status"] == "unloaded" and found.get("planned", []) == []
        assert "Not enough memory" in worker["trouble"]["why"] and worker["trouble"]["retry_seconds"] > 0
        hive.sizes.clear()
        client.queen.starter.configure(queen_config(workers=(known("a-0", "llama", idle_timeout=5.0),)))
        assert (await ask(client, "llama"))[0] == 200
        (worker,) = (await client.run("Status"))["result"]["workers"]
        assert worker["routable"] and worker.get("trouble") is None


async def test_another_worker_is_tried_when_the_first_fails(tmp_path: Path) -> None:
    hive = SmallHive(breaks={"a-0": "broken"})
    async with fleet(tmp_path, hive, known("a-0", "llama"), known("a-1", "llama")) as client:
        assert (await ask(client, "llama"))[0] == 200
        assert hive.spawned == ["a-0", "a-1"]


async def test_a_hive_that_does_not_answer_is_named(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, known("a-0", "llama", hive_id="gone")) as client:
        status, body = await ask(client, "llama")
        assert status == 503
        assert "its hive gone is not of this fleet" in body["error"]["message"]
        assert hive.spawned == []


async def test_a_worker_that_somebody_else_starts_is_waited_for(tmp_path: Path) -> None:
    hive = SmallHive()
    unmarked = known("a-0", "llama", mark=None)
    async with fleet(tmp_path, hive, unmarked) as client:
        hive.gate.clear()
        job_id = await client.submit("WorkerSpawn", hive_id="h1", model="llama", worker_id="a-0")
        await eventually(lambda: "a-0" in hive.loading)
        asking = [asyncio.create_task(ask(client, "llama")) for _ in range(5)]
        status, body = await ask(client, "llama", headers=None)
        assert (status, body["loading"]["state"]) == (503, "starting")
        hive.gate.set()
        assert {status for status, _ in await asyncio.gather(*asking)} == {200}
        await client.events(job_id)
        assert hive.spawned == ["a-0"]


async def test_two_queens_start_a_worker_once(tmp_path: Path) -> None:
    hive = SmallHive()
    worker = known("a-0", "llama")
    async with fleet(tmp_path, hive, worker) as one:
        config = queen_config(models=(KnownModel(name="llama"),), workers=(worker,), hives=(hive.fake.known,))
        async with queen_in(tmp_path / "two", config, scaling=QUICK) as two:
            await eventually(lambda: len(hive.fake.asked) == 2)
            hive.gate.clear()
            asking = [asyncio.create_task(ask(q, "llama")) for q in (one, two, one, two)]
            await eventually(lambda: len(hive.spawned) == 2)
            hive.gate.set()
            # A worker tells one queen; the other one asks its hive, which says where it is.
            assert {status for status, _ in await asyncio.gather(*asking)} == {200}
            assert hive.started == {"a-0": 1}


async def test_settings_that_are_read_again_leave_a_start_alone(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, known("a-0", "llama")) as client:
        hive.gate.clear()
        asking = asyncio.create_task(ask(client, "llama"))
        await eventually(lambda: "a-0" in hive.loading)
        for part in (client.queen.starter, client.queen.scaler):
            part.configure(client.queen.config)
        assert (await ask(client, "llama", headers=None))[0] == 503
        hive.gate.set()
        assert (await asking)[0] == 200
        assert hive.spawned == ["a-0"]


async def test_a_queen_that_ends_leaves_the_start_to_the_hive_and_the_next_one_starts_nothing_twice(
    tmp_path: Path,
) -> None:
    hive = SmallHive()
    worker = known("a-0", "llama")
    config = queen_config(models=(KnownModel(name="llama"),), workers=(worker,))
    async with hive.run(tmp_path):
        config = queen_config(models=(KnownModel(name="llama"),), workers=(worker,), hives=(hive.fake.known,))
        async with queen_in(tmp_path, config, scaling=QUICK) as client:
            await eventually(lambda: client.queen.hives.by_id["h1"].capabilities)
            hive.gate.clear()
            assert (await ask(client, "llama", headers=None))[0] == 503
            await eventually(lambda: "a-0" in hive.loading)
        jobs = [j async for j in _jobs(hive)]
        assert [j["state"] for j in jobs] == ["running"]
        async with queen_in(tmp_path, config, scaling=QUICK) as client:
            asking = [asyncio.create_task(ask(client, "llama")) for _ in range(3)]
            await eventually(lambda: "a-0" in client.queen.registry.workers)
            await hive.says("a-0", "starting")
            hive.gate.set()
            assert {status for status, _ in await asyncio.gather(*asking)} == {200}
        assert hive.started == {"a-0": 1}
        assert hive.spawned == ["a-0"]


async def _jobs(hive: SmallHive) -> AsyncIterator[Any]:
    async with hive._http.get(f"{hive.fake.known.url}/v1/jobs") as answer:
        for job in (await answer.json())["jobs"]:
            yield job


async def test_a_hive_that_goes_away_during_the_start(tmp_path: Path) -> None:
    first, second = SmallHive(), SmallHive(hive_id="h2")
    workers = (known("a-0", "llama"), known("a-1", "llama", hive_id="h2"))
    async with second.run(tmp_path), first.run(tmp_path):
        hives = (first.fake.known, second.fake.known)
        config = queen_config(models=(KnownModel(name="llama"),), workers=workers, hives=hives)
        async with queen_in(tmp_path, config, scaling=QUICK, hive_interval=0.1) as client:
            await eventually(lambda: all(h.capabilities for h in client.queen.hives.by_id.values()))
            await first.fake.runner.stop()  # it answers no more; it is still said to be online
            assert (await ask(client, "llama"))[0] == 200
            assert second.started == {"a-1": 1}


# Room.


async def test_the_least_recently_used_idle_worker_makes_room(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=300, sizes={"a": 100, "b": 100, "c": 100, "d": 90})
    async with fleet(tmp_path, hive, *(known(f"{m}-0", m) for m in "abcd")) as client:
        for model in "abca":
            assert (await ask(client, model))[0] == 200
        assert (await ask(client, "d"))[0] == 200
        assert hive.unloaded == ["b-0"]
        assert hive.spawned == ["a-0", "b-0", "c-0", "d-0", "d-0"]
        assert client.queen.starter.rooms is not None
        assert client.queen.starter.rooms.evictions == 1
        assert (await ask(client, "b"))[0] == 200  # and it comes back, for the next least used
        assert hive.unloaded == ["b-0", "c-0"]


async def test_as_many_as_are_needed_make_room_and_no_more(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=300, sizes={"a": 100, "b": 100, "c": 100, "big": 200})
    async with fleet(tmp_path, hive, *(known(f"{m}-0", m) for m in ("a", "b", "c", "big"))) as client:
        for model in "abc":
            assert (await ask(client, model))[0] == 200
        assert (await ask(client, "big"))[0] == 200
        assert hive.unloaded == ["a-0", "b-0"]


async def test_a_busy_worker_is_never_ended_and_the_model_waits_for_it(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=100, sizes={"a": 100, "b": 100})
    async with fleet(tmp_path, hive, known("a-0", "a"), known("b-0", "b")) as client:
        assert (await ask(client, "a"))[0] == 200
        hive.engines["a-0"].next.append(Script(delay=4.0))
        slow = asyncio.create_task(ask(client, "a"))
        await eventually(lambda: client.queen.registry.workers["a-0"].in_flight == 1)
        waiting = asyncio.create_task(ask(client, "b"))
        assert (await ask(client, "b", headers=None))[0] == 503
        await eventually(lambda: _state(client, "b") == "queued")
        assert hive.unloaded == []
        assert (await slow)[0] == 200
        assert (await waiting)[0] == 200
        assert hive.unloaded == ["a-0"]


def _status(client: Client, worker_id: str) -> str:
    worker = client.queen.registry.workers.get(worker_id)
    return worker.status if worker is not None else "unknown"


def _state(client: Client, model: str) -> str | None:
    found = client.queen.starter.loading((model,))
    return found.state if found is not None else None


async def test_a_worker_that_its_hive_finds_busy_stays_and_is_routed_to_again(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=100, sizes={"a": 100, "b": 100}, busy={"a-0"})
    async with fleet(tmp_path, hive, known("a-0", "a"), known("b-0", "b")) as client:
        assert (await ask(client, "a"))[0] == 200
        waiting = asyncio.create_task(ask(client, "b"))
        await eventually(lambda: hive.unloaded)
        await eventually(lambda: not client.queen.registry.workers["a-0"].held)
        assert (await ask(client, "a"))[0] == 200
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_pinned_workers_stay_and_are_named(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=200, sizes={"a": 100, "hand": 100, "b": 150})
    always = known("a-0", "a", on_demand=False)
    async with fleet(tmp_path, hive, always, known("b-0", "b")) as client:
        assert (await ask(client, "a"))[0] == 200
        await client.run("WorkerSpawn", hive_id="h1", model="hand", worker_id="by-hand")
        status, body = await ask(client, "b")
        assert status == 503
        assert "a-0 (a, 100 MB, always kept)" in body["error"]["message"]
        assert "by-hand (hand, 100 MB, always kept)" in body["error"]["message"]
        assert hive.unloaded == []


async def test_a_worker_that_has_just_come_stays_for_a_while(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=100, sizes={"a": 100, "b": 100})
    pace = Pace(every=0.05, min_stay=3.0)
    async with fleet(tmp_path, hive, known("a-0", "a"), known("b-0", "b"), pace=pace) as client:
        assert (await ask(client, "a"))[0] == 200
        turn = asyncio.create_task(ask(client, "b"))
        await eventually(lambda: _state(client, "b") == "queued")
        assert hive.unloaded == []
        assert (await turn)[0] == 200
        assert hive.unloaded == ["a-0"]


async def test_room_that_comes_by_itself_is_taken(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=200, sizes={"a": 100, "pinned": 100, "b": 100})
    workers = (known("a-0", "a"), known("pinned-0", "pinned", on_demand=False), known("b-0", "b"))
    async with fleet(tmp_path, hive, *workers, pace=Pace(every=0.05, min_stay=3600.0)) as client:
        for model in ("a", "pinned"):
            assert (await ask(client, model))[0] == 200
        waiting = asyncio.create_task(ask(client, "b"))
        await eventually(lambda: _state(client, "b") == "queued")
        await hive.idle("a-0")  # the last that could have gone: now only the pinned one is left
        status, body = await waiting
        assert (status, body.get("error")) == (200, None)
        assert hive.unloaded == []


async def test_another_queen_that_makes_room_there_is_waited_for(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=100, sizes={"a": 100, "b": 100})
    mine = False
    names: list[str] = []

    async def lease(name: str, seconds: float) -> bool:
        names.append(name)
        return mine

    async with fleet(tmp_path, hive, known("a-0", "a"), known("b-0", "b")) as client:
        client.queen.starter.connect(client.queen.jobs.run, client.queen.gate.waiting, lease)
        assert (await ask(client, "a"))[0] == 200
        waiting = asyncio.create_task(ask(client, "b"))
        await eventually(lambda: "room/h1" in names)
        assert hive.unloaded == []
        mine = True
        assert (await waiting)[0] == 200
        assert hive.unloaded == ["a-0"]
