# SPDX-License-Identifier: GPL-3.0-or-later
"""A hive's machine, its processes and its own health, over HTTP; with things that are not well."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import rbee
from rbee.adapters.paths import Paths
from rbee.contracts.operations.hives import HiveCheck, HiveStatus
from rbee.contracts.operations.models import ModelDelete, ModelDownload
from rbee.contracts.operations.system import ProcessList, SystemStats
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerSpawn
from rbee.core.errors import RbeeError
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from tests.support.hive import HiveClient, client, install_engine, machine, settings
from tests.support.ports import free_port, free_range
from tests.support.waiting import eventually
from tests.support.workers import ROOT, llama_cpp

SPAWN = WorkerSpawn(model="bee-tiny", worker_id="w1", options=WorkerOptions(context_length=128, parallel=1, threads=1))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path)


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    daemon = HiveDaemon(settings(free_range()), paths, None)
    await daemon.start()
    async with client(daemon.url) as asked:
        yield asked
        for worker in (await asked.capabilities()).workers:
            await asked.run(WorkerProcessDelete(worker_id=worker.worker_id))
    await daemon.stop()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of nobody's, with a secret in its command line."""
    made = subprocess.Popen([sys.executable, "-c", "input()", "--token=a-secret-word"], stdin=subprocess.PIPE)
    try:
        yield made
    finally:
        made.communicate()


async def test_the_machine_is_measured(hive: HiveClient) -> None:
    told = await hive.run(SystemStats(hive_id="h1"))
    stats = told.response
    assert 0 <= stats.cpu_usage_percent <= 100
    assert stats.cpu_cores >= 1
    assert 0 < stats.ram_used_gb <= stats.ram_total_gb
    assert stats.uptime_seconds > 0
    assert len(stats.load_average) == 3
    assert 0 <= stats.swap_used_gb <= stats.swap_total_gb
    assert 0 <= stats.disk_free_gb <= stats.disk_total_gb
    assert told.names == ["system_stats_result", "result"]
    assert told.events[0]["ram_total_gb"] == stats.ram_total_gb
    with pytest.raises(RbeeError, match="This is hive 'h1'"):
        await hive.run(SystemStats(hive_id="h2"))


async def test_processes_without_what_they_were_told(hive: HiveClient, stranger: subprocess.Popen[bytes]) -> None:
    told = await hive.run(ProcessList(limit=10_000))
    by_pid = {p.pid: p for p in told.response.processes}
    assert {os.getpid(), stranger.pid} <= set(by_pid)
    one = by_pid[stranger.pid]
    assert one.name
    assert one.status
    assert (one.user, one.worker_id) == (by_pid[os.getpid()].user, None)
    sizes = [p.memory_mb for p in told.response.processes]
    assert sizes == sorted(sizes, reverse=True)
    assert told.names == ["process_list_start", "process_list_result", "result"]
    assert "a-secret-word" not in str(told)


async def test_processes_by_name_and_no_more_than_asked(hive: HiveClient, stranger: subprocess.Popen[bytes]) -> None:
    everything = (await hive.run(ProcessList(limit=10_000))).response
    name = next(p.name for p in everything.processes if p.pid == stranger.pid)
    found = (await hive.run(ProcessList(filter=name.upper(), limit=10_000))).response
    assert stranger.pid in {p.pid for p in found.processes}
    assert all(name.lower() in p.name.lower() for p in found.processes)
    few = await hive.run(ProcessList(limit=1))
    assert len(few.response.processes) == 1
    assert few.response.total > 1
    assert few.events[1]["message"].endswith("the largest 1 shown.")
    nothing = await hive.run(ProcessList(filter="no process has such a name"))
    assert (nothing.response.processes, nothing.response.total) == ((), 0)
    assert nothing.events[1]["message"] == "0 processes."


@pytest.mark.engine
async def test_workers_and_their_engines_are_known(paths: Paths, hive: HiveClient) -> None:
    install_engine(paths, llama_cpp())
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    pid = (await hive.run(SPAWN)).response.pid
    found = (await hive.run(ProcessList(limit=10_000))).response
    whose = {p.pid: p.worker_id for p in found.processes}
    assert whose[pid] == "w1"
    assert list(whose.values()).count("w1") >= 2, "the engine is a process of its own"
    assert whose[os.getpid()] is None
    status = (await hive.run(HiveStatus())).response
    assert (status.workers_running, status.workers_failed, status.workers_total) == (1, 0, 1)
    assert (status.models_available, status.models_failed) == (1, 0)
    assert next(d for d in status.devices if d.id == "cpu").workers == ("w1",)


async def test_a_hive_tells_what_it_is(hive: HiveClient) -> None:
    told = await hive.run(HiveStatus())
    status = told.response
    assert (status.hive_id, status.url, status.version) == ("h1", hive.url, rbee.__version__)
    assert status.hostname == socket.gethostname()
    assert status.started_at == (await hive.capabilities()).started_at
    assert status.uptime_seconds >= 0
    assert 0 < status.memory_available_mb <= status.memory_total_mb
    assert 0 <= status.disk_available_gb <= status.disk_total_gb
    assert (status.workers_total, status.models_available, status.models_total_gb) == (0, 0, 0.0)
    assert status.devices[0].id == "cpu"
    assert status.system_stats.cpu_cores == status.cpu_cores
    # This machine's disk or memory may be low; nothing else may be wrong.
    assert (status.status == "healthy") == (status.reasons == ())
    assert [r for r in status.reasons if "disk" not in r and "memory" not in r] == []
    assert told.names == [*["hive_status_reason"] * len(status.reasons), "hive_status_result", "result"]


