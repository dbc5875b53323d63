# SPDX-License-Identifier: GPL-3.0-or-later
"""The starter's parts by themselves: failures that hold back, events of spawns, and what could be started."""

from __future__ import annotations

from typing import Any

import pytest

from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import KnownHive, KnownWorker, QueenConfig
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.records import SystemInfo, WorkerRecord
from rbee.daemons.queen.known.hives import Hive
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.scaling.candidates import best_hope, coming, device_id, hope, runs, served
from rbee.daemons.queen.scaling.spawns import Spawn, Spawns
from rbee.daemons.queen.scaling.starter import Loading, Starter
from rbee.daemons.queen.scaling.troubles import Troubles


def beat(worker_id: str = "w", **changes: Any) -> WorkerHeartbeat:
    said: dict[str, Any] = {
        "worker_id": worker_id,
        "hive_id": "h1",
        "model": "m",
        "engine": "mock",
        "worker_type": "cpu",
        "device": "cpu",
        "url": "http://127.0.0.1:9300",
        "status": "ready",
    }
    return WorkerHeartbeat(**{**said, **changes})


def capabilities(worker_id: str) -> Capabilities:
    """Of a hive that has this worker."""
    url, at = "http://127.0.0.1:9300", "2026-01-01T00:00:00Z"
    worker = WorkerRecord(
        worker_id=worker_id,
        model="m",
        engine="mock",
        worker_type="cpu",
        device="cpu",
        port=9300,
        url=url,
        pid=1,
        status="ready",
        started_at=at,
    )
    system = SystemInfo(
        hostname="x", os="linux", arch="x86_64", cpu_cores=2, memory_total=1, memory_available=1, disk_free=1
    )
    return Capabilities(
        hive_id="h1",
        fleet="test",
        version="0",
        release="",
        config_digest="",
        started_at=at,
        url=url,
        system=system,
        workers=(worker,),
    )


def test_failures_hold_back_twice_as_long_each_time_up_to_a_bound() -> None:
    troubles, now, waits = Troubles(first=2.0, longest=10.0), 100.0, []
    for _ in range(5):
        found = troubles.note("w", "broken", now)
        waits.append(found.until - now)
        assert troubles.holds_back("w", found.until - 0.001)
        assert not troubles.holds_back("w", found.until)
        now = found.until
    assert waits == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert troubles.why("w") == "broken"
    assert troubles.why("other") is None
    troubles.over("w")
    assert (troubles.why("w"), troubles.holds_back("w", 0.0)) == (None, False)
    assert troubles.note("w", "again", 0.0).until == 2.0


def test_what_changed_is_held_back_no_more() -> None:
    troubles = Troubles()
    troubles.note("a", "x", 0.0)
    troubles.note("b", "x", 0.0)
    troubles.keep({"b"})
    assert (troubles.why("a"), troubles.why("b")) == (None, "x")


def test_a_spawn_hears_what_is_lacking() -> None:
    spawn = Spawn(WorkerSpawn(model="m", worker_id="w"), 0.0)
    spawn.heard({"event": "worker_spawn_memory", "predicted_mb": 300.5, "available_mb": 100})
    assert spawn.lacking_mb == 200.5
    assert not spawn.admitted.is_set()


def test_a_spawn_hears_how_far_it_is() -> None:
    spawn = Spawn(WorkerSpawn(model="m", worker_id="w"), 0.0)
    spawn.heard({"event": "worker_spawn_health_check", "progress": 0.25})
    assert (spawn.progress, spawn.lacking_mb) == (0.25, None)
    assert spawn.admitted.is_set()


@pytest.mark.parametrize("said", [None, "much", [1], {}, True])
def test_a_spawn_believes_only_numbers(said: Any) -> None:
    spawn = Spawn(WorkerSpawn(model="m"), 0.0)
    spawn.heard({"event": "worker_spawn_memory", "predicted_mb": said, "available_mb": 1.0})
    spawn.heard({"event": "worker_spawn_health_check", "progress": said})
    spawn.heard({})
    assert spawn.progress is None
    assert spawn.lacking_mb is None


def test_spawns_are_found_by_model_and_worker_until_they_are_over() -> None:
    spawns = Spawns(lambda: 7.0)
    one = spawns.open(WorkerSpawn(model="m", worker_id="w"))
    two = spawns.open(WorkerSpawn(model="m"))
    assert list(spawns.of_model("m")) == [one, two]
    assert (spawns.of_worker("w"), spawns.of_worker(""), one.began) == (one, None, 7.0)
    spawns.close(one)
    spawns.close(one)
    assert list(spawns.of_model("m")) == [two]
    spawns.close(two)
    assert list(spawns.of_model("m")) == []


