# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a worker is so: its options are the engine's, its errors are counted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import WorkerProcessList
from rbee.core.records import WorkerRecord
from rbee.core.spec import WorkerOptions
from tests.support.hive import HiveClient, install_engine, machine
from tests.support.spawning import end_all, running, spawn
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path)
    install_engine(made, llama_cpp())
    return made


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    async with running(paths, look_every=0.1, wait_first=0.5) as asked:
        await asked.run(ModelDownload(model="builtin:bee-tiny"))
        yield asked
        await end_all(asked)


async def only(hive: HiveClient) -> WorkerRecord:
    (worker,) = (await hive.run(WorkerProcessList())).response.workers
    assert isinstance(worker, WorkerRecord)
    return worker


async def engine_of(hive: HiveClient, url: str) -> psutil.Process:
    async with hive.session.get(f"{url}/info") as answer:
        return psutil.Process((await answer.json())["engine_pid"])


async def test_every_option_reaches_the_engine(hive: HiveClient) -> None:
    options = WorkerOptions(context_length=256, parallel=2, batch_size=64, threads=1)
    spawned = (await hive.run(spawn(options=options))).response
    argv = (await engine_of(hive, spawned.url)).cmdline()
    said = {argv[i]: argv[i + 1] for i in range(len(argv) - 1)}
    asked = {"--context-length": "256", "--parallel": "2", "--batch-size": "64", "--threads": "1"}
    assert {name: said.get(name) for name in asked} == asked
    record = await only(hive)
    assert (record.slots, record.context_length) == (2, 256)


async def test_a_request_that_the_engine_did_not_survive_is_an_error_of_its_worker(hive: HiveClient) -> None:
    spawned = (await hive.run(spawn(options=WorkerOptions(context_length=1024, parallel=1, threads=1)))).response
    engine = await engine_of(hive, spawned.url)
    body = {"model": "bee-tiny", "prompt": "Bees", "max_tokens": 900, "stream": True, "ignore_eos": True}
    async with hive.session.post(f"{spawned.url}/v1/completions", json=body) as answer:
        assert answer.status == 200
        assert await answer.content.readline()
        engine.suspend()  # it can't be finished before it is killed
        engine.kill()
        with contextlib.suppress(aiohttp.ClientError):
            await answer.read()

    async def counted() -> bool:
        return (await only(hive)).errors == 1

    await eventually(counted)
