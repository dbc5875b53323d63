# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee-hive COMMAND` on the machine itself, as real processes: on the daemon where one runs, else directly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import process, shipped
from rbee.contracts import codec
from rbee.contracts.configs import QueenConfig
from rbee.core.slug import slug
from rbee.fleet.remote import install
from tests.support.files_server import file_server
from tests.support.hive_tool import ARGV, HiveMachine, Typed
from tests.support.ports import free_port
from tests.support.waiting import until
from tests.support.workers import ROOT, alive

SPAWN = ("worker", "spawn", "bee-tiny", "--worker-id", "w1", "--context-length", "512", "--parallel", "1")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[HiveMachine]:
    made = HiveMachine(tmp_path)
    try:
        yield made
    finally:
        made.clear()


def answer(typed: Typed) -> Any:
    """The last JSON line of a command that went well."""
    assert typed.code == 0, typed
    return typed.lines[-1]


def worker(machine: HiveMachine) -> Any:
    (found,) = answer(machine.type("workers", "list", "-o", "json"))["workers"]
    return found


def test_a_machine_without_settings_can_do_what_a_hive_does(tmp_path: Path) -> None:
    machine = HiveMachine(tmp_path, bare=True)
    assert machine.type("models").out == "No models.\n"
    there = machine.type("model", "download", "builtin:bee-tiny")
    assert there.code == 0
    assert "SHA-256" in there.err
    assert "model id: bee-tiny" in there.out
    listed = machine.type("models").out.splitlines()
    assert listed[0].split()[:3] == ["ID", "STATUS", "SIZE"]
    assert listed[1].split()[:2] == ["bee-tiny", "available"]
    assert answer(machine.type("models", "list", "-o", "json"))["models"][0]["parameter_count"] == "2.3M"
    assert "architecture:     llama" in machine.type("model", "get", "bee-tiny").out
    wrong = machine.type("models", "get", "bee-tine")
    assert (wrong.code, wrong.out) == (1, "")
    assert "Did you mean 'bee-tiny'?" in wrong.err
    assert answer(machine.type("check", "-o", "json"))["hive_id"] == slug(socket.gethostname().partition(".")[0])
    assert machine.type("model", "delete", "bee-tiny").code == 0
    assert not (machine.paths.models / "bee-tiny").exists()
    assert not machine.paths.hive_config.exists()
    assert not (machine.paths.state / "hive.run.json").exists()


def test_the_queens_local_hive_is_the_hive_of_her_machine(tmp_path: Path) -> None:
    machine = HiveMachine(tmp_path, bare=True)
    queen = QueenConfig(fleet="home", local_hive=machine.config)
    machine.paths.queen_config.parent.mkdir(parents=True)
    machine.paths.queen_config.write_bytes(codec.encode_pretty(queen))
    assert answer(machine.type("check", "-o", "json"))["hive_id"] == "h1"


def test_a_worker_outlives_the_command_that_started_it_and_the_daemon_adopts_it(machine: HiveMachine) -> None:
    assert machine.type("model", "download", "builtin:bee-tiny").code == 0
    spawned = answer(machine.type(*SPAWN, "-o", "json"))
    pid = spawned["pid"]
    assert alive(pid)
    assert (worker(machine)["pid"], worker(machine)["worker_id"]) == (pid, "w1")
    in_use = machine.type("model", "delete", "bee-tiny")
    assert in_use.code == 1
    assert "w1" in in_use.err
    batch = machine.type("model", "delete-batch", "bee-tiny", "nothing")
    assert batch.code == 1
    with machine.daemon():
        adopted = worker(machine)
        assert (adopted["pid"], adopted["port"]) == (pid, spawned["port"])
        jobs = _jobs(machine)
        assert jobs[0]["operation"] == "WorkerProcessList"  # it was the daemon that was asked
        assert machine.type("worker", "logs", "w1", "-n", "5").code == 0
    assert worker(machine)["pid"] == pid
    gone = machine.type("worker", "stop", str(pid))
    assert gone.code == 0, gone
    assert not alive(pid)
    assert machine.type("workers").out == "No workers.\n"


def _jobs(machine: HiveMachine) -> Any:
    import urllib.request

    with urllib.request.urlopen(f"http://{machine.config.listen}/v1/jobs") as told:
        return json.load(told)["jobs"]