@pytest.mark.parametrize(
    ("kind", "index", "found"), [("cpu", 0, "cpu"), ("cuda", 0, "cuda:0"), ("metal", 1, "metal:1")]
)
def test_devices_are_called_as_hives_call_them(kind: str, index: int, found: str) -> None:
    assert device_id(kind, index) == found


def test_who_runs_and_who_comes_by_itself() -> None:
    registry = Registry(lambda: 0.0)
    worker = registry.heartbeat(beat(status="starting"))
    assert worker is not None
    assert (runs(worker, None), coming(worker)) == (True, True)
    registry.drop("w", "does not answer: refused")  # it does not listen yet
    assert (runs(worker, None), coming(worker)) == (True, True)
    registry.drop("w", "failed: its engine ended")
    assert (runs(worker, None), coming(worker)) == (False, False)
    for status in ("unloaded", "failed", "dead", "stopping"):
        gone = registry.heartbeat(beat(status=status, started_at="2"))
        assert gone is not None
        assert (runs(gone, None), coming(gone)) == (False, False)


def _changed(**changes: Any) -> Worker:
    worker = Worker(beat(status=changes.get("status", "ready")), 0.0, trusted=True)
    worker.held = bool(changes.get("held"))
    worker.unreachable = changes.get("unreachable")
    return worker


REFUSED = "unreachable: connection refused"


@pytest.mark.parametrize(
    ("worker", "silent", "found"),
    [
        (_changed(unreachable=REFUSED), 90.0, "good"),
        (_changed(unreachable=REFUSED), 91.0, "none"),
        (_changed(), 0.0, "good"),
        (_changed(status="dead"), 0.0, "good"),  # its hive starts it again
        (_changed(status="failed"), 0.0, "none"),
        (_changed(status="unloaded"), 0.0, "none"),
        (_changed(status="stopping"), 0.0, "moment"),
        (_changed(unreachable="failed: its engine ended"), 0.0, "moment"),
        (_changed(held=True, unreachable="quarantined: sent nothing for 5 s"), 0.0, "good"),
        (_changed(held=True, unreachable="being stopped"), 0.0, "moment"),
    ],
)
def test_which_worker_comes_back_by_itself(worker: Worker, silent: float, found: str) -> None:
    assert hope(worker, None, silent, 90.0) == found


def test_a_worker_that_its_hive_lists_no_more_was_taken_away() -> None:
    worker = _changed(unreachable=REFUSED)
    hive = Hive(KnownHive(hive_id="h1", url="http://127.0.0.1:9"))
    assert hope(worker, hive, 0.0, 90.0) == "good"  # it has not said yet
    hive.capabilities = capabilities("other")
    assert hope(worker, hive, 0.0, 90.0) == "moment"
    hive.capabilities = capabilities("w")
    assert hope(worker, hive, 0.0, 90.0) == "good"


def test_the_best_hope_counts() -> None:
    registry = Registry(lambda: 0.0)
    registry.heartbeat(beat("a", status="failed"))
    assert best_hope(registry.workers.values(), registry, {}) == "none"
    registry.heartbeat(beat("b", url="http://127.0.0.1:9301"))
    registry.workers["b"].status = "stopping"
    assert best_hope(registry.workers.values(), registry, {}) == "moment"
    registry.heartbeat(beat("c", url="http://127.0.0.1:9302"))
    assert best_hope(registry.workers.values(), registry, {}) == "good"
    assert best_hope((), registry, {}) == "none"


def test_what_loads_elsewhere_is_nothing_to_those_who_require_a_label() -> None:
    registry = Registry(lambda: 0.0)
    registry.label({"h1": {"region": "us"}})
    starter = Starter(registry, QueenConfig(fleet="test"))
    registry.heartbeat(beat(status="starting", progress=0.5))
    assert starter.need(("m",), (("region", "us"),)) == Loading(progress=0.5)
    assert starter.need(("m",), (("region", "eu"),)) is None
    registry.heartbeat(beat())
    assert served("m", (("region", "us"),), registry)
    assert served("m", (), registry)
    assert not served("m", (("region", "eu"),), registry)


def test_a_starter_that_is_not_connected_tells_and_starts_nothing() -> None:
    registry = Registry(lambda: 0.0)
    worker = KnownWorker(worker_id="w", spec_name="s", model="m", hive_id="h1", worker_type="cpu", engine="mock")
    starter = Starter(registry, QueenConfig(fleet="test", workers=(worker,)))
    assert starter.need(("m",)) is None
    assert starter.cold("m")
    assert not starter.cold("other")
    registry.heartbeat(beat(status="starting", progress=0.5))
    assert starter.need(("m",)) == Loading(progress=0.5)
