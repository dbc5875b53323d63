# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas by load, on a real queen: more when requests wait, fewer when most slots are idle, none when nobody asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from rbee.contracts.configs import KnownWorker
from rbee.core.scaling import Limits
from rbee.core.spec import WorkerOptions
from rbee.daemons.queen.scaling.scaler import Pace, groups
from tests.integration.test_cold_start import ask, fleet
from tests.support.mock_engine import Script
from tests.support.queen import Client, queen_config
from tests.support.small_hive import SmallHive, known
from tests.support.waiting import eventually

#: Hours in moments.
FAST = Limits(up_after=0.2, up_soonest=0.05, down_after=0.5, cooldown=0.05, idle_after=1.0)
PACE = Pace(limits=FAST, every=0.05, min_stay=0.0)


def replicas(count: int, minimum: int = 1, **changes: object) -> list[KnownWorker]:
    return [known(f"chat-{i}", "llama", on_demand=i >= minimum, **changes) for i in range(count)]


def there(client: Client) -> list[str]:
    """Workers that requests go to."""
    registry = client.queen.registry
    return sorted(w.worker_id for w in registry.workers.values() if registry.why_not(w) is None)


async def looks(client: Client, count: int) -> None:
    """Until the scaler has looked so many times more."""
    seen: list[str] = []

    async def counted(name: str, seconds: float) -> bool:
        seen.append(name)
        return True

    client.queen.scaler.lease = counted
    await eventually(lambda: len(seen) > count)


class Load:
    """So many clients, each of which asks again as soon as it is answered."""

    def __init__(self, client: Client, clients: int) -> None:
        self.statuses: set[int] = set()
        self._going = True
        self._tasks = [asyncio.create_task(self._ask(client)) for _ in range(clients)]

    async def _ask(self, client: Client) -> None:
        while self._going:
            status, _ = await ask(client, "llama")
            self.statuses.add(status)

    async def end(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)


def slow(hive: SmallHive) -> None:
    """Every answer takes a moment, on all engines that there are and will be."""
    hive.script = Script(delay=0.1)


async def test_a_load_scales_from_one_to_three_and_its_end_back_to_one(tmp_path: Path) -> None:
    hive = SmallHive()
    slow(hive)
    async with fleet(tmp_path, hive, *replicas(4), pace=PACE) as client:
        assert (await ask(client, "llama"))[0] == 200
        first = there(client)
        assert len(first) == 1
        load = Load(client, 4)  # three replicas have six slots: two thirds of them are busy
        await eventually(lambda: len(there(client)) == 3)
        await load.end()
        assert load.statuses == {200}
        await eventually(lambda: len(there(client)) == 1)
        await eventually(lambda: client.queen.scaler.downs == 2)
        assert client.queen.scaler.ups == 2
        assert max(hive.started.values()) == 1
        assert sorted(hive.unloaded) == sorted(set(hive.spawned) - set(there(client)))
        # What was taken away comes back before anything new is begun.
        load = Load(client, 4)
        await eventually(lambda: len(there(client)) == 3)
        await load.end()
        assert sum(hive.started.values()) == 5
        assert len(hive.started) == 3


async def test_never_more_than_the_plan_has_placed_nor_fewer_than_its_minimum(tmp_path: Path) -> None:
    hive = SmallHive()
    slow(hive)
    async with fleet(tmp_path, hive, *replicas(2), pace=PACE) as client:
        load = Load(client, 30)
        await eventually(lambda: there(client) == ["chat-0", "chat-1"])
        await looks(client, 10)  # a third one would be begun by then
        assert sorted(set(hive.spawned)) == ["chat-0", "chat-1"]
        await load.end()
        await eventually(lambda: there(client) == ["chat-0"])
        await looks(client, 30)  # and the last one ended
        assert there(client) == ["chat-0"]


