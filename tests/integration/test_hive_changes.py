# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen hears of a hive's workers at once: that one came, that it failed and why, that it is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee.adapters.paths import Paths
from rbee.contracts.heartbeat import WorkerChange
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import WorkerProcessDelete
from rbee.core.errors import RbeeError
from rbee.core.spec import WorkerOptions
from tests.support.beats import FakeQueen, running, taking
from tests.support.hive import client, install_engine, machine
from tests.support.spawning import bad_engine, end_all, spawn
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine


@pytest.fixture
async def queen() -> AsyncIterator[FakeQueen]:
    async with taking() as made:
        yield made


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path)
    install_engine(made, llama_cpp())
    return made


def told(queen: FakeQueen) -> list[WorkerChange]:
    return [w for beat in queen.beats if beat.capability_changes for w in beat.capability_changes.workers]


async def test_a_worker_that_comes_dies_and_goes_is_told_each_time(paths: Paths, queen: FakeQueen) -> None:
    """Long before the next heartbeat is due."""
    async with running(paths, heartbeat_interval=3600.0) as daemon, client(daemon.url) as hive:
        await hive.capabilities(queen_url=queen.url)
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        pid = (await hive.run(spawn())).response.pid
        added = WorkerChange(action="added", worker_id="w1", model="bee-tiny", device="cpu")
        await eventually(lambda: told(queen) == [added])
        os.kill(pid, signal.SIGKILL)
        # Started again, perhaps elsewhere: she must know.
        await eventually(lambda: len(told(queen)) > 1)
        assert {w.worker_id for w in told(queen)} == {"w1"}
        before = len(told(queen))
        await hive.run(WorkerProcessDelete(worker_id="w1"))
        gone = WorkerChange(action="removed", worker_id="w1", model="bee-tiny", device="cpu")
        await eventually(lambda: gone in told(queen)[before:])


async def test_a_worker_that_failed_is_told_with_its_reason(paths: Paths, queen: FakeQueen) -> None:
    async with running(paths, heartbeat_interval=3600.0) as daemon, client(daemon.url) as hive:
        await hive.capabilities(queen_url=queen.url)
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        with pytest.raises(RbeeError, match="on fire"):
            await hive.run(spawn(engine=bad_engine(paths, "dies"), options=WorkerOptions()))

        def failed() -> bool:
            return any(w.action == "failed" and "on fire" in (w.reason or "") for w in told(queen))

        await eventually(failed)
        await end_all(hive)
