# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything at once, by chance: clients that leave and crawl, workers that die, hang and come back as others, reloads
that change limits, keys, aliases, policies and hives, jobs that are cancelled. Every answer is compared, and after it
nothing may be left behind: no slot, no place in a queue, no task, no error that nobody heard."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rbee.contracts.configs import KnownHive, KnownModel, QueenConfig
from rbee.core.spec import PolicySpec
from rbee.core.spec_queen import KeySpec, LimitsSpec
from rbee.daemons.queen.known.worker import Worker
from tests.support.chaos_clients import Ask, client
from tests.support.mock_engine import MockEngine
from tests.support.queen import Client, FakeHive, beat, queen_config, queen_in, record
from tests.support.waiting import eventually

MODELS = ("alpha", "beta", "gamma")
NAMES = (*MODELS, *MODELS, "first", "any", "nothing")
KEYS = {name: f"the-key-of-{name}-0123456789" for name in ("ann", "ben", "cat")}
#: A client waits longer only when it was forgotten.
FORGOTTEN = 60.0


class Fleet:
    """A queen, two hives and six workers, and what befalls them. `met`: every worker that she has known."""

    def __init__(self, seed: int, root: Path) -> None:
        self.rng = random.Random(seed)
        self.root = root
        self.over = False
        self.met: set[Worker] = set()
        for name, key in KEYS.items():
            (root / name).write_text(key)
            (root / name).chmod(0o600)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Client]:
        async with contextlib.AsyncExitStack() as stack:
            self.hives = [await stack.enter_async_context(FakeHive(hive_id=h).run(self.root)) for h in ("h1", "h2")]
            engines = [await stack.enter_async_context(MockEngine(record=False)) for _ in range(6)]
            self.workers: list[dict[str, Any]] = []
            for number, engine in enumerate(engines):
                model, slots = MODELS[number % 3], self.rng.randint(1, 4)
                self.hives[number % 2].records.append(record(f"w{number}", engine.port, model=model, slots=slots))
                self.workers.append(
                    {"port": engine.port, "hive_id": f"h{1 + number % 2}", "model": model, "slots": slots}
                )
            self.now = self.config()
            queen = queen_in(self.root, self.now, reread=lambda: self.now, hive_interval=0.5)
            self.client = await stack.enter_async_context(queen)
            for number in range(6):
                await self.beat(number, "ready")
            yield self.client

    def config(self) -> QueenConfig:
        """Another one each time."""
        rng = self.rng
        kinds: list[dict[str, Any]] = [{}, {"concurrent": 3}, {"requests_per_minute": 60}, {"priority": "batch"}]
        keys = {
            n: KeySpec(name=n, key_file=str(self.root / n), **rng.choice(kinds)) for n in KEYS if rng.random() < 0.9
        }
        policies = {
            "broken": PolicySpec(filter="worker.labels.missing == 'x'"),
            "first": PolicySpec(score="worker.id == 'w1' ? 3.0 : 0.0"),
            "no": PolicySpec(reject="request.priority == 'batch'", reason="Not now."),
            "not3": PolicySpec(models=("beta",), filter="worker.id != 'w3'"),
        }
        limits = LimitsSpec(
            queue=rng.choice((0, 2, 5, 200)),
            queue_timeout=rng.choice((0.3, 2.0)),
            cold_wait=rng.choice((0.0, 0.5)),
            first_byte_timeout=0.7,
            concurrent=rng.choice((None, 8)),
        )
        return queen_config(
            models=tuple(KnownModel(name=m) for m in MODELS),
            aliases={"first": tuple(rng.sample(MODELS, 2)), "any": tuple(rng.sample(MODELS, 3))},
            keys=keys,
            policies={name: policy for name, policy in policies.items() if rng.random() < 0.4},
            limits=limits,
            hives=tuple(
                KnownHive(hive_id=h.hive_id, url=h.known.url)
                for h in self.hives
                if h.hive_id == "h1" or rng.random() < 0.8
            ),
        )

    async def beat(self, number: int, status: str) -> None:
        worker = self.workers[number]
        busy = self.rng.choice((0, 0, 0, 4))
        await self.client.heartbeat(beat(f"w{number}", status=status, slots_busy=busy, **worker))
        self.met.update(self.client.queen.registry.workers.values())

    async def beats(self) -> None:
        while not self.over:
            await asyncio.sleep(self.rng.random() * 0.04)
            worker = self.workers[self.rng.randrange(6)]
            if self.rng.random() < 0.1:
                worker["started_at"] = f"2026-01-01T00:00:{self.rng.randint(10, 59)}Z"
            if self.rng.random() < 0.05:
                worker["model"] = self.rng.choice(MODELS)
            if self.rng.random() < 0.03:
                worker["port"] = self.rng.choice(self.workers)["port"]
            status = self.rng.choices(("ready", "busy", "starting", "stopping", "dead"), (12, 1, 1, 1, 1))[0]
            await self.beat(self.workers.index(worker), status)

    async def orders(self) -> None:
        """What people ask of the queen meanwhile."""
        c, jobs = self.client, [await self.client.submit("Infer", model="any", prompt="hi")]
        while not self.over:
            await asyncio.sleep(self.rng.random() * 0.08)
            what = self.rng.randrange(6)
            if what < 2:
                self.now = self.config()
                async with c.http.post(f"{c.url}/v1/queen/reload") as answer:
                    assert answer.status == 200, await answer.text()
            elif what == 2:
                jobs.append(await c.submit("Infer", model=self.rng.choice(NAMES), prompt="hi"))
            elif what == 3:
                async with c.http.delete(f"{c.url}/v1/jobs/{self.rng.choice(jobs)}") as answer:
                    await answer.read()
            else:
                async with c.http.get(f"{c.url}/{self.rng.choice(('metrics', 'v1/models'))}") as answer:
                    assert answer.status == 200
        for job in jobs:
            await asyncio.wait_for(c.events(job), FORGOTTEN)


async def storm(seed: int, root: Path) -> tuple[list[str], int]:
    """What went wrong, and how many were answered whole."""
    wrong: list[str] = []
    answered = 0
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: wrong.append(str(context)))
    fleet = Fleet(seed, root)

    async def one(port: int, number: int) -> None:
        nonlocal answered
        rng = random.Random(f"{seed}/{number}")
        asks = [Ask(rng, f"r{number}-{i}", NAMES, list(KEYS.values())) for i in range(rng.randint(1, 5))]
        try:
            await asyncio.wait_for(client(port, rng, list(asks)), FORGOTTEN)
        except Exception as e:
            scripts = {ask.id: ask.script | {"text": ""} for ask in asks}
            wrong.append(f"client {number}: {e!r} {scripts}")
        answered += sum(ask.answered for ask in asks)

    async with fleet.run() as c:
        queen = c.queen
        noise = [asyncio.ensure_future(fleet.beats()), asyncio.ensure_future(fleet.orders())]
        await asyncio.gather(*(one(queen._server.ports[0], number) for number in range(50)))
        fleet.over = True
        await asyncio.gather(*noise)
        await eventually(lambda: queen.metrics.active == 0)
        await eventually(lambda: not any(worker.in_flight for worker in fleet.met))
        assert queen.gate.depths() == {}
        assert not queen.gate._tickets
        assert not any(queen.gate.limits.running(name) for name in ("", *KEYS))
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await eventually(lambda: all(task.done() for task in others))
    return wrong, answered


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_happens_every_answer_is_right_and_nothing_is_left(
    seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    wrong, answered = uvloop.run(storm(seed, tmp_path))
    assert wrong == []
    assert answered > 5
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []
