# SPDX-License-Identifier: GPL-3.0-or-later
"""Five cold models where two have room, by chance: starts that fail or hang, a hive that is slow or taken away, reloads
that drop workers as they are started. Whoever asks is answered, nobody that serves goes, nothing starts twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rbee.contracts.configs import KnownModel
from rbee.contracts.operations.workers import WorkerSpawn, WorkerUnload
from rbee.core.scaling import Limits
from rbee.daemons.jobs import JobContext
from rbee.daemons.queen.scaling.scaler import Pace
from tests.support.mock_engine import Script
from tests.support.queen import Client, queen_config, queen_in
from tests.support.small_hive import SmallHive, known
from tests.support.waiting import eventually

MODELS = [f"m{number}" for number in range(5)]
#: A client waits longer only when it was forgotten.
FORGOTTEN = 60.0


@dataclass
class WatchedHive(SmallHive):
    """`wrong`: what it was asked and should not have been."""

    wrong: list[str] = field(default_factory=list)
    spawning: Counter[str] = field(default_factory=Counter)

    async def _spawn(self, context: JobContext, request: WorkerSpawn) -> Any:
        worker_id = request.worker_id or ""
        self.spawning[worker_id] += 1
        if self.spawning[worker_id] > 1:
            self.wrong.append(f"{worker_id} is started twice at once")
        try:
            return await super()._spawn(context, request)
        finally:
            self.spawning[worker_id] -= 1

    async def _unload(self, context: JobContext, request: WorkerUnload) -> Any:
        engine = self.engines.get(request.worker_id)
        if engine is not None and any(c.task is not None and not c.task.done() for c in engine.open):
            self.wrong.append(f"{request.worker_id} is unloaded while it serves")
        return await super()._unload(context, request)


async def ask(c: Client, model: str, seconds: float) -> int:
    async with c.chat(model, headers={"X-Request-Timeout": str(seconds)}, stream=True) as answer:
        await answer.read()
        return int(answer.status)


@pytest.mark.parametrize("seed", [1, 2])
async def test_more_models_than_room_and_a_hive_that_has_a_bad_day(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    hive = WatchedHive(sizes=dict.fromkeys(MODELS, 400.0), script=Script(tokens=3, interval=0.01))
    workers = tuple(known(f"{model}-0", model) for model in MODELS)
    pace = Pace(limits=Limits(), every=0.05, min_stay=0.0)
    async with hive.run(tmp_path):
        models = tuple(KnownModel(name=m) for m in MODELS)
        good = queen_config(models=models, aliases={}, workers=workers, hives=(hive.fake.known,))
        now = [good]
        queen = queen_in(tmp_path, good, reread=lambda: now[0], scaling=pace, hive_interval=0.3)
        async with queen as c:
            await eventually(lambda: c.queen.hives.by_id["h1"].capabilities)

            async def one() -> int:
                await asyncio.sleep(rng.random() * 2)
                return await asyncio.wait_for(ask(c, rng.choice(MODELS), rng.choice((1, 4))), FORGOTTEN)

            async def bad_day() -> None:
                while True:
                    await asyncio.sleep(rng.random() * 0.2)
                    what = rng.randrange(7)
                    if what == 0:
                        hive.breaks[f"{rng.choice(MODELS)}-0"] = "out of luck"
                    elif what == 1:
                        hive.gate.clear()
                    elif what == 2:
                        hive.fake.delay.clear()
                    elif what == 3:
                        left = tuple(w for w in workers if rng.random() < 0.7)
                        now[0] = replace(good, workers=left, hives=good.hives if rng.random() < 0.8 else ())
                        c.queen.reload()
                    else:
                        hive.breaks.clear()
                        hive.gate.set()
                        hive.fake.delay.set()

            day = asyncio.ensure_future(bad_day())
            found = Counter(await asyncio.gather(*(one() for _ in range(60))))
            day.cancel()
            assert set(found) <= {200, 503, 504}
            now[0] = good
            c.queen.reload()
            hive.breaks.clear()
            hive.gate.set()
            hive.fake.delay.set()
            for model in rng.sample(MODELS, 3):  # it heals by itself

                async def served(model: str = model) -> bool:
                    return await ask(c, model, 20) == 200

                await eventually(served, seconds=FORGOTTEN)
            await eventually(lambda: c.queen.metrics.active == 0)
            assert c.queen.gate.depths() == {}
            assert not any(worker.in_flight for worker in c.queen.registry.workers.values())
            # Each model may come and go a few times; a loop that is busy with nothing would start hundreds.
            assert len(hive.asked) < 200
    assert hive.wrong == []
