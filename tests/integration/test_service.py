# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons of a machine, over SSH: started, found again, restarted, stopped; and the whole way from a bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.bundles import PipBundler
from rbee.adapters.hive_api import HttpHiveApi
from rbee.adapters.installer import RealInstaller
from rbee.adapters.paths import Paths
from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig, config_digest
from rbee.contracts.operations.hives import HiveCheck
from rbee.core.records import Mark
from rbee.fleet import commands
from rbee.fleet.facts import answer, observe
from rbee.fleet.ports import Target
from tests.support.machine import VARIABLES, Machine
from tests.support.sshd import Sshd

CONFIG = HiveConfig(hive_id="one", fleet="test", listen="127.0.0.1:0", release="r1")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    made = Sshd.make(tmp_path / "ssh")
    yield made
    made.stop()


@pytest.fixture
def machine(sshd: Sshd, tmp_path: Path) -> Iterator[Machine]:
    made = Machine.make(sshd, "one", tmp_path / "one")
    write_config(made, CONFIG)
    yield made
    done = made.shell.run(service("stop"), env={"PYTHONPATH": str(REPOSITORY)})
    made.shell.close()
    assert done.ok, done


def write_config(machine: Machine, config: HiveConfig) -> None:
    path = machine.home / "config" / "rbee" / "hive.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(codec.encode_pretty(config))


def service(verb: str, python: str = sys.executable) -> list[str]:
    return commands.service(python, verb, "hive")


def ask(machine: Machine, verb: str) -> dict[str, Any]:
    done = machine.shell.run(service(verb), env={"PYTHONPATH": str(REPOSITORY)}, timeout=60)
    return answer(done)


def test_a_hive_is_started_once_outlives_the_connection_and_is_found_again(machine: Machine) -> None:
    assert ask(machine, "status") == {"state": "stopped"}
    started = ask(machine, "start")
    assert started["state"] == "running" and started["release"] == "r1" and started["supervisor"] == "detached"
    again = ask(machine, "start")
    assert again["pid"] == started["pid"]
    assert os.getsid(started["pid"]) == started["pid"], "a session of its own"
    seen = observe(machine.shell, python=sys.executable)
    assert seen.facts.hive is not None and seen.facts.hive.alive and seen.facts.hive.pid == started["pid"]
    assert seen.facts.hive_config is not None and seen.facts.hive_config.digest == config_digest(CONFIG)
    assert seen.capabilities is not None and seen.capabilities.hive_id == "one"
    assert seen.capabilities.config_digest == config_digest(CONFIG)
    stopped = ask(machine, "stop")
    assert stopped["state"] == "stopped"
    facts = observe(machine.shell, python=sys.executable).facts
    assert facts.hive is None or not facts.hive.alive


def test_its_api_is_reached_over_ssh(machine: Machine) -> None:
    url = ask(machine, "start")["url"]
    api = HttpHiveApi(machine.shell, url, lambda: None)
    assert api.capabilities().fleet == "test"
    told: list[dict[str, Any]] = []
    assert api.run(HiveCheck(), told.append).hive_id == "one"
    assert told and all(e["job_id"] for e in told)


def test_a_restart_takes_the_new_settings(machine: Machine) -> None:
    first = ask(machine, "start")
    write_config(machine, HiveConfig(hive_id="one", fleet="test", listen="127.0.0.1:0", release="r2"))
    second = ask(machine, "restart")
    assert second["pid"] != first["pid"] and second["release"] == "r2"


def test_a_hive_that_was_killed_is_started_again(machine: Machine) -> None:
    first = ask(machine, "start")
    os.kill(first["pid"], signal.SIGKILL)
    assert ask(machine, "status") == {"state": "stopped"}
    facts = observe(machine.shell, python=sys.executable).facts
    assert facts.hive is not None and not facts.hive.alive
    second = ask(machine, "start")
    assert second.get("state") == "running" and second["pid"] != first["pid"], second


