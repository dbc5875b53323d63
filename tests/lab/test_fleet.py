# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply over real SSH to real hosts: first, second, drift, and the deaths that a fleet must survive."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import until

from .fleet import Fleet, fleet_of
from .lab import Lab

HOSTS = ("h1", "h2", "h3")


@pytest.fixture(scope="module")
def applied(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(lab, tmp_path_factory.mktemp("fleet")) as fleet:
        fleet.write(HOSTS)
        fleet.apply()
        yield fleet


def test_each_host_answers(applied: Fleet) -> None:
    for host in HOSTS:
        answer = applied.asks_well(host)
        assert answer.hive == host
        assert answer.text.rstrip()[-1] in ".!?"


def test_applying_again_changes_nothing_and_starts_nothing(applied: Fleet) -> None:
    before = {host: applied.pids(host) for host in HOSTS}
    assert all(len(pids) == 1 for found in before.values() for pids in found.values()), before
    assert "No changes" in applied.apply().out
    assert {host: applied.pids(host) for host in HOSTS} == before


def test_only_the_drifted_host_is_touched(applied: Fleet) -> None:
    before = applied.pids("h1")
    text = applied.home.yaml.read_text()
    drifted = text.replace("hive: h2, device: cpu, options: {context_length: 256}", "hive: h2, device: cpu")
    assert drifted != text
    applied.home.yaml.write_text(drifted)
    ran = applied.apply()
    assert "Plan: 0 to add, 1 to change, 1 to replace, 0 to remove." in ran.out
    assert applied.pids("h1") == before
    assert applied.asks_well("h2").hive == "h2"


def test_the_token_is_on_the_hosts_and_nobody_elses(applied: Fleet) -> None:
    host = applied.lab.hosts["h1"]
    mode = host.exec(["stat", "-c", "%a", "/home/bee/.config/rbee/token"]).stdout.strip()
    token = host.read_file(".config/rbee/token").strip()
    assert mode == "600" and len(token) > 30
    assert not [p for p in host.processes() if token in " ".join(p.argv)]
    assert token not in applied.logs("h1")
    asked = applied.lab.hosts["h2"].exec(["python3", "-c", _STATUS, f"http://{host.ip}:7835/capabilities"])
    assert asked.stdout.strip().splitlines()[-1] == "401"


_STATUS = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1]).status)
except urllib.error.HTTPError as e:
    print(e.code)
"""


def test_kill_9_of_an_engine_is_healed_by_its_worker(applied: Fleet) -> None:
    before = applied.pids("h1")
    applied.lab.hosts["h1"].kill(before["engine"][0], signal.SIGKILL)
    applied.asks_well("h1")
    after = applied.pids("h1")
    assert after["worker"] == before["worker"] and after["engine"] != before["engine"]


def test_kill_9_of_a_worker_takes_its_engine_and_is_healed(applied: Fleet) -> None:
    before = applied.pids("h1")
    applied.lab.hosts["h1"].kill(before["worker"][0], signal.SIGKILL)
    until(lambda: before["engine"][0] not in applied.pids("h1")["engine"], "the engine to end", 10)
    until(lambda: "No changes" in applied.apply(None).out, "an apply that has nothing left to do", 60)
    assert applied.asks_well("h1").hive == "h1"
    assert applied.pids("h1")["worker"] != before["worker"]


def test_kill_9_of_a_hive_leaves_workers_serving_and_is_healed_by_the_next_apply(applied: Fleet) -> None:
    before = applied.pids("h1")
    applied.lab.hosts["h1"].kill(before["hive"][0], signal.SIGKILL)
    assert applied.asks_well("h1", 5).hive == "h1"
    ran = applied.apply()
    assert "hive.start h1: ok" in ran.out + ran.err
    after = applied.pids("h1")
    assert (after["worker"], after["engine"]) == (before["worker"], before["engine"])
    assert after["hive"] != before["hive"]
    assert "No changes" in applied.apply().out


def test_a_host_that_is_down_is_unknown_and_the_others_are_applied(applied: Fleet) -> None:
    """Nothing of it is removed, the rest is done, the exit code is 1; and when it is back, nothing was lost."""
    before = applied.pids("h3")
    text = applied.home.yaml.read_text()
    applied.lab.partition("h3")
    try:
        applied.home.yaml.write_text(text.replace("w-h1: {model: m-h1,", "w-h1: {replicas: 2, model: m-h1,"))
        ran = applied.apply(1)
        assert "Hive 'h3' could not be observed" in ran.out + ran.err
        assert "worker.spawn w-h1-1 on h1: ok" in ran.out + ran.err
        assert " - " not in ran.out
        assert applied.asks_well("h1").hive == "h1"
    finally:
        applied.lab.heal("h3")
        applied.home.yaml.write_text(text)
    until(lambda: applied.apply(None).rc == 0, "an apply of all", 60)
    assert applied.pids("h3") == before
    assert applied.asks_well("h3").hive == "h3"


def test_a_queen_that_died_is_started_by_the_next_apply_and_finds_all(applied: Fleet) -> None:
    before = {host: applied.pids(host) for host in HOSTS}
    [queen] = [p for p in applied.home.processes() if "queen" in p.cmdline()]
    queen.kill()
    queen.wait(10)
    ran = applied.apply()
    assert "queen.start queen: ok" in ran.out + ran.err
    for host in HOSTS:
        applied.asks_well(host)
    assert {host: applied.pids(host) for host in HOSTS} == before


def test_a_hive_dropped_from_the_file_is_cleaned_up(applied: Fleet) -> None:
    applied.write(("h1", "h2"))
    applied.apply()
    assert applied.pids("h3") == {"hive": [], "worker": [], "engine": []}
    host = applied.lab.hosts["h3"]
    left = host.exec(["sh", "-c", "find /home/bee -path '*rbee*' -type f | grep -v '\\.log$' || true"]).stdout.split()
    assert left == []
    assert "No changes" in applied.apply().out


def test_destroy_leaves_nothing_of_the_fleet(applied: Fleet) -> None:
    applied.home.run("destroy", "--auto-approve", rc=0)
    for host in ("h1", "h2"):
        assert applied.pids(host) == {"hive": [], "worker": [], "engine": []}
        found = applied.lab.hosts[host].exec(
            ["sh", "-c", "ls -A /home/bee/.cache/rbee/models /home/bee/.local/share/rbee"], check=False
        )
        assert "m-h1" not in found.stdout
    assert not applied.home.processes()


def test_the_home_is_left_to_its_owner(applied: Fleet, tmp_path: Path) -> None:
    """Whatever bears no mark stays: here a model that someone else put beside ours."""
    applied.write(("h1",))
    applied.apply()
    host = applied.lab.hosts["h1"]
    host.write_file(".cache/rbee/models/mine/notes.txt", "my own")
    applied.home.run("destroy", "--auto-approve", rc=0)
    assert host.read_file(".cache/rbee/models/mine/notes.txt") == "my own"
