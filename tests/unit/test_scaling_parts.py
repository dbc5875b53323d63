# SPDX-License-Identifier: GPL-3.0-or-later
"""The starter's parts by themselves: failures that hold back, events of spawns, and what could be started."""

from __future__ import annotations

from typing import Any

import pytest

from rbee.contracts.configs import KnownWorker, QueenConfig
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.scaling.candidates import coming, device_id, runs
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


def test_a_starter_that_is_not_connected_tells_and_starts_nothing() -> None:
    registry = Registry(lambda: 0.0)
    worker = KnownWorker(worker_id="w", spec_name="s", model="m", hive_id="h1", worker_type="cpu", engine="mock")
    starter = Starter(registry, QueenConfig(fleet="test", workers=(worker,)))
    assert starter.need(("m",)) is None
    assert starter.cold("m")
    assert not starter.cold("other")
    registry.heartbeat(beat(status="starting", progress=0.5))
    assert starter.need(("m",)) == Loading(progress=0.5)
