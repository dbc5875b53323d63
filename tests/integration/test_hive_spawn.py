# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers begun and ended over HTTP: what is refused, what is remembered, several at once, and who is never killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import process, system
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import (
    WorkerProcessDelete,
    WorkerProcessGet,
    WorkerProcessList,
    WorkerSpawn,
    WorkerSpawnBatch,
)
from rbee.core.errors import RbeeError
from rbee.core.lifecycle import Limits
from rbee.core.records import Mark, ModelRecord
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from rbee.daemons.hive.files import ProcessFile, WorkerFolder
from tests.support.hive import HiveClient, client, free_range, install_engine, machine, settings, until
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.workers import ROOT, llama_cpp

pytestmark = pytest.mark.engine

OPTIONS = WorkerOptions(context_length=128, parallel=1, threads=1)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path)
    install_engine(made, llama_cpp())
    return made


@asynccontextmanager
async def running(paths: Paths, **limits: Any) -> AsyncIterator[HiveClient]:
    """A hive on these paths; the workers outlive it."""
    daemon = HiveDaemon(settings(free_range()), paths, None, Limits(**limits))
    await daemon.start()
    try:
        async with client(daemon.url) as asked:
            yield asked
    finally:
        await daemon.stop()


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    async with running(paths, drain=1.0) as asked:
        await asked.run(ModelDownload(model="builtin:bee-tiny"))
        yield asked
        await end_all(asked)


async def end_all(hive: HiveClient) -> None:
    for worker in (await hive.capabilities()).workers:
        await hive.run(WorkerProcessDelete(worker_id=worker.worker_id))


def spawn(worker_id: str | None = "w1", **changes: Any) -> WorkerSpawn:
    return WorkerSpawn(**{"model": "bee-tiny", "worker_id": worker_id, "options": OPTIONS, **changes})


def engine(paths: Paths, how: str, **changes: Any) -> str:
    """Installs an engine that does not work; its name."""
    script = str(ROOT / "tests" / "support" / "bad_engine.py")
    said = {"name": how, "launcher": None, "checks_api_key": False, "command": ("{python}", script, how, "{port}")}
    install_engine(paths, dataclasses.replace(llama_cpp(), **{**said, **changes}))
    return how


async def refused(hive: HiveClient, request: Any) -> tuple[str, str, list[dict[str, Any]]]:
    """Code, message and events of a job that must fail."""
    job = await hive.submit(request)
    events = [e async for e in hive.events(job) if "event" in e]
    async with hive.session.get(f"{hive.url}/v1/jobs/{job}") as answer:
        found = await answer.json()
    assert found["state"] == "failed"
    return found["error"]["code"], found["error"]["error"], events


def put_model(paths: Paths, model_id: str, **changes: Any) -> None:
    record = ModelRecord(id=model_id, name=model_id, path="/nowhere", size_bytes=1, status="available")
    ModelCatalog(paths.models).put(dataclasses.replace(record, **changes), "2026-11-20T00:00:00Z")


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"worker_id": "../x"}, "bad_worker_id", "An id is 1 to 100"),
    ({"worker_id": ""}, "bad_worker_id", "An id is 1 to 100"),
    ({"worker_id": "x" * 300}, "bad_worker_id", "An id is 1 to 100"),
    ({"worker_id": "käfer-🐝"}, "bad_worker_id", "An id is 1 to 100"),
    ({"worker_id": "a\x00b"}, "bad_worker_id", "An id is 1 to 100"),
    ({"model": "absent"}, "model_not_found", "no model 'absent'"),
    ({"model": "coming"}, "model_not_available", "it is being downloaded. Wait"),
    ({"model": "hurt"}, "model_not_available", "cut short"),
    ({"model": "lost"}, "model_not_available", "cannot be found"),
    ({"model": "odd", "engine": "llama-cpp"}, "wrong_format", "reads gguf models, and this one is safetensors"),
    ({"model": "odd"}, "no_engine", "No engine is installed that runs safetensors"),
    ({"worker": "cuda"}, "device_not_found|device_not_usable", "cuda:0"),
    ({"device": 1}, "device_not_found", "no device cpu:1"),
    ({"worker": "vulkan", "engine": "llama-cpp"}, "device_not_found", "no device vulkan:0"),
    ({"port": 80}, "port_out_of_range", "Port 80 is none of"),
    ({"options": WorkerOptions(batch_size=4096, context_length=128)}, "bad_options", "A batch of 4,096"),
    ({"options": WorkerOptions(memory_limit_mb=1)}, "bad_options", "started anew for ever"),
    ({"engine": "silent", "options": OPTIONS}, "option_not_supported", "silent has no option context_length"),
    ({"model": "wide", "options": WorkerOptions(context_length=2**20, parallel=256)}, "insufficient_memory", "MB"),
]


