# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers ended over HTTP: all of one goes, and nothing of anybody else."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee.adapters import process
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import (
    WorkerProcessDelete,
)
from rbee.core.errors import RbeeError
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.workers.files import ProcessFile, WorkerFolder
from tests.support.hive import HiveClient, install_engine, machine
from tests.support.spawning import bad_engine, end_all, refused, running, spawn, stranger
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


async def test_an_engine_that_ignores_sigterm_goes_with_all_of_its_group(hive: HiveClient, paths: Paths) -> None:
    told = await hive.run(spawn(engine=bad_engine(paths, "stubborn", stop="term"), options=WorkerOptions()))
    async with hive.session.get(f"{told.response.url}/info") as answer:
        engine_pid = (await answer.json())["engine_pid"]
    engine_ = process.identify(engine_pid)
    log = (WorkerFolder.of(paths.workers, "w1").log).read_text()
    child = process.identify(int(log.split("child ")[1].split('"')[0]))
    assert engine_ is not None
    assert child is not None
    gone = await hive.run(WorkerProcessDelete(pid=told.response.pid))
    assert gone.names[0] == "worker_proc_del_start"
    assert gone.names[-2:] == ["worker_proc_del_ok", "result"]
    await eventually(lambda: not process.alive(engine_) and not process.alive(child))
    assert process.identify(told.response.pid) is None


async def test_a_worker_that_ignores_sigterm_is_killed_after_its_drain(hive: HiveClient) -> None:
    spawned = (await hive.run(spawn())).response
    async with hive.session.get(f"{spawned.url}/info") as answer:
        engine_ = process.identify((await answer.json())["engine_pid"])
    assert engine_ is not None
    os.kill(spawned.pid, signal.SIGSTOP)
    gone = await hive.run(WorkerProcessDelete(pid=spawned.pid))
    assert gone.names == [
        "worker_proc_del_start",
        "worker_proc_del_sigterm",
        "worker_proc_del_sigkill",
        "worker_proc_del_ok",
        "result",
    ]
    assert process.identify(spawned.pid) is None
    await eventually(lambda: not process.alive(engine_))


async def test_a_worker_without_a_process_is_forgotten_by_its_id(hive: HiveClient, paths: Paths) -> None:
    with pytest.raises(RbeeError, match="on fire") as failed:
        await hive.run(spawn(engine=bad_engine(paths, "dies"), options=WorkerOptions()))
    assert failed.value.code == "worker_failed"
    (worker,) = (await hive.capabilities()).workers
    assert worker.status == "failed"
    told = await hive.run(WorkerProcessDelete(worker_id="w1"))
    assert told.names == ["worker_proc_del_start", "worker_proc_del_ok", "result"]
    assert (await hive.capabilities()).workers == ()
    for request, code in (
        (WorkerProcessDelete(worker_id="w1"), "worker_not_found"),
        (WorkerProcessDelete(pid=os.getpid(), worker_id="w1"), "worker_not_found"),
        (WorkerProcessDelete(), "invalid_request"),
    ):
        assert (await refused(hive, request))[0] == code


async def test_an_id_and_a_pid_must_be_of_one_worker(hive: HiveClient) -> None:
    pid = (await hive.run(spawn())).response.pid
    code, message, _ = await refused(hive, WorkerProcessDelete(pid=pid, worker_id="w2"))
    assert (code, f"'w2' does not have pid {pid}" in message) == ("worker_not_found", True)
    assert process.identify(pid) is not None


@pytest.mark.parametrize("same_start", [False, True])
async def test_a_pid_that_somebody_else_has_now_is_never_killed(paths: Paths, same_start: bool) -> None:
    """The hive was away while its worker died and the kernel gave the pid to another process."""
    async with running(paths) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        pid = (await hive.run(spawn())).response.pid
        folder = WorkerFolder.of(paths.workers, "w1")
    worker = process.identify(pid)
    assert worker is not None
    await process.end(worker, 20)
    process.exit_status(worker)
    with stranger("pass") as (_, run):
        child = run()
        identity = process.identify(child.pid)
        assert identity is not None
        # Even with the same start time it is told apart: it has not the worker's settings in its argv.
        start = identity.start_time if same_start else identity.start_time - 1
        found = folder.load()
        assert found is not None
        state: ProcessFile = dataclasses.replace(found[1], pid=child.pid, start_time=start, status="ready")
        folder.save_process(state)
        async with running(paths) as hive:

            async def again() -> bool:
                (seen,) = (await hive.capabilities()).workers
                return seen.status == "ready" and seen.pid != child.pid

            await eventually(again)
            code, _, _ = await refused(hive, WorkerProcessDelete(pid=child.pid))
            assert code == "worker_not_found"
            await end_all(hive)
        assert child.poll() is None