async def test_what_is_not_well_is_told(paths: Paths, hive: HiveClient) -> None:
    install_engine(paths, llama_cpp(), python="/nowhere/python")
    nobody = f"http://127.0.0.1:{free_port()}"
    await hive.capabilities(queen_url=nobody)
    with pytest.raises(RbeeError):
        await hive.run(ModelDownload(model=f"{nobody}/gone.gguf"))

    async def told() -> bool:
        status = (await hive.run(HiveStatus())).response
        engine = any(r.startswith("The engine llama-cpp") and "Its Python is gone" in r for r in status.reasons)
        queen = any(r.startswith(f"The queen at {nobody} has taken no heartbeat since 20") for r in status.reasons)
        return status.status == "degraded" and engine and queen

    await eventually(told)


async def test_models_that_cannot_be_written_make_it_unhealthy(paths: Paths, hive: HiveClient) -> None:
    shutil.rmtree(paths.models, ignore_errors=True)
    paths.models.parent.mkdir(parents=True, exist_ok=True)
    paths.models.write_text("in the way")
    told = await hive.run(HiveStatus())
    assert told.response.status == "unhealthy"
    assert told.response.reasons[:2] == (
        "The disk for models cannot be written to: File exists.",
        "The catalog of models cannot be read: Not a directory.",
    )
    async with hive.session.get(f"{hive.url}/capabilities") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "catalog_unreadable")
    assert told.events[0]["level"] == "warning"
    with pytest.raises(RbeeError, match=r"disk: the folder for models .* cannot be written to") as refused:
        await hive.run(HiveCheck())
    assert refused.value.code == "check_failed"
    paths.models.unlink()
    assert (await hive.run(HiveCheck())).response.checks


@pytest.mark.engine
async def test_a_hive_whose_only_worker_failed_is_unhealthy(paths: Paths, hive: HiveClient) -> None:
    script = str(ROOT / "tests" / "support" / "bad_engine.py")
    command = ("{python}", script, "dies", "{port}")
    install_engine(paths, replace(llama_cpp(), name="dies", launcher=None, checks_api_key=False, command=command))
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    with pytest.raises(RbeeError) as refused:
        await hive.run(replace(SPAWN, options=WorkerOptions()))
    assert refused.value.code == "worker_failed"
    status = (await hive.run(HiveStatus())).response
    assert (status.status, status.workers_failed, status.workers_total) == ("unhealthy", 1, 1)
    assert "Its only worker has failed." in status.reasons
    assert [r for r in status.reasons if r.startswith("The worker w1 has failed: ")]
    await hive.run(WorkerProcessDelete(worker_id="w1"))
    assert not [r for r in (await hive.run(HiveStatus())).response.reasons if "worker" in r]


async def test_everything_is_tried(paths: Paths, hive: HiveClient) -> None:
    told = await hive.run(HiveCheck())
    assert [(s.name, s.ok) for s in told.response.checks] == [
        (name, True) for name in ("jobs", "disk", "catalogs", "devices", "ports")
    ]
    steps = [e for e in told.events if e["event"] == "hive_check_step"]
    assert [e["step"] for e in steps] == [1, 2, 3, 4, 5]
    assert steps[0]["message"] == "jobs: this job runs, tells, and is written down (running)."
    assert [p.name for p in paths.models.iterdir() if p.name.startswith(".check-")] == []


async def test_ports_that_are_taken_fail_the_check_and_the_others_are_made(paths: Paths) -> None:
    with contextlib.ExitStack() as stack:
        squatter = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = squatter.getsockname()[1]
        daemon = HiveDaemon(settings((port, port)), paths, None)
        await daemon.start()
        async with client(daemon.url) as asked:
            job = await asked.submit(HiveCheck())
            events = [e async for e in asked.events(job)]
            steps = {e["check"]: e for e in events if e.get("event") == "hive_check_step"}
            assert [name for name, e in steps.items() if not e["ok"]] == ["ports"]
            assert steps["ports"]["level"] == "error"
            assert f"All worker ports from {port} to {port} are taken" in steps["ports"]["message"]
            assert events[-1]["code"] == "check_failed"
        await daemon.stop()


async def test_a_broken_engine_fails_the_check(paths: Paths, hive: HiveClient) -> None:
    made = install_engine(paths, llama_cpp(), python="/nowhere/python")
    with pytest.raises(RbeeError, match=rf"catalogs: engines that cannot be used: {made}"):
        await hive.run(HiveCheck())


async def test_a_model_taken_away_is_not_counted(hive: HiveClient) -> None:
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    assert (await hive.run(HiveStatus())).response.models_available == 1
    await hive.run(ModelDelete(model_id="bee-tiny"))
    assert (await hive.run(HiveStatus())).response.models_available == 0