@pytest.mark.parametrize(("changes", "code", "said"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
async def test_what_cannot_be_is_refused_before_anything_starts(
    paths: Paths, tmp_path: Path, changes: dict[str, Any], code: str, said: str
) -> None:
    put_model(paths, "hurt", status="failed", error="It is cut short.")
    put_model(paths, "lost", path=str(tmp_path / "lost.gguf"))
    wide = write_tiny_gguf(tmp_path / "wide.gguf", context=2**20)
    put_model(paths, "wide", path=str(wide), size_bytes=wide.stat().st_size)
    put_model(paths, "odd", path=str(wide), size_bytes=wide.stat().st_size, format="safetensors")
    engine(paths, "silent")
    async with running(paths) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        put_model(paths, "coming", status="downloading")
        found, message, events = await refused(hive, spawn(**changes))
        assert found in code.split("|")
        assert said in message
        assert [e["event"] for e in events if e.get("code") == found] == ["worker_spawn_error"]
        assert events[0]["event"] == "worker_spawn_start"
        assert (await hive.capabilities()).workers == ()
    assert not paths.workers.exists() or list(paths.workers.iterdir()) == []


async def test_a_port_that_another_worker_or_program_has_is_refused(hive: HiveClient) -> None:
    first = (await hive.run(spawn())).response
    code, message, _ = await refused(hive, spawn("w2", port=first.port))
    assert (code, message) == (
        "port_taken",
        f"Port {first.port} is taken by worker 'w1'. Leave it out, or give another.",
    )
    with stranger("import socket,sys,time; s=socket.create_server(('127.0.0.1', int(sys.argv[1])))") as (_, run):
        run(str(first.port + 1))
        code, message, _ = await refused(hive, spawn("w2", port=first.port + 1))
        assert (code, message.split(".")[0]) == ("port_taken", f"Port {first.port + 1} is taken by another program")


@contextmanager
def stranger(code: str) -> Iterator[tuple[list[subprocess.Popen[bytes]], Any]]:
    """Runs programs that are no workers; each says when it is up. All are ended."""
    running_: list[subprocess.Popen[bytes]] = []

    def run(*args: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", f"{code}\nprint('up', flush=True)\nimport time; time.sleep(600)", *args]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        running_.append(child)
        return child

    try:
        yield running_, run
    finally:
        for child in running_:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


async def test_ids_that_differ_in_case_only_are_not_two_workers(hive: HiveClient) -> None:
    await hive.run(spawn("w1"))
    code, message, _ = await refused(hive, spawn("W1"))
    assert (code, "share a folder" in message) == ("bad_worker_id", True)


async def test_more_context_than_the_model_has_is_told(hive: HiveClient) -> None:
    told = await hive.run(spawn(options=WorkerOptions(context_length=100_000, parallel=1, threads=1)))
    (note,) = (e for e in told.events if e["event"] == "worker_spawn_note")
    record = (await hive.run(WorkerProcessGet(pid=told.response.pid))).response.worker
    assert record.context_length < 100_000
    assert f"{record.context_length:,} tokens" in note["message"]
    assert note["level"] == "warning"


def memory_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (e for e in events if e["event"] == "worker_spawn_memory")
    return found


async def test_the_second_prediction_is_the_measured_one(paths: Paths, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf", width=256, layers=8, feed_forward=1024)
    size = model.stat().st_size
    async with running(paths) as hive:
        await hive.run(ModelDownload(model=f"file:{model}"))
        first = await hive.run(spawn(model="m"))
        said = memory_of(first.events)
        assert (said["basis"], said["device"], said["worker_id"]) == ("formula", "cpu", "w1")
        assert said["available_mb"] > said["predicted_mb"] > size / 1e6
        (measured,) = (e for e in first.events if e["event"] == "worker_spawn_measured")
        # The file is counted whole, whatever of it was touched until now, beside what two processes hold.
        assert measured["measured_mb"] > size / 1e6 + 20
        assert 0.5 < measured["measured_mb"] / said["predicted_mb"] < 2
        await hive.run(WorkerProcessDelete(pid=first.response.pid))

        again = await hive.run(spawn(model="m"))
        said = memory_of(again.events)
        assert said["basis"] == "measured"
        assert "as measured before" in said["message"]
        assert measured["measured_mb"] < said["predicted_mb"] < measured["measured_mb"] * 1.5
        record = (await hive.run(WorkerProcessGet(pid=again.response.pid))).response.worker
        assert record.predicted_memory_mb == said["predicted_mb"]
        await hive.run(WorkerProcessDelete(pid=again.response.pid))
        # Of other options nothing is known.
        other = await hive.run(spawn(model="m", options=dataclasses.replace(OPTIONS, context_length=256)))
        assert memory_of(other.events)["basis"] == "formula"
        await hive.run(WorkerProcessDelete(pid=other.response.pid))

    file = paths.data / "memory.json"
    assert file.stat().st_mode & 0o777 == 0o600
    kept = json.loads(file.read_text())
    for seen in kept["seen"].values():
        seen["bytes"] = [2**49]
    file.write_text(json.dumps(kept))
    async with running(paths) as hive:
        # It outlives the hive, and it decides.
        code, message, events = await refused(hive, spawn(model="m"))
        assert (code, memory_of(events)["basis"]) == ("insufficient_memory", "measured")
        assert "591,0" in message  # 2**49 bytes and the margin, in thousands of MB
    file.write_text("{ hurt")
    async with running(paths) as hive:
        told = await hive.run(spawn(model="m"))
        assert memory_of(told.events)["basis"] == "formula"
        await hive.run(WorkerProcessDelete(pid=told.response.pid))
    assert len(json.loads(file.read_text())["seen"]) == 1


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
    never = spawn("never", engine=engine(paths, "silent"), options=WorkerOptions())
    job = await hive.submit(WorkerSpawnBatch(workers=(first, never)))
    ready = False
    async for event in hive.events(job):
        ready = ready or (event["event"], event.get("worker_id")) == ("worker_spawn_complete", "first")
        if ready and event["event"] == "worker_spawn_health_check" and event["worker_id"] == "never":
            await hive.cancel(job)
            break
    left = {"first"} if ran_before else set()
    await until(lambda: {p.name for p in paths.workers.iterdir()} == left)
    assert {w.worker_id for w in (await hive.capabilities()).workers if w.status == "ready"} == left


async def test_an_engine_that_ignores_sigterm_goes_with_all_of_its_group(hive: HiveClient, paths: Paths) -> None:
    told = await hive.run(spawn(engine=engine(paths, "stubborn", stop="term"), options=WorkerOptions()))
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
    await until(lambda: not process.alive(engine_) and not process.alive(child))
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
    await until(lambda: not process.alive(engine_))


async def test_a_worker_without_a_process_is_forgotten_by_its_id(hive: HiveClient, paths: Paths) -> None:
    with pytest.raises(RbeeError, match="on fire") as failed:
        await hive.run(spawn(engine=engine(paths, "dies"), options=WorkerOptions()))
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

            await until(again)
            code, _, _ = await refused(hive, WorkerProcessDelete(pid=child.pid))
            assert code == "worker_not_found"
            await end_all(hive)
        assert child.poll() is None
