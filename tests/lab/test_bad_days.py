# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong while an apply runs: it says so, leaves nothing half, and the next one does the rest."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import shipped, ssh_config
from rbee.adapters.installer import RealInstaller
from rbee.adapters.paths import Paths
from rbee.adapters.ssh import SshShell
from rbee.core.spec import Ssh
from rbee.fleet import facts
from tests.support.rbee_cli import Ran
from tests.support.waiting import until

from .fleet import Fleet, fleet_of
from .lab import Lab

HOSTS = ("h1", "h2", "h3")


@pytest.fixture(scope="module")
def fleet(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One for all tests here: each leaves it applied."""
    with fleet_of(lab, tmp_path_factory.mktemp("days")) as made:
        yield made


def ends(ran: Ran, status: str) -> dict[str, dict[str, Any]]:
    return {e["action"]: e for e in ran.events if e["type"] == "action_end" and e["status"] == status}


def test_a_queen_that_dies_during_an_apply(fleet: Fleet) -> None:
    """Workers are spawned all the same; registering fails in clear words, and the next apply mends it."""
    fleet.write(("h1",))
    applying = fleet.applying()
    applying.until("action_end", kind="queen.start", status="done")
    [queen] = [p for p in fleet.home.processes() if "queen" in p.cmdline()]
    queen.kill()
    queen.wait(10)
    ran = applying.end(1)
    assert list(ends(ran, "failed")) == ["hive.register h1"]
    assert "The queen does not answer any more" in ends(ran, "failed")["hive.register h1"]["error"]
    assert "worker.spawn w-h1-0 on h1" in ends(ran, "done")
    before = fleet.pids("h1")
    again = fleet.apply(0, "-o", "json")
    assert set(ends(again, "done")) == {"queen.start queen", "hive.register h1"}
    assert fleet.asks_well("h1").hive == "h1"
    assert fleet.pids("h1") == before


def test_a_machine_that_loses_power_during_its_install(fleet: Fleet) -> None:
    """The others are done meanwhile; it is told as unreachable; on again, the next apply finishes it."""
    fleet.write(HOSTS)
    applying = fleet.applying()
    applying.until("action_progress", kind="hive.install", hive="h3")
    fleet.lab.kill("h3")
    try:
        ran = applying.end(1)
    finally:
        fleet.lab.boot("h3")
    assert ends(ran, "failed")["hive.install h3"]["code"] == "unreachable"
    assert "worker.spawn w-h3-0 on h3" in ends(ran, "skipped")
    assert fleet.asks_well("h2").hive == "h2"
    fleet.apply()
    assert fleet.asks_well("h3").hive == "h3"


def test_ctrl_c_during_an_install_and_a_second_apply_meanwhile(fleet: Fleet) -> None:
    """A machine set up anew, its install interrupted: what has begun is ended in order, nothing new begins."""
    fleet.lab.reimage("h2")
    applying = fleet.applying()
    applying.until("action_progress", kind="hive.install", hive="h2")
    second = fleet.apply(1)
    assert f"(pid {applying.process.pid}) since 20" in second.err
    assert "`rbee apply` of" in second.err
    applying.interrupt()
    ran = applying.end(130)
    assert "hive.start h2" in ends(ran, "skipped")
    assert "interrupted" in ends(ran, "skipped")["hive.start h2"]["error"]
    assert fleet.pids("h2") == {"hive": [], "worker": [], "engine": []}
    fleet.apply()
    assert fleet.asks_well("h2").hive == "h2"


def test_a_saved_plan_is_refused_when_a_machine_has_changed(fleet: Fleet) -> None:
    text = fleet.home.yaml.read_text()
    fleet.home.yaml.write_text(text.replace("w-h1: {model: m-h1,", "w-h1: {replicas: 2, model: m-h1,"))
    plan = fleet.home.root / "saved.plan"
    fleet.plan("--out", str(plan))
    before = fleet.pids("h1")
    fleet.lab.hosts["h2"].kill(fleet.pids("h2")["hive"][0], signal.SIGKILL)
    ran = fleet.home.run("apply", str(plan), rc=1)
    assert "stale" in ran.err and "rbee plan --out" in ran.err
    assert fleet.pids("h1") == before
    fleet.plan("--out", str(plan))
    fleet.home.run("apply", str(plan), rc=0, timeout=300)
    assert len(fleet.pids("h1")["worker"]) == 2
    fleet.home.yaml.write_text(text)
    fleet.apply()


def test_a_broken_file_from_here_is_told_with_the_reason_and_a_good_one_mends_it(fleet: Fleet) -> None:
    """What no engine would read is told by the hive, and what was there goes on serving; what only the engine
    finds out is the worker's reason, in its own words."""
    model, good = fleet.home.root / "mine.gguf", shipped.builtin_model("bee-tiny").read_bytes()
    fleet.write(HOSTS, sources={"h1": f"file:{model}"})
    for broken, subject, reason in (
        (b"no model at all", "models.m-h1@h1", "GGUF"),
        (good[: len(good) // 2], "models.m-h1@h1", "is cut short"),
        (good.replace(b"llama", b"llamx"), "workers.w-h1-0", "unknown model architecture: 'llamx'"),
    ):
        model.write_bytes(broken)
        [failed] = ends(fleet.apply(1, "-o", "json"), "failed").values()
        assert failed["subject"] == subject and reason in failed["error"], failed
        assert fleet.ask("h1").status == (200 if subject.startswith("models.") else 503)

    def shown() -> bool:
        """Apply has heard it from the hive; the queen does a moment later."""
        status = fleet.home.run("status").out
        return "failed" in status and "unknown model architecture" in status

    until(shown, "the queen to show that and why it failed")
    model.write_bytes(good)
    fleet.apply()
    assert fleet.asks_well("h1").hive == "h1"
    assert not [file for file in fleet.left("h1") if "/.incoming/" in file]
    fleet.write(HOSTS)
    fleet.apply()


def test_a_push_outlives_a_partition_and_goes_on_after_a_cut(lab: Lab, tmp_path: Path) -> None:
    """A short partition is waited out. After a lost connection only the rest is sent."""
    source, sent = tmp_path / "weights.bin", 60 * 2**20
    source.write_bytes(os.urandom(sent))
    shell, host = SshShell("h3", Ssh(host="h3"), ssh_config.load([lab.ssh_config])), lab.hosts["h3"]
    told: list[int] = []
    cut: list[int] = []

    def progress(done: int, total: int) -> None:
        told.append(done)
        if len(told) == 40:
            lab.partition("h3")
            threading.Timer(2.0, lab.heal, ["h3"]).start()
        if done > sent // 2 and not cut:
            for process in host.processes():
                if process.argv[0].startswith("sshd") and ": bee" in process.argv[0]:
                    os.kill(process.outer, signal.SIGKILL)
                    cut.append(process.pid)

    installer = RealInstaller(Paths.of_environment())
    try:
        seen = facts.observe(shell).facts
        installer.push(shell, seen, source, "/home/bee/weights.bin", progress)
    finally:
        shell.close()
    # What was under way is sent again, if anything was, and nothing of what had arrived.
    after = [done for before, done in pairwise(told) if done < before]
    assert cut and len(after) <= 1 and all(done > sent // 4 for done in after), (cut, after)
    arrived = host.exec(["sha256sum", "/home/bee/weights.bin"]).stdout.split()[0]
    here = hashlib.sha256(source.read_bytes()).hexdigest()
    host.exec(["rm", "/home/bee/weights.bin"])
    assert arrived == here


def test_another_fleets_hive_is_left_alone(fleet: Fleet, tmp_path: Path) -> None:
    before = {h: (fleet.pids(h), fleet.left(h)) for h in ("h1",)}
    with fleet_of(fleet.lab, tmp_path / "other", wipe=False) as other:
        other.write(("h1",), name="other")
        ran = other.apply(1)
        assert "Hive 'h1' belongs to the fleet" in ran.out + ran.err
        other.home.run("destroy", "--auto-approve")
    assert {h: (fleet.pids(h), fleet.left(h)) for h in ("h1",)} == before
    assert fleet.asks_well("h1").hive == "h1"
    assert "No changes" in fleet.apply().out
