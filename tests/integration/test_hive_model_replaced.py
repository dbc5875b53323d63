# SPDX-License-Identifier: GPL-3.0-or-later
"""A model that is downloaded anew, under a worker that has the older one open."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rbee.adapters import shipped
from rbee.contracts.operations.models import ModelDownload, ModelGet
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerProcessList, WorkerSpawn
from rbee.core.records import WorkerRecord
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from tests.support.files_server import file_server
from tests.support.hive import client, install_engine, machine, settings
from tests.support.ports import free_range
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine


async def test_a_worker_goes_on_with_the_older_and_begins_anew_with_the_newer(tmp_path: Path) -> None:
    paths = machine(tmp_path / "machine")
    install_engine(paths, llama_cpp())
    daemon = HiveDaemon(settings(free_range()), paths, None)
    await daemon.start()
    try:
        async with client(daemon.url) as hive, file_server(shipped.builtin_model("bee-tiny").read_bytes()) as server:

            async def worker() -> WorkerRecord:
                found: WorkerRecord
                (found,) = (await hive.run(WorkerProcessList())).response.workers
                return found

            await hive.run(ModelDownload(model="builtin:bee-tiny", model_id="m"))
            older = (await hive.run(ModelGet(model_id="m"))).response.model.path
            options = WorkerOptions(context_length=128, parallel=1, threads=1)
            await hive.run(WorkerSpawn(model="m", worker_id="w1", options=options))
            first = await worker()
            await hive.run(ModelDownload(model=f"{server.url}/model.gguf", model_id="m"))
            newer = (await hive.run(ModelGet(model_id="m"))).response.model.path
            assert newer != older
            assert not Path(older).exists()
            there = await worker()
            assert (there.pid, there.status) == (first.pid, "ready")
            assert there.pid is not None
            os.kill(there.pid, signal.SIGKILL)

            async def again() -> bool:
                now = await worker()
                return now.status == "ready" and now.pid != first.pid

            await eventually(again)
            last = await worker()
            assert last.pid is not None
            await hive.run(WorkerProcessDelete(pid=last.pid))
    finally:
        await daemon.stop()
