# SPDX-License-Identifier: GPL-3.0-or-later
"""Real kills by the kernel, in a control group that has little memory: engine and worker say what has happened."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import WorkerProcessList
from rbee.core.records import WorkerRecord
from rbee.core.spec import WorkerOptions
from tests.lab.cgroups import Cgroup
from tests.lab.shell import LabError
from tests.support.hive import HiveClient, install_engine, machine
from tests.support.spawning import bad_engine, end_all, running, spawn
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine
MIB = 300


@contextlib.contextmanager
def inside(group: Cgroup, procs: list[Path]) -> Iterator[None]:
    """What this process starts meanwhile is in the group, and stays there."""
    before = {p: _mine(p, group) for p in procs}
    for path in procs:
        path.write_text(str(os.getpid()))
    try:
        yield
    finally:
        for path in before.values():
            path.write_text(str(os.getpid()))


def _mine(procs: Path, group: Cgroup) -> Path:
    """The `cgroup.procs` of the group that this process is in now, of that hierarchy."""
    top = procs.parent.parent
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if (group.unified and not kinds) or top.name in kinds.split(","):
            found = top / path.lstrip("/") / "cgroup.procs"
            return found if found.exists() else top / "cgroup.procs"
    return top / "cgroup.procs"


@pytest.fixture
def group() -> Iterator[tuple[Cgroup, list[Path]]]:
    made = Cgroup(f"rbee-test-{os.getpid()}")
    try:
        procs = made.create(MIB)
    except LabError as e:
        made.remove()
        pytest.skip(str(e))
    try:
        yield made, procs
    finally:
        # Workers outlive their hive, also that of a test that failed.
        for pid in {pid for path in procs for pid in path.read_text().split()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        made.remove()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path)
    install_engine(made, llama_cpp())
    bad_engine(made, "greedy")
    return made


async def ask(hive: HiveClient, url: str) -> None:
    """A request that makes the engine take memory."""
    body = {"model": "bee-tiny", "messages": [{"role": "user", "content": "Hello!"}]}
    with contextlib.suppress(aiohttp.ClientError):
        async with hive.session.post(f"{url}/v1/chat/completions", json=body) as answer:
            await answer.read()


async def only(hive: HiveClient) -> WorkerRecord:
    (worker,) = (await hive.run(WorkerProcessList())).response.workers
    assert isinstance(worker, WorkerRecord)
    return worker


async def greedy_worker(hive: HiveClient, group: tuple[Cgroup, list[Path]]) -> tuple[WorkerRecord, int]:
    """A worker in the group, and the pid of its engine."""
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    with inside(*group):
        await hive.run(spawn(engine="greedy", options=WorkerOptions()))
    worker = await only(hive)
    async with hive.session.get(f"{worker.url}/info") as answer:
        return worker, (await answer.json())["engine_pid"]


async def test_an_engine_that_the_kernel_kills_for_memory_is_told_as_that(
    paths: Paths, group: tuple[Cgroup, list[Path]]
) -> None:
    async with running(paths, look_every=0.05) as hive:
        worker, engine = await greedy_worker(hive, group)
        Path(f"/proc/{engine}/oom_score_adj").write_text("1000")
        await ask(hive, worker.url)

        async def told() -> bool:
            return "killed by the kernel: out of memory" in ((await only(hive)).reason or "")

        await eventually(told)
        assert (await only(hive)).pid == worker.pid
        await end_all(hive)


async def test_a_worker_that_the_kernel_kills_for_memory_is_told_as_that_and_comes_back(
    paths: Paths, group: tuple[Cgroup, list[Path]]
) -> None:
    async with running(paths, look_every=0.05) as hive:
        worker, _ = await greedy_worker(hive, group)
        # The kernel takes whom it is told to take first.
        Path(f"/proc/{worker.pid}/oom_score_adj").write_text("1000")
        await ask(hive, worker.url)

        async def back() -> bool:
            seen = await only(hive)
            return seen.restarts == 1 and seen.status == "ready"

        await eventually(back)
        assert (await only(hive)).last_end == "Its process was killed by the kernel: out of memory."
        await end_all(hive)