def test_a_hive_that_hangs_is_replaced(machine: Machine) -> None:
    first = ask(machine, "start")
    os.kill(first["pid"], signal.SIGSTOP)
    try:
        killed = subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {first['pid']}"])
        second = ask(machine, "restart")
    finally:
        killed.wait()
    assert second["state"] == "running" and second["pid"] != first["pid"]


def test_a_stranger_with_its_pid_is_left_alone(machine: Machine) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        start = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
        run = machine.home / "state" / "rbee" / "hive.run.json"
        run.parent.mkdir(parents=True)
        run.write_text(json.dumps({"pid": stranger.pid, "start_time": start, "url": "http://127.0.0.1:1"}))
        assert ask(machine, "stop")["state"] == "stopped"
        assert stranger.poll() is None
        stranger.kill()


def test_why_it_did_not_start_is_told_in_its_own_words(machine: Machine) -> None:
    (machine.home / "config" / "rbee" / "hive.json").write_text("{")
    told = ask(machine, "start")
    assert told["code"] == "start_failed" and "hive.json are wrong" in told["error"]
    assert str(machine.home / "state" / "rbee" / "hive.log") in told["mend"]


def test_a_start_leaves_a_line_in_crontab_and_a_stop_takes_it_away(machine: Machine, tmp_path: Path) -> None:
    """With a crontab program of the test's own, which keeps its table in a file as the real one does."""
    table, program = tmp_path / "table", tmp_path / "bin" / "crontab"
    table.write_text("0 5 * * * backup\n")
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nif [ "$1" = -l ]; then exec cat {table}; else exec cat >{table}; fi\n')
    program.chmod(0o755)
    environ = {"PYTHONPATH": str(REPOSITORY), "PATH": f"{program.parent}:{os.environ['PATH']}", "RBEE_SUPERVISOR": ""}
    has_systemd = subprocess.run(["systemctl", "--user", "show-environment"], capture_output=True).returncode == 0
    if has_systemd:
        pytest.skip("systemd --user works here, so crontab is not used")
    started = answer(machine.shell.run(service("start"), env=environ, timeout=60))
    assert started["state"] == "running", started
    backup, ours = table.read_text().splitlines()
    assert backup == "0 5 * * * backup" and ours.startswith("@reboot env ") and ours.endswith("# rbee:hive")
    assert f"{VARIABLES['state']}={machine.home / 'state'}" in ours
    assert answer(machine.shell.run(service("stop"), env=environ, timeout=60))["state"] == "stopped"
    assert table.read_text() == "0 5 * * * backup\n"


def test_from_a_bundle_to_a_running_hive(machine: Machine, tmp_path: Path) -> None:
    """The real release: wheels of the lock fetched, sent, installed; its own Python starts the hive."""
    paths = Paths(*(tmp_path / "controller" / name for name in ("config", "cache", "data", "state")))
    bundler, facts = PipBundler(paths), machine.facts
    bundle = bundler.release(Target.of(facts), Mark(fleet="test"))
    RealInstaller(paths).install(machine.shell, facts, bundle)
    (release,) = machine.facts.releases
    assert release.id == bundler.release_id and release.mark == Mark(fleet="test")
    started = answer(machine.shell.run(service("start", release.python), timeout=60))
    assert started["state"] == "running", started
    argv = Path(f"/proc/{started['pid']}/cmdline").read_bytes().split(b"\0")
    assert argv[0].decode() == release.python
    assert observe(machine.shell, python=sys.executable).capabilities is not None
    # The installed one knows itself by the same digest, and can be sent on as it is.
    said = "from rbee.adapters import own_wheel; print(own_wheel.release_id())"
    assert machine.shell.run([release.python, "-c", said]).out.decode().strip() == release.id
    # Made again without the network: everything is kept.
    again = PipBundler(paths).release(Target.of(facts), Mark(fleet="test"))
    assert [w.sha256 for w in again.wheels] == [w.sha256 for w in bundle.wheels]
    python = Path(release.python)
    gone = python.replace(python.with_suffix(".gone"))
    try:
        assert machine.facts.releases == (), "a release without its Python is none"
    finally:
        gone.replace(python)
