# SPDX-License-Identifier: GPL-3.0-or-later
"""Two queens on one PostgreSQL, as real processes: one of them is killed, the other goes on for both."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.paths import write_atomic
from rbee.contracts import codec
from rbee.contracts.operations import wire
from rbee.contracts.operations.workers import WorkerLogs
from tests.support.fleet_processes import Daemon, Fleet, Home, Stream, ask, fleet_in
from tests.support.mock_engine import event
from tests.support.ports import free_port
from tests.support.postgres import PASSWORD, Cluster
from tests.support.waiting import until

WHOLE = "".join(event(i).decode() for i in range(40)) + "data: [DONE]\n\n"


@dataclasses.dataclass
class Two:
    fleet: Fleet
    other: Daemon

    @property
    def hive(self) -> str:
        return self.fleet.hives["h1"].url


@pytest.fixture
def two(tmp_path: Path, postgres: Cluster) -> Iterator[Two]:
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    store: dict[str, Any] = {"store": postgres.url(asyncio.run(postgres.make())), "store_password_file": str(password)}
    with fleet_in(tmp_path, "h1", **store) as fleet:
        other = Daemon("queen", Home(tmp_path / "other"), f"http://127.0.0.1:{free_port()}")
        config = dataclasses.replace(fleet.config, listen=other.url.removeprefix("http://"))
        write_atomic(other.home.paths.queen_config, codec.encode_pretty(config), 0o600)
        try:
            other.start()
            yield Two(fleet, other)
        finally:
            other.home.end_all()
            if other.process is not None:
                other.process.wait()


def follow(url: str) -> str:
    """A job that goes on at the hive until somebody cancels it."""
    return str(ask(f"{url}/v1/jobs", wire(WorkerLogs(hive_id="h1", worker_id="w-h1", follow=True)))["job_id"])


def running(url: str) -> set[str]:
    return {x["job_id"] for x in ask(f"{url}/v1/jobs?state=running")["jobs"]}


def state(url: str, job_id: str) -> Any:
    return ask(f"{url}/v1/jobs/{job_id}")["state"]


def test_when_one_is_killed_the_other_serves_and_has_her_jobs(two: Two) -> None:
    first, other = two.fleet.queen, two.other
    until(lambda: ask(f"{other.url}/readyz")["workers_ready"] == 1, "the other queen to know the worker")
    jobs = [follow(first.url) for _ in range(3)]
    until(lambda: running(two.hive) and len(running(two.hive)) == 3, "the hive's part of the jobs")
    until(lambda: all(ask(f"{other.url}/v1/jobs/{x}")["child"] for x in jobs), "the store to have their names there")
    stream = Stream(other.url, tokens=40, interval=0.02)
    begun = stream.line()
    first.kill()
    assert begun + stream.rest() == WHOLE, "what went through the other is untouched"
    assert Stream(other.url, tokens=40).rest() == WHOLE

    assert {state(other.url, x) for x in jobs} == {"running"}
    ask(f"{other.url}/v1/jobs/{jobs[0]}", method="DELETE", timeout=60)
    until(lambda: state(other.url, jobs[0]) == "cancelled", "the job of a dead queen to be cancelled", 60)
    until(lambda: len(running(two.hive)) == 2, "its part at the hive to end")

    first.start()
    two.fleet.well()
    assert running(first.url) == running(other.url) == set(jobs[1:]), "none is lost, none is begun again"
    assert len(running(two.hive)) == 2
    for job_id, queen in zip(jobs[1:], (first, other), strict=True):
        ask(f"{queen.url}/v1/jobs/{job_id}", method="DELETE", timeout=60)
    until(lambda: {state(first.url, x) for x in jobs} == {"cancelled"}, "all to be cancelled", 60)
    until(lambda: not running(two.hive), "all of them at the hive too")
    assert Stream(first.url, tokens=40).rest() == WHOLE
