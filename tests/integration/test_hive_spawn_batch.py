# SPDX-License-Identifier: GPL-3.0-or-later
"""Several workers begun by one job over HTTP."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee.adapters import system
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import (
    WorkerProcessList,
    WorkerSpawnBatch,
)
from rbee.core.records import Mark
from rbee.core.spec import WorkerOptions
from tests.support.hive import HiveClient, install_engine, machine
from tests.support.spawning import OPTIONS, bad_engine, end_all, running, spawn
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
    async with running(paths, drain=1.0) as asked:
        await asked.run(ModelDownload(model="builtin:bee-tiny"))
        yield asked
        await end_all(asked)


async def test_several_workers_each_with_its_own_outcome(hive: HiveClient) -> None:
    ran = (await hive.run(spawn("old", mark=Mark(fleet="f", spec_digest="d")))).response
    wanted = (
        spawn("a"),
        spawn("b", model="absent"),
        spawn("old", mark=Mark(fleet="f", spec_digest="d")),
        spawn("../c"),
        spawn("d", hive_id="elsewhere"),
    )
    told = await hive.run(WorkerSpawnBatch(workers=wanted))
    found = told.response
    assert [(w.worker_id, w.ok, w.code) for w in found.workers] == [
        ("a", True, None),
        ("b", False, "model_not_found"),
        ("old", True, None),
        ("../c", False, "bad_worker_id"),
        ("d", False, "invalid_request"),
    ]
    assert (found.started, found.failed) == (2, 3)
    assert (found.workers[2].pid, found.workers[2].port) == (ran.pid, ran.port)
    assert "no model 'absent'" in str(found.workers[1].error)
    listed = (await hive.run(WorkerProcessList())).response.workers
    assert {w.worker_id: w.pid for w in listed} == {"a": found.workers[0].pid, "old": ran.pid}
    assert told.names[0] == "worker_spawn_batch_start"
    assert told.names[-2:] == ["worker_spawn_batch_result", "result"]
    about = {(e["index"], e["worker_id"]) for e in told.events if "index" in e}
    assert about == {(0, "a"), (1, "b"), (2, "old"), (3, "../c")}


async def test_a_batch_grants_what_there_is_in_the_order_asked_for(hive: HiveClient) -> None:
    whole = dataclasses.replace(OPTIONS, threads=system.cores())
    told = await hive.run(WorkerSpawnBatch(workers=(spawn("a", options=whole), spawn("b"))))
    assert [(w.worker_id, w.ok, w.code) for w in told.response.workers] == [
        ("a", True, None),
        ("b", False, "no_free_cores"),
    ]


@pytest.mark.parametrize("ran_before", [False, True])
async def test_a_cancelled_batch_leaves_nothing_of_its_own(hive: HiveClient, paths: Paths, ran_before: bool) -> None:
    """One that is ready already goes too, but not one that ran before."""
    first = spawn("first", mark=Mark(fleet="f", spec_digest="d"))
    if ran_before:
        await hive.run(first)
    never = spawn("never", engine=bad_engine(paths, "silent"), options=WorkerOptions())
    job = await hive.submit(WorkerSpawnBatch(workers=(first, never)))
    ready = False
    async for event in hive.events(job):
        ready = ready or (event["event"], event.get("worker_id")) == ("worker_spawn_complete", "first")
        if ready and event["event"] == "worker_spawn_health_check" and event["worker_id"] == "never":
            await hive.cancel(job)
            break
    left = {"first"} if ran_before else set()
    await eventually(lambda: {p.name for p in paths.workers.iterdir()} == left)
    assert {w.worker_id for w in (await hive.capabilities()).workers if w.status == "ready"} == left
