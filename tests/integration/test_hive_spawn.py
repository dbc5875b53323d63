# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker begun over HTTP: what is refused before anything starts, and what is remembered of its memory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import (
    WorkerProcessDelete,
    WorkerProcessGet,
)
from rbee.core.records import ModelRecord
from rbee.core.spec import WorkerOptions
from tests.support.hive import HiveClient, install_engine, machine
from tests.support.spawning import OPTIONS, bad_engine, end_all, refused, running, spawn, stranger
from tests.support.tiny_gguf import write_tiny_gguf
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
    bad_engine(paths, "silent")
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