def test_looking_starts_nothing_that_died(machine: HiveMachine) -> None:
    assert machine.type("model", "download", "builtin:bee-tiny").code == 0
    pid = answer(machine.type(*SPAWN, "-o", "json"))["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "its end")
    found = worker(machine)
    assert found["status"] == "dead"
    assert "daemon starts it again" in found["reason"]
    assert not any(_ours(machine, p) for p in Path("/proc").iterdir())


def _ours(machine: HiveMachine, entry: Path) -> bool:
    try:
        return entry.name.isdecimal() and str(machine.paths.workers).encode() in (entry / "cmdline").read_bytes()
    except OSError:
        return False


async def test_ctrl_c_ends_a_direct_download_in_order(machine: HiveMachine) -> None:
    async with file_server(_bee(), hold_after=500_000) as server:
        begun = machine.begin("model", "download", f"{server.url}/model.gguf", "--model-id", "m1")
        await asyncio.wait_for(server.holding.wait(), 30)
        second = await asyncio.to_thread(machine.type, "models")
        assert second.code == 1
        assert f"pid {begun.pid}" in second.err
        assert "ModelDownload" in second.err
        daemon = await asyncio.to_thread(machine.type)
        assert daemon.code == 1
        assert f"pid {begun.pid}" in daemon.err
        begun.send_signal(signal.SIGINT)
        ended = await asyncio.to_thread(machine.end, begun)
        assert ended.code == 130
        assert "Interrupted" in ended.err
        assert "Traceback" not in ended.err
        server.hold_after = None
        server.go_on.set()
        again = await asyncio.to_thread(machine.type, "models")
        assert again.code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_cancels_the_job_on_the_daemon(machine: HiveMachine, number: signal.Signals) -> None:
    with machine.daemon():
        async with file_server(_bee(), hold_after=500_000) as server:
            begun = machine.begin("models", "download", f"{server.url}/model.gguf", "--model-id", "m1")
            await asyncio.wait_for(server.holding.wait(), 30)
            begun.send_signal(number)
            ended = await asyncio.to_thread(machine.end, begun)
            assert ended.code == 130
            assert "the job was cancelled" in ended.err
            job = (await asyncio.to_thread(_jobs, machine))[0]
            assert (job["operation"], job["state"]) == ("ModelDownload", "cancelled")


def _bee() -> bytes:
    return shipped.builtin_model("bee-tiny").read_bytes()


def test_a_run_file_of_a_dead_daemon_is_no_daemon(machine: HiveMachine) -> None:
    me = process.myself()
    found: tuple[Any, ...] = (
        {"pid": me.pid, "start_time": me.start_time + 1, "url": "http://127.0.0.1:9"},
        {"pid": 2**22 + 1, "start_time": 1, "url": "http://127.0.0.1:9"},
        {"pid": "x"},
        [],
    )
    for told in found:
        machine.paths.state.mkdir(parents=True, exist_ok=True)
        (machine.paths.state / "hive.run.json").write_text(json.dumps(told))
        assert machine.type("models").code == 0


def test_a_daemon_with_a_token_is_asked_with_it(machine: HiveMachine) -> None:
    token = machine.root / "token"
    token.write_text("a-token-of-sixteen-and-more\n")
    token.chmod(0o600)
    machine.write(codec.convert(type(machine.config), {
        **codec.to_mapping(machine.config), "listen": f"127.0.0.2:{free_port()}", "token_file": str(token),
    }))  # fmt: skip
    with machine.daemon():
        assert machine.type("models").code == 0
    token.chmod(0o644)
    open_to_all = machine.type("models")
    assert open_to_all.code == 1
    assert "sixteen" not in open_to_all.err + open_to_all.out


def test_settings_can_be_named_and_wrong_ones_are_told(machine: HiveMachine, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"hive_id": "other", "fleet": "f"}')
    for words in (["check", "--config", str(other)], ["--config", str(other), "check"]):
        assert answer(machine.type(*words, "-o", "json"))["hive_id"] == "other"
    other.write_text("{")
    for words in (
        ["models", "list", "--config", str(other)],
        ["--config", str(other)],
        ["--config", str(other), "run"],
    ):
        wrong = machine.type(*words)
        assert wrong.code in (1, 2)
        assert "other.json" in wrong.err


def test_a_hives_machine_needs_no_library_of_the_controller(machine: HiveMachine) -> None:
    """Its release has click, by way of another library, but nothing for terminals, SSH or YAML files."""
    code = (
        "import sys\n"
        "for name in ('rich', 'paramiko', 'fabric', 'jsonschema', 'pip'):\n"
        "    sys.modules[name] = None\n"
        "from rbee.cli.daemons import _main\n"
        "sys.exit(_main('hive', sys.argv[1:]))\n"
    )
    with machine.daemon():
        for words in (["models"], ["model", "download", "builtin:bee-tiny"], ["devices"], ["--help"]):
            argv = [sys.executable, "-c", code, *words]
            done = subprocess.run(argv, env=machine.env, cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-c", code, "models"], env=machine.env, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "bee-tiny" in done.stdout


def test_what_would_be_gone_with_the_command_wants_the_daemon(machine: HiveMachine) -> None:
    assert machine.type("model", "download", "builtin:bee-tiny").code == 0
    for words in (["preload", "load", "bee-tiny"], ["download", "resume", "bee-tiny"]):
        refused = machine.type(*words)
        assert (refused.code, refused.out) == (1, "")
        assert "rbee-hive run" in refused.err
    with machine.daemon():
        assert "locked" in machine.type("preload", "load", "bee-tiny").out
        assert answer(machine.type("preload", "stats", "-o", "json"))["cached_models"] == ["bee-tiny"]


def test_the_script_in_a_release_is_the_tool(machine: HiveMachine) -> None:
    script = machine.root / "a release's" / "rbee-hive"
    script.parent.mkdir()
    install.tool(script, Path(sys.executable))
    env = machine.env | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [script, "models", "-o", "json"], env=env, cwd="/", capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, json.loads(done.stdout.splitlines()[-1])) == (0, {"models": []}), done.stderr


def test_help_tells_the_daemon_and_every_family(machine: HiveMachine) -> None:
    told = machine.type("--help").out
    for word in ("run", "status", "worker", "model", "device", "download", "preload", "system", "binary"):
        assert f"\n  {word} " in told
    assert "\n  list " in machine.type("models", "-h").out
    assert "--config" in machine.type("run", "--help").out
    assert "--hive " not in machine.type("model", "list", "--help").out
    nothing = machine.type("nothing")
    assert nothing.code == 2
    assert ARGV[-1] == "hive"
