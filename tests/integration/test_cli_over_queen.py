# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee FAMILY COMMAND` as real processes: the queen hands on what belongs to a hive, and tells what it tells."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import shipped
from rbee.contracts.configs import KnownHive
from tests.support.files_server import file_server
from tests.support.hive_tool import RBEE, HiveMachine, Typed
from tests.support.waiting import until
from tests.support.workers import alive


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[HiveMachine]:
    """A hive and its queen, both processes of their own."""
    made = HiveMachine(tmp_path)
    try:
        with made.daemon(), made.queen():
            yield made
    finally:
        made.clear()


def answer(typed: Typed) -> Any:
    assert typed.code == 0, typed
    return typed.lines[-1]


def test_one_of_each_family(machine: HiveMachine) -> None:
    there = machine.rbee("model", "download", "builtin:bee-tiny")
    assert there.code == 0, there
    assert "SHA-256" in there.err
    assert machine.rbee("model", "list").out.splitlines()[1].split()[:2] == ["bee-tiny", "available"]
    assert answer(machine.rbee("model", "verify", "bee-tiny", "-o", "json"))["verified"] is True
    spawned = machine.rbee(
        "worker", "spawn", "bee-tiny", "--hive", "h1", "--worker-id", "w1", "--context-length", "512", "-o", "json"
    )
    pid = answer(spawned)["pid"]
    assert "worker_spawn_start" in [line.get("event") for line in spawned.lines]
    assert "w1" in machine.rbee("worker", "ps").out
    logged = machine.rbee("worker", "logs", "w1", "--tail", "1")
    assert (logged.code, len(logged.out.splitlines())) == (0, 1), logged
    assert machine.rbee("device", "list").out.splitlines()[1].startswith("cpu ")
    assert answer(machine.rbee("device", "get", "0", "-o", "json"))["device"]["workers"] == ["w1"]
    assert "cpu usage:" in machine.rbee("system", "stats").out
    assert answer(machine.rbee("system", "ps", "--limit", "1", "-o", "json"))["total"] > 1
    assert "llama-cpp" in machine.rbee("binary", "list").out
    assert machine.rbee("preload", "load", "bee-tiny").code == 0
    assert "bee-tiny" in machine.rbee("preload", "stats").out
    assert machine.rbee("preload", "evict", "bee-tiny").code == 0
    assert machine.rbee("download", "list").out == "No downloads.\n"
    assert machine.rbee("hive", "status").out.startswith("hive id:")
    assert machine.rbee("hive", "check").code == machine.rbee("queen", "check").code == 0
    refused = machine.rbee("model", "delete", "bee-tiny")
    assert refused.code == 1
    assert "w1" in refused.err
    assert machine.rbee("worker", "kill", str(pid)).code == 0
    assert not alive(pid)
    both = machine.rbee("model", "delete-batch", "bee-tiny", "nothing")
    assert both.code == 1
    assert both.out.splitlines()[0] == "deleted: bee-tiny"


def test_a_batch_from_a_file_is_told_one_by_one(machine: HiveMachine, tmp_path: Path) -> None:
    assert machine.rbee("model", "download", "builtin:bee-tiny").code == 0
    small = {"context_length": 512, "parallel": 1}
    batch = [{"model": "bee-tiny", "worker_id": "a", "options": small}, {"model": "nothing", "worker_id": "b"}]
    (tmp_path / "batch.json").write_text(json.dumps(batch))
    told = machine.rbee("worker", "spawn-batch", "-f", str(tmp_path / "batch.json"), "-o", "json")
    assert told.code == 1
    first, second = told.lines[-1]["workers"]
    assert (first["ok"], second["ok"], second["code"]) == (True, False, "model_not_found")


def test_which_hive_is_asked_when_there_are_several(tmp_path: Path) -> None:
    machine = HiveMachine(tmp_path)
    with machine.daemon(), machine.queen(KnownHive(hive_id="h2", url="http://127.0.0.1:9")):
        unsaid = machine.rbee("model", "list")
        assert unsaid.code == 1
        assert "Which hive?" in unsaid.err
        assert "h1, h2" in unsaid.err
        assert machine.rbee("model", "list", "--hive", "h1").out == "No models.\n"
        gone = machine.rbee("model", "list", "--hive", "h2")
        assert (gone.code, gone.out) == (1, "")
        assert "does not answer" in gone.err
        assert "There is no hive 'h3'" in machine.rbee("model", "list", "--hive", "h3").err


async def test_ctrl_c_reaches_the_hive(machine: HiveMachine) -> None:
    async with file_server(shipped.builtin_model("bee-tiny").read_bytes(), hold_after=500_000) as server:
        begun = machine.begin("model", "download", f"{server.url}/model.gguf", "--model-id", "m1", tool=RBEE)
        await asyncio.wait_for(server.holding.wait(), 30)
        begun.send_signal(signal.SIGINT)
        ended = await asyncio.to_thread(machine.end, begun)
        assert ended.code == 130
        assert "the job was cancelled" in ended.err

        def cancelled() -> bool:
            """The hive's own job, a moment after the queen's."""
            with urllib.request.urlopen(f"http://{machine.config.listen}/v1/jobs") as told:
                job = json.load(told)["jobs"][0]
            return (job["operation"], job["state"]) == ("ModelDownload", "cancelled")

        await asyncio.to_thread(until, cancelled, "the hive's job to be cancelled")
