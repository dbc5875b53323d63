# SPDX-License-Identifier: GPL-3.0-or-later
"""What the queen does with hives on real hosts over SSH: stop, start, uninstall, install; and the end of all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.waiting import until

from .fleet import Fleet, fleet_of
from .lab import Lab

HOSTS = ("h1", "h2")
NOTHING: dict[str, list[int]] = {"hive": [], "worker": [], "engine": []}


@pytest.fixture(scope="module")
def applied(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(lab, tmp_path_factory.mktemp("fleet")) as fleet:
        fleet.write(HOSTS)
        fleet.apply()
        yield fleet


def test_a_hive_is_stopped_alone_and_its_worker_serves_on(applied: Fleet) -> None:
    before = applied.pids("h1")
    applied.home.run("hive", "stop", "h1", rc=0)
    after = applied.pids("h1")
    assert (after["hive"], after["worker"]) == ([], before["worker"])
    assert applied.asks_well("h1").hive == "h1"
    told = applied.home.run("hive", "start", "h1", rc=0)
    assert "10." in told.out + told.err or "http://" in told.out
    assert applied.pids("h1")["worker"] == before["worker"]
    assert "No changes" in applied.apply().out


def test_a_hive_is_stopped_with_its_workers_and_apply_brings_all_back(applied: Fleet) -> None:
    applied.home.run("hive", "stop", "h1", "--workers", rc=0)
    until(lambda: applied.pids("h1") == NOTHING, "nothing of it to be left")
    assert applied.asks_well("h2").hive == "h2"
    assert applied.apply().rc == 0
    assert applied.asks_well("h1").hive == "h1"


def test_a_machine_is_emptied_and_installed_again(applied: Fleet) -> None:
    applied.home.run("hive", "uninstall", "h1", rc=0, timeout=180)
    assert applied.pids("h1") == NOTHING
    assert not [x for x in applied.left("h1") if "/releases/" in x or x.endswith("/token")]
    ran = applied.home.run("hive", "start", "h1", rc=1)
    assert "No release of this fleet" in ran.out + ran.err
    applied.home.run("hive", "install", "h1", rc=0, timeout=180)
    applied.home.run("hive", "start", "h1", rc=0)
    mode = applied.lab.hosts["h1"].exec(["stat", "-c", "%a", "/home/bee/.config/rbee/token"]).stdout.strip()
    assert mode == "600"
    assert applied.apply().rc == 0
    assert applied.asks_well("h1").hive == "h1"


def test_a_host_that_is_away_is_told_and_the_rest_of_the_fleet_ends(applied: Fleet) -> None:
    applied.lab.partition("h2")
    try:
        ran = applied.home.run("queen", "stop", "--cascade", rc=1, timeout=240)
    finally:
        applied.lab.heal("h2")
    assert "h2" in ran.out
    assert applied.pids("h1") == NOTHING
    assert applied.home.processes() == []
    assert all(len(x) == 1 for x in applied.pids("h2").values())
    assert applied.apply().rc == 0
    for host in HOSTS:
        assert applied.asks_well(host).hive == host


def test_nothing_is_left_of_the_whole_fleet(applied: Fleet) -> None:
    ran = applied.home.run("queen", "stop", "--cascade", rc=0, timeout=240)
    assert "The queen is stopped." in ran.out
    assert applied.home.processes() == []
    for host in HOSTS:
        assert applied.pids(host) == NOTHING
    assert applied.apply().rc == 0
    for host in HOSTS:
        assert applied.asks_well(host).hive == host
