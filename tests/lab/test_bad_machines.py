# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that lack something, refuse something, or are not who they were: told at plan time, with the mend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rbee_cli import Ran

from .fixtures import lab_or_skip
from .fleet import Fleet, fleet_of
from .lab import Lab

TRAITS = {"h2": "nopython", "h3": "nogomp", "h4": "home=64", "h5": "via:h1", "h6": "noforward", "h7": "home=400"}
NOBODY: dict[str, list[int]] = {"hive": [], "worker": [], "engine": []}


@pytest.fixture(scope="module")
def bad() -> Iterator[Lab]:
    with lab_or_skip(7, TRAITS) as made:
        yield made


@pytest.fixture(scope="module")
def applied(bad: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Ran]]:
    """One apply of all that have something wrong with them, and of one that has not."""
    with fleet_of(bad, tmp_path_factory.mktemp("bad"), wipe=False) as fleet:
        fleet.write(("h1", "h2", "h3", "h4", "h5", "h6"))
        yield fleet, fleet.apply(1, "-o", "json")


@pytest.fixture
def fleet(bad: Lab, tmp_path: Path) -> Iterator[Fleet]:
    """One of the test's own; what it leaves on h7 is for the test to know."""
    with fleet_of(bad, tmp_path / "home", wipe=False) as made:
        yield made


def only_problem(ran: Ran, subject: str) -> dict[str, Any]:
    [problem] = [e for e in ran.events if e["type"] == "problem" and e["subject"] == subject]
    return problem


def planned(ran: Ran, hive: str) -> set[str]:
    return {e["kind"] for e in ran.events if e["type"] == "planned_action" and e["hive"] == hive}


# ------------------------------------------------------------ ssh says no


def test_who_cannot_be_trusted_or_refuses_us_is_unknown(fleet: Fleet) -> None:
    """A refused login, a changed host key and an unknown one: each says what to look at, nothing is done there."""
    known = fleet.lab.home / ".ssh/known_hosts"
    fleet.lab.rekey("h3")
    lines = [line for line in known.read_text().splitlines() if not line.startswith("h6,")]
    known.write_text("\n".join(lines) + "\n")
    number = next(i for i, line in enumerate(lines, 1) if line.startswith("h3,"))
    try:
        fleet.write(("h1", "h3", "h6"), ssh={"h1": "{host: h1, user: stranger}"})
        ran = fleet.apply(1, "-o", "json")
    finally:
        fleet.lab.trust()
    told = {h: only_problem(ran, f"hives.{h}") for h in ("h1", "h3", "h6")}
    assert all("could not be observed" in problem["summary"] for problem in told.values())
    assert "refuses to let 'stranger' in" in told["h1"]["detail"]
    assert str(fleet.lab.home / ".ssh/id_ed25519") in told["h1"]["detail"]
    assert "ssh-copy-id" in told["h1"]["mend"]
    assert "CHANGED" in told["h3"]["detail"] and f"{known}:{number}" in told["h3"]["detail"]
    assert f"ssh-keygen -R '{fleet.lab.hosts['h3'].ip}' -f {known}" in told["h3"]["mend"]
    assert "is not known" in told["h6"]["detail"] and "SHA256:" in told["h6"]["detail"]
    assert [fleet.left(h) for h in ("h1", "h3", "h6")] == [[], [], []]


# ------------------------------------------------------------ what machines lack


def test_the_others_are_applied(applied: tuple[Fleet, Ran]) -> None:
    fleet, ran = applied
    assert [e for e in ran.events if e["type"] == "action_end" and e["status"] != "done"] == []
    assert fleet.asks_well("h1").hive == "h1"


def test_without_python_nothing_is_done(applied: tuple[Fleet, Ran]) -> None:
    fleet, ran = applied
    problem = only_problem(ran, "hives.h2")
    assert problem["summary"] == "Hive 'h2' has no Python 3.10 or newer"
    assert "apt install python3" in problem["mend"]
    assert planned(ran, "h2") == set()
    assert fleet.left("h2") == []