async def test_a_replica_that_answers_somebody_is_drained_before_it_goes(tmp_path: Path) -> None:
    """Both answer somebody when there is one too many: it gets no more requests, and goes when it has none."""
    hive = SmallHive()
    slow(hive)
    stay = replace(PACE, limits=replace(FAST, down_after=1e9))
    both = replicas(2, minimum=0, options=WorkerOptions(parallel=8))
    async with fleet(tmp_path, hive, *both, pace=stay) as client:
        load = Load(client, 7)
        await eventually(lambda: len(there(client)) == 2)
        await load.end()
        for engine in hive.engines.values():
            engine.script = Script(hang=True)
        talks = [[{"role": "user", "content": words}] for words in ("one", "another")]  # else both go where one went
        held = [asyncio.create_task(ask(client, "llama", messages=talk)) for talk in talks]
        workers = client.queen.registry.workers.values()
        await eventually(lambda: [w.in_flight for w in workers] == [1, 1])
        for engine in hive.engines.values():
            engine.script = None
        client.queen.scaler._pace = PACE
        going = await eventually(lambda: next((w for w in workers if w.held), None))
        assert (going.unreachable, going.busy) == ("scaling down", 1)
        before = hive.engines[going.worker_id].requests
        assert {(await ask(client, "llama"))[0] for _ in range(3)} == {200}
        assert hive.engines[going.worker_id].requests == before
        assert hive.unloaded == []
        for task in held:
            task.cancel()
        await eventually(lambda: client.queen.scaler.downs == 1)
        assert hive.unloaded == [going.worker_id]
        await asyncio.gather(*held, return_exceptions=True)


async def test_the_last_replica_of_a_worker_that_may_have_none_goes_when_nobody_asks(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, *replicas(2, minimum=0), pace=PACE) as client:
        assert (await ask(client, "llama"))[0] == 200
        await eventually(lambda: len(hive.unloaded) == 1)  # held first, then unloaded
        assert there(client) == []
        assert (await ask(client, "llama"))[0] == 200
        assert set(hive.spawned) == set(hive.unloaded)


async def test_its_own_idle_timeout_is_its_hives_matter(tmp_path: Path) -> None:
    hive = SmallHive()
    async with fleet(tmp_path, hive, *replicas(1, minimum=0, idle_timeout=600.0), pace=PACE) as client:
        assert (await ask(client, "llama"))[0] == 200
        await looks(client, 30)  # longer than the scaler's own patience
        assert hive.unloaded == []
        assert hive.asked[0].idle_timeout == 600.0  # type: ignore[union-attr]


async def test_no_room_for_one_more_is_no_reason_to_end_others(tmp_path: Path) -> None:
    hive = SmallHive(memory_mb=250)
    slow(hive)
    async with fleet(tmp_path, hive, *replicas(3), known("other-0", "other"), pace=PACE) as client:
        assert (await ask(client, "other"))[0] == 200
        load = Load(client, 8)
        await eventually(lambda: any(client.queen.starter.tight.why(f"chat-{i}") for i in range(3)))

        async def told() -> bool:
            planned = (await client.run("Status"))["result"]["planned"]
            return any(w["state"] == "on_demand" and w.get("trouble") for w in planned)

        await eventually(told)
        await load.end()
        assert load.statuses == {200}
        assert "other-0" not in hive.unloaded


async def test_a_queen_without_the_lease_scales_nothing(tmp_path: Path) -> None:
    hive = SmallHive()
    slow(hive)
    asked: list[str] = []

    async def nobodys(name: str, seconds: float) -> bool:
        asked.append(name)
        return False

    async with fleet(tmp_path, hive, *replicas(3), pace=PACE) as client:
        client.queen.scaler.lease = nobodys
        load = Load(client, 20)
        await eventually(lambda: len(asked) > 20)
        await load.end()
        assert load.statuses == {200}
        assert set(hive.spawned) == {hive.spawned[0]}
        assert set(asked) == {"scaler"}


async def test_settings_read_again_while_it_scales(tmp_path: Path) -> None:
    hive = SmallHive()
    slow(hive)
    async with fleet(tmp_path, hive, *replicas(2), pace=PACE) as client:
        load = Load(client, 20)
        await eventually(lambda: len(there(client)) == 2)
        more = queen_config(workers=tuple(replicas(3)), hives=client.queen.config.hives)
        for part in (client.queen.starter, client.queen.scaler):
            part.configure(more)
        await eventually(lambda: len(there(client)) == 3)
        await load.end()
        assert load.statuses == {200}


def test_groups_are_those_that_may_have_more_than_they_always_have() -> None:
    fixed = [known("fixed-0", "a", on_demand=False), known("fixed-1", "a", on_demand=False)]
    found = groups([*replicas(3), *fixed])
    assert [(g.name, g.model, g.min, len(g.workers), g.each) for g in found] == [("chat", "llama", 1, 3, 2)]
