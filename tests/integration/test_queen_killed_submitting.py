# SPDX-License-Identifier: GPL-3.0-or-later
"""A queen, a real process, dies or hears nothing in the moment in which a hive takes a job of hers: it is found."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee.contracts.configs import KnownHive
from rbee.contracts.operations import wire
from rbee.contracts.operations.workers import WorkerLogs
from tests.support.fleet_processes import Fleet, ask, fleet_in
from tests.support.holding_door import Door, door_before
from tests.support.waiting import until


@pytest.fixture(scope="module")
def doored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Door]]:
    root: Path = tmp_path_factory.mktemp("fleet")
    with fleet_in(root, "h1") as fleet, door_before(fleet.hives["h1"].url) as door:
        fleet.settle(hives=(KnownHive(hive_id="h1", url=door.url),))
        fleet.queen.kill()
        fleet.queen.start()
        yield fleet, door


@pytest.fixture
def fleet(doored: tuple[Fleet, Door]) -> Iterator[Fleet]:
    """Nothing is held, and nothing runs there after."""
    fleet, door = doored
    fleet.well()
    yield fleet
    door.release()
    for job_id in at_hive(fleet):
        ask(f"{fleet.hives['h1'].url}/v1/jobs/{job_id}", method="DELETE")


@pytest.fixture
def door(doored: tuple[Fleet, Door]) -> Door:
    return doored[1]


def at_hive(fleet: Fleet) -> list[str]:
    """What runs there."""
    return [x["job_id"] for x in ask(f"{fleet.hives['h1'].url}/v1/jobs?state=running")["jobs"]]


def follow(fleet: Fleet) -> str:
    """A job that goes on at the hive until somebody cancels it."""
    return str(ask(f"{fleet.url}/v1/jobs", wire(WorkerLogs(hive_id="h1", worker_id="w-h1", follow=True)))["job_id"])


def told(fleet: Fleet, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(f"{fleet.url}/v1/jobs/{job_id}")
    return found


def restarted(fleet: Fleet) -> None:
    fleet.queen.kill()
    fleet.queen.start()


def is_the_child(fleet: Fleet, job_id: str, child: str) -> None:
    """It runs as `child`, alone, and a cancel reaches that."""
    found = told(fleet, job_id)
    assert (found["state"], found["child"]) == ("running", {"hive_id": "h1", "job_id": child}), found["error"]
    with_events = f"{fleet.url}/v1/jobs/{job_id}/stream?follow=false"
    until(lambda: child in _text(with_events), "the child's events to be told")
    assert at_hive(fleet) == [child]
    assert ask(f"{fleet.url}/v1/jobs/{job_id}", method="DELETE", timeout=60)["state"] == "cancelled"
    until(lambda: not at_hive(fleet), "the child to end")


def _text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def test_what_a_hive_took_from_a_queen_who_died_before_its_answer_is_followed(fleet: Fleet, door: Door) -> None:
    door.hold("answers")
    job_id = follow(fleet)
    (child,) = until(lambda: at_hive(fleet), "the hive to begin")
    restarted(fleet)
    door.release()
    is_the_child(fleet, job_id, child)


def test_what_a_hive_never_heard_of_is_interrupted_and_never_begins(fleet: Fleet, door: Door) -> None:
    before = {x["job_id"] for x in ask(f"{fleet.hives['h1'].url}/v1/jobs?limit=1000")["jobs"]}
    door.hold("loses")
    job_id = follow(fleet)
    until(lambda: any(x.startswith("POST /v1/jobs ") for x in door.lines), "the queen to ask")
    restarted(fleet)
    found = until(lambda: _ended(fleet, job_id), "the job to end")
    assert (found["state"], found["error"]["code"], found["child"]) == ("failed", "interrupted", None)
    assert "knows nothing of it" in found["error"]["error"]
    assert {x["job_id"] for x in ask(f"{fleet.hives['h1'].url}/v1/jobs?limit=1000")["jobs"]} == before


def test_what_comes_to_the_hive_after_its_queen_has_died_is_found_too(fleet: Fleet, door: Door) -> None:
    door.hold("requests")
    job_id = follow(fleet)
    until(lambda: any(x.startswith("POST /v1/jobs ") for x in door.lines), "the queen to ask")
    restarted(fleet)
    until(lambda: sum("/stream" in x for x in door.lines) > 1, "her to look for it, and to look again")
    door.release()
    (child,) = until(lambda: at_hive(fleet), "the hive to begin")
    until(lambda: child in _text(f"{fleet.url}/v1/jobs/{job_id}/stream?follow=false"), "the child to be found")
    is_the_child(fleet, job_id, child)


def test_an_answer_that_is_lost_loses_no_job(fleet: Fleet, door: Door) -> None:
    door.hold("cuts")
    job_id = follow(fleet)
    (child,) = until(lambda: at_hive(fleet), "the hive to begin")
    is_the_child(fleet, job_id, child)


def test_a_cancel_ends_what_nobody_has_told_of_yet(fleet: Fleet, door: Door) -> None:
    door.hold("answers")
    job_id = follow(fleet)
    until(lambda: at_hive(fleet), "the hive to begin")
    assert ask(f"{fleet.url}/v1/jobs/{job_id}", method="DELETE", timeout=60)["state"] == "cancelled"
    until(lambda: not at_hive(fleet), "the child to end")


def _ended(fleet: Fleet, job_id: str) -> dict[str, Any] | None:
    found = told(fleet, job_id)
    return found if found["state"] not in ("queued", "running") else None
