# SPDX-License-Identifier: GPL-3.0-or-later
"""How a queen ends, on real processes: alone, with her streams let end, or with workers and hives before her."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rbee.adapters import own_wheel
from rbee.adapters.paths import write_atomic
from rbee.adapters.service import running
from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig, KnownHive, KnownModel, QueenConfig
from rbee.contracts.operations import wire
from rbee.contracts.operations.fleet import QueenStop
from rbee.contracts.operations.hives import HiveInstall, HiveList, HiveStart, HiveStop, HiveUninstall
from rbee.contracts.operations.workers import WorkerSpawn, WorkerStop
from rbee.core.records import Mark
from rbee.core.spec import Ssh
from tests.support.fleet_processes import (
    MODEL,
    OPTIONS,
    PLACES,
    Fleet,
    Home,
    Stream,
    ask,
    fleet_in,
    job,
    mock_engine,
    put_model,
    refused,
    wait_gone,
)
from tests.support.mock_engine import event
from tests.support.ports import free_port, free_range
from tests.support.sshd import Sshd
from tests.support.waiting import until
from tests.support.workers import ROOT

_CONFIG = QueenConfig(fleet="test", models=(KnownModel(name=MODEL),), release="r1")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path, "h1") as made:
        yield made


def whole(tokens: int) -> str:
    return "".join(event(i).decode() for i in range(tokens)) + "data: [DONE]\n\n"


def names(processes: list[psutil.Process]) -> set[str]:
    """Which of our programs these are."""
    found = set()
    for process in processes:
        words = process.cmdline()
        found |= {w for w in words if w in ("queen", "hive", "worker", "tests.support.mock_engine")}
    return found


def test_a_stopping_queen_lets_streams_end_and_refuses_what_is_new(fleet: Fleet) -> None:
    stream = Stream(fleet.url, tokens=100, interval=0.05)
    begun = stream.line()
    fleet.queen.signal(signal.SIGTERM)
    until(lambda: not fleet.queen.serves(), "the queen to say that she is not ready")
    status, error, headers = refused(fleet.url, tokens=3)
    assert (status, error["code"], headers["Retry-After"]) == (503, "stopping", "2")
    with pytest.raises(OSError, match="503"):
        ask(f"{fleet.url}/v1/jobs", wire(HiveList()))
    assert begun + stream.rest() == whole(100)
    assert fleet.queen.ends() == 0
    assert names(fleet.hives["h1"].home.processes()) == {"hive", "worker", "tests.support.mock_engine"}


def test_a_second_signal_ends_her_at_once(fleet: Fleet) -> None:
    stream = Stream(fleet.url, tokens=100_000, interval=0.05)
    stream.line()
    fleet.queen.signal(signal.SIGTERM)
    until(lambda: not fleet.queen.serves(), "the first to be seen")
    fleet.queen.signal(signal.SIGTERM)
    assert fleet.queen.ends() == 128 + signal.SIGTERM
    stream.answer.close()


def test_workers_and_the_queen_are_stopped_on_demand(fleet: Fleet) -> None:
    found = job(fleet.url, WorkerStop(worker_id="w-h2"))
    assert (found["state"], found["error"]["code"]) == ("failed", "worker_not_found")
    assert "Did you mean" in found["error"]["error"] and "w-h1" in found["error"]["error"]
    for request in (HiveStop(hive_id="h1"), HiveStart(hive_id="h1"), HiveInstall(hive_id="h1")):
        assert job(fleet.url, request)["error"]["code"] == "no_ssh"
    assert job(fleet.url, HiveUninstall(hive_id="h9"))["error"]["code"] == "hive_not_found"
    found = job(fleet.url, WorkerStop(worker_id="w-h1"))
    assert found["result"]["hive_id"] == "h1"
    told = [e["event"] for e in found["events"]]
    assert told[0] == "worker_stop_start" and "worker_proc_del_ok" in told and told[-2] == "worker_stop_complete"
    assert fleet.workers() == {}
    assert names(fleet.hives["h1"].home.processes()) == {"hive"}
    found = job(fleet.url, QueenStop())
    assert found["result"] == {
        "hives_stopped": [], "workers_stopped": 0, "failed": [], "hives_left": ["h1"], "workers_left": []
    }  # fmt: skip
    assert fleet.queen.ends() == 0
    assert names(fleet.hives["h1"].home.processes()) == {"hive"}


class Machines:
    """This machine, with the queen and the hive in her, and another one behind a real sshd; no rbee.yaml."""

    def __init__(self, root: Path, sshd: Sshd) -> None:
        self.here, self.there = Home(root / "here"), Home(root / "there")
        port, local, remote = free_port(), free_port(), free_port()
        self.url, self.remote_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{remote}"
        environment = {k: v for k, v in self.there.env.items() if k.startswith(("XDG_", "PYTHONPATH", "RBEE_"))}
        sshd.start("there", environment=environment)
        self.env = {**self.here.env, "RBEE_SSH_CONFIG": str(sshd.config)}
        hives = {
            name: HiveConfig(
                hive_id=name,
                fleet="test",
                listen=f"127.0.0.1:{at}",
                worker_ports=free_range(4),
                queen_url=self.url,
                release="r1",
            )
            for name, at in (("local", local), ("there", remote))
        }
        for home in (self.here, self.there):
            mock_engine(home.paths)
            put_model(home.paths)
        write_atomic(self.there.paths.hive_config, codec.encode_pretty(hives["there"]), 0o600)
        self.release()
        config = dataclasses.replace(
            _CONFIG,
            listen=f"127.0.0.1:{port}",
            local_hive=hives["local"],
            hives=(
                KnownHive(hive_id="local", url=f"http://127.0.0.1:{local}"),
                KnownHive(hive_id="there", url=self.remote_url, ssh=Ssh(host="there")),
            ),
        )
        write_atomic(self.here.paths.queen_config, codec.encode_pretty(config), 0o600)

    def release(self) -> None:
        """As an apply would have installed it, but with this very Python."""
        folder = self.there.paths.data / "releases" / own_wheel.release_id()
        about = {
            "id": folder.name,
            "path": str(folder),
            "python": sys.executable,
            "mark": codec.plain(Mark(fleet="test")),
        }
        write_atomic(folder / "metadata.json", json.dumps(about).encode())

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        argv = (sys.executable, "-m", *argv)
        return subprocess.run(argv, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=120)

    def start(self) -> None:
        """The queen, as apply starts her."""
        done = self.run("rbee.adapters.service", "start", "queen")
        assert done.returncode == 0, done.stdout

    @property
    def all(self) -> list[psutil.Process]:
        return [*self.here.processes(), *self.there.processes()]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    sshd = Sshd.make(tmp_path / "ssh")
    try:
        made = Machines(tmp_path, sshd)
        try:
            yield made
        finally:
            made.here.end_all()
            made.there.end_all()
    finally:
        sshd.stop()


def spawned(machines: Machines, hive: str) -> Any:
    request = WorkerSpawn(hive_id=hive, model=MODEL, engine="mock", worker_id=f"w-{hive}", options=OPTIONS)
    found = job(machines.url, request)
    assert found["state"] == "completed", found["error"]
    return found["result"]


def test_with_cascade_nothing_of_the_fleet_is_left(machines: Machines) -> None:
    machines.start()
    assert job(machines.url, HiveStop(hive_id="local"))["error"]["code"] == "local_hive"
    found = job(machines.url, HiveStart(hive_id="there"))
    assert found["state"] == "completed", found
    assert found["result"]["url"] == machines.remote_url
    for hive in ("local", "there"):
        spawned(machines, hive)
    processes = machines.all
    assert names(processes) >= {"queen", "hive", "worker", "tests.support.mock_engine"}
    assert running(machines.here.paths, "queen") is not None
    done = machines.run("rbee.cli", "queen", "stop", "--cascade")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The queen is stopped." in done.stdout
    assert wait_gone(processes) == []
    assert [p.cmdline() for p in machines.all] == []
    again = machines.run("rbee.cli", "queen", "stop")
    assert (again.returncode, "does not run" in again.stdout) == (0, True)
    again = machines.run("rbee.cli", "queen", "stop", "--cascade")
    assert again.returncode == 1 and "rbee apply" in again.stderr


def test_stopped_alone_she_says_what_goes_on_without_her(machines: Machines) -> None:
    machines.start()
    assert job(machines.url, HiveStart(hive_id="there"))["state"] == "completed"
    for hive in ("local", "there"):
        spawned(machines, hive)
    done = machines.run("rbee.cli", "queen", "stop")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "Stopped: hive local."
    assert said[1].startswith("Still running: hive there; 2 workers: w-local, w-there.") and "--cascade" in said[1]
    assert said[2] == "The queen is stopped. `rbee apply` starts her again." and len(said) == 3
    assert names(machines.all) == {"hive", "worker", "tests.support.mock_engine"}


def test_what_cannot_be_stopped_is_told_and_stops_nothing_else(machines: Machines) -> None:
    machines.start()
    assert job(machines.url, HiveStart(hive_id="there"))["state"] == "completed"
    spawned(machines, "local")
    release = machines.there.paths.data / "releases"
    release.rename(release.with_suffix(".away"))
    done = machines.run("rbee.cli", "queen", "stop", "--cascade", "-o", "json")
    assert done.returncode == 1
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["hives_stopped"] == ["local"] and said["workers_stopped"] == 1
    (failed,) = said["failed"]
    assert failed.startswith("there: its daemon: No release of this fleet")
    assert wait_gone(machines.here.processes()) == []
    assert names(machines.there.processes()) == {"hive"}


def test_a_hive_is_stopped_started_and_uninstalled_over_ssh(machines: Machines) -> None:
    machines.start()
    found = job(machines.url, HiveInstall(hive_id="there"))
    assert (found["result"]["release"], found["result"]["installed"]) == (own_wheel.release_id(), False)
    assert job(machines.url, HiveStart(hive_id="there"))["state"] == "completed"
    spawned(machines, "there")
    assert job(machines.url, HiveStop(hive_id="there"))["result"]["workers_stopped"] == 0
    assert names(machines.there.processes()) == {"worker", "tests.support.mock_engine"}, "workers go on without it"
    stream = Stream(machines.url, tokens=3)
    assert (stream.worker, stream.rest()) == ("w-there", whole(3))
    found = job(machines.url, HiveUninstall(hive_id="there"))
    assert found["error"]["code"] == "workers_left"
    assert job(machines.url, HiveStart(hive_id="there"))["state"] == "completed"
    found = job(machines.url, HiveStop(hive_id="there", workers=True))
    assert found["result"]["workers_stopped"] == 1
    assert machines.there.processes() == []
    # What a person or another tool has put there stays; so do models and engines.
    mine = machines.there.paths.data / "mine.txt"
    mine.write_text("x")
    found = job(machines.url, HiveUninstall(hive_id="there"))
    assert found["state"] == "completed", found
    left = {p.relative_to(machines.there.root).parts[0] for p in machines.there.root.rglob("*") if p.is_file()}
    assert mine.exists() and "config" not in left and left <= {*PLACES}
    assert job(machines.url, HiveStart(hive_id="there"))["error"]["code"] == "no_release"
    # Installed again: it gets token and settings from the queen, until the next apply gives it all of them.
    machines.release()
    found = job(machines.url, HiveStart(hive_id="there"))
    assert found["state"] == "completed", found["error"]
    settings = codec.decode(HiveConfig, machines.there.paths.hive_config.read_bytes())
    assert (settings.hive_id, settings.listen) == ("there", machines.remote_url.removeprefix("http://"))
    assert machines.there.paths.hive_config.stat().st_mode & 0o777 == 0o600
