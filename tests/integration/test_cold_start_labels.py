# SPDX-License-Identifier: GPL-3.0-or-later
"""A model is started where those who ask for it may have it: on a hive with the labels that they require."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rbee.contracts.configs import KnownHive, KnownModel, KnownWorker
from tests.integration.test_cold_start import QUICK, WITHIN, ask
from tests.support.queen import MODEL, Client, queen_config, queen_in
from tests.support.small_hive import SmallHive, known
from tests.support.waiting import eventually

IN_EU = {**WITHIN, "X-Rbee-Require": "region=eu"}


@dataclass
class Two:
    """Two hives, each with labels of its own, and a client of their queen."""

    eu: SmallHive
    us: SmallHive
    client: Client


@asynccontextmanager
async def two_hives(root: Path, *workers: KnownWorker) -> AsyncIterator[Two]:
    eu, us = SmallHive(hive_id="eu"), SmallHive(hive_id="us")

    def labelled(hive: SmallHive) -> KnownHive:
        return dataclasses.replace(hive.fake.known, labels={"region": hive.hive_id})

    async with eu.run(root), us.run(root):
        config = queen_config(
            models=tuple(KnownModel(name=m) for m in dict.fromkeys(w.model for w in workers)),
            workers=workers,
            hives=(labelled(eu), labelled(us)),
            aliases={},
        )
        async with queen_in(root, config, scaling=QUICK) as client:
            await eventually(lambda: all(h.capabilities for h in client.queen.hives.by_id.values()))
            yield Two(eu, us, client)


BOTH = (known("a-us", MODEL, hive_id="us"), known("b-eu", MODEL, hive_id="eu"))


async def test_it_is_started_where_the_request_may_go(tmp_path: Path) -> None:
    async with two_hives(tmp_path, *BOTH) as two:
        assert (await ask(two.client, MODEL, headers=IN_EU))[0] == 200
        assert (two.eu.spawned, two.us.spawned) == (["b-eu"], [])
        assert (await ask(two.client, MODEL))[0] == 200  # who requires nothing is content with it
        assert two.us.spawned == []


async def test_a_live_worker_that_is_not_allowed_does_not_count(tmp_path: Path) -> None:
    async with two_hives(tmp_path, *BOTH) as two:
        assert (await ask(two.client, MODEL))[0] == 200
        assert (two.eu.spawned, two.us.spawned) == ([], ["a-us"])
        assert (await ask(two.client, MODEL, headers=IN_EU))[0] == 200
        assert (two.eu.spawned, two.us.spawned) == (["b-eu"], ["a-us"])
        assert (await ask(two.client, MODEL, headers=IN_EU))[0] == 200
        assert two.eu.started == {"b-eu": 1}


async def test_nor_does_one_that_is_coming(tmp_path: Path) -> None:
    """Both are started, each once; those who may have either wait for the first."""
    async with two_hives(tmp_path, *BOTH) as two:
        two.eu.gate.clear()
        two.us.gate.clear()
        anywhere = [asyncio.create_task(ask(two.client, MODEL)) for _ in range(3)]
        await eventually(lambda: "a-us" in two.us.loading)
        in_eu = [asyncio.create_task(ask(two.client, MODEL, headers=IN_EU)) for _ in range(3)]
        await eventually(lambda: "b-eu" in two.eu.loading)
        two.us.gate.set()
        assert {status for status, _ in await asyncio.gather(*anywhere)} == {200}
        assert not any(task.done() for task in in_eu)
        two.eu.gate.set()
        assert {status for status, _ in await asyncio.gather(*in_eu)} == {200}
        assert (two.eu.spawned, two.us.spawned) == (["b-eu"], ["a-us"])


async def test_who_may_have_any_waits_for_the_one_that_others_have_begun(tmp_path: Path) -> None:
    async with two_hives(tmp_path, *BOTH) as two:
        two.eu.gate.clear()
        in_eu = asyncio.create_task(ask(two.client, MODEL, headers=IN_EU))
        await eventually(lambda: "b-eu" in two.eu.loading)
        anywhere = asyncio.create_task(ask(two.client, MODEL))
        await eventually(lambda: two.client.queen.gate.waiting(MODEL) == 2)
        two.eu.gate.set()
        assert [(await task)[0] for task in (in_eu, anywhere)] == [200, 200]
        assert (two.eu.spawned, two.us.spawned) == (["b-eu"], [])


async def test_but_not_for_one_that_has_no_room(tmp_path: Path) -> None:
    """What they require who began it is nothing to those that may go elsewhere."""
    async with two_hives(tmp_path, known("c-eu", MODEL, hive_id="eu"), BOTH[0]) as two:
        two.eu.sizes[MODEL] = two.eu.memory_mb + 1.0
        two.eu.breaks["c-eu"] = "never"
        status, body = await ask(two.client, MODEL, headers=IN_EU)
        assert status == 503
        assert "Not enough memory" in body["error"]["message"]
        assert (await ask(two.client, MODEL))[0] == 200
        assert two.us.spawned == ["a-us"]


async def test_nor_for_one_that_waits_for_room(tmp_path: Path) -> None:
    async with two_hives(tmp_path, *BOTH, known("o-eu", "other", hive_id="eu")) as two:
        two.eu.memory_mb = 150.0
        holder = asyncio.create_task(ask(two.client, "other", mock={"hang": True}))
        await eventually(lambda: "o-eu" in two.eu.engines and two.eu.engines["o-eu"].requests)
        in_eu = asyncio.create_task(ask(two.client, MODEL, headers=IN_EU))
        required = (("region", "eu"),)

        def queued() -> bool:
            found = two.client.queen.starter.loading((MODEL,), required)
            return found is not None and found.state == "queued"

        await eventually(queued)
        assert (await ask(two.client, MODEL))[0] == 200
        assert two.us.spawned == ["a-us"]
        assert not in_eu.done()
        holder.cancel()
        assert (await in_eu)[0] == 200
        assert two.eu.unloaded == ["o-eu"]
        assert two.eu.started == {"o-eu": 1, "b-eu": 1}


async def test_nothing_is_started_where_nobody_who_asks_may_go(tmp_path: Path) -> None:
    async with two_hives(tmp_path, BOTH[0]) as two:
        status, body = await ask(two.client, MODEL, headers=IN_EU)
        assert (status, body["error"]["code"]) == (503, "no_worker_ready")
        assert "a-us: region=eu is required, its hive has region=us" in body["error"]["message"]
        assert two.us.spawned == []
        assert two.client.queen.starter.launcher is not None
        assert two.client.queen.starter.launcher.starts == 0