def test_without_libgomp_the_package_is_named_and_no_engine_goes_there(applied: tuple[Fleet, Ran]) -> None:
    fleet, ran = applied
    problem = only_problem(ran, "workers.w-h3-0")
    assert "libgomp.so.1" in problem["summary"]
    assert "apt-get install libgomp1" in problem["mend"]
    assert planned(ran, "h3") == {"hive.install", "hive.start", "hive.register"}
    found = fleet.pids("h3")
    assert len(found["hive"]) == 1 and not found["worker"]


def test_a_small_home_is_told_once_and_left_alone(applied: tuple[Fleet, Ran]) -> None:
    fleet, ran = applied
    problem = only_problem(ran, "hives.h4")
    assert problem["summary"] == "Hive 'h4' has too little disk"
    assert "MB free; rbee needs 200 MB" in problem["detail"]
    assert fleet.left("h4") == []


def test_behind_a_jump_host_the_way_back_is_asked_for(applied: tuple[Fleet, Ran]) -> None:
    """It is seen through ssh's ProxyJump; but it knows no address of the queen, and she none of its."""
    fleet, ran = applied
    problem = only_problem(ran, "hives.h5")
    assert problem["summary"] == "Hive 'h5' knows no way to the queen"
    assert "queen.advertise" in problem["mend"]
    assert planned(ran, "h5") == set()
    assert fleet.left("h5") == []


def test_where_sshd_forbids_forwarding_the_hive_is_reached_plainly(applied: tuple[Fleet, Ran]) -> None:
    fleet, ran = applied
    assert "worker.spawn" in planned(ran, "h6")
    assert fleet.asks_well("h6").hive == "h6"
    assert "Administratively" not in ran.err + ran.out


def test_a_second_apply_has_only_the_problems_left(applied: tuple[Fleet, Ran]) -> None:
    fleet, _ = applied
    before = {h: fleet.pids(h) for h in ("h1", "h3", "h6")}
    ran = fleet.apply(1)
    assert "Nothing to do beside" in ran.out
    assert {h: fleet.pids(h) for h in ("h1", "h3", "h6")} == before


# ------------------------------------------------------------ disks


def test_a_disk_that_fills_up_under_an_apply(fleet: Fleet) -> None:
    """During an install nothing half stays, and the next apply does the rest; a file that will not fit is not
    begun, with the figures told, and what ran before goes on."""
    fleet.write(("h7",))
    applying = fleet.applying()
    applying.until("action_progress", kind="hive.install", hive="h7")
    fleet.lab.freeze("h7")
    fleet.lab.fill("h7")
    fleet.lab.heal("h7")
    ran = applying.end(1)
    failed = [e for e in ran.events if e["type"] == "action_end" and e["status"] == "failed"]
    assert [(e["action"], e["code"]) for e in failed] == [("hive.install h7", "disk_full")], failed
    assert "No space left on device" in failed[0]["error"]
    assert "Free some space" in failed[0]["mend"]
    assert not [path for path in fleet.left("h7") if path.endswith(".part") or "/releases/" in path], fleet.left("h7")
    fleet.lab.unfill("h7")
    fleet.apply()
    assert fleet.asks_well("h7").hive == "h7"

    model = fleet.home.root / "big.gguf"
    model.write_bytes(b"GGUF" + bytes(40 * 2**20))
    fleet.write(("h7",), sources={"h7": f"file:{model}"})
    fleet.lab.fill("h7", leave=20 * 2**20)
    ran = fleet.apply(1, "-o", "json")
    [end] = [e for e in ran.events if e["type"] == "action_end" and e["kind"] == "model.push"]
    assert end["code"] == "disk_full"
    assert "40 MB are needed and" in end["error"] and "MB are free on" in end["error"]
    assert not [e for e in ran.events if e["type"] == "action_progress"]
    assert fleet.asks_well("h7").hive == "h7"
