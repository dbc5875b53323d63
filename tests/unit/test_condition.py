# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a hive is well: from facts alone, each with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core.records import ModelRecord, WorkerBinary, WorkerRecord, WorkerStatus
from rbee.daemons.hive.machine.condition import DISK_FULL, MOST, Facts, judge

GB = 10**9
WELL = Facts(disk_total=1000 * GB, disk_free=500 * GB, memory_total=64 * GB, memory_available=32 * GB)
WORKER = WorkerRecord(
    worker_id="chat", model="m", engine="e", worker_type="cpu", device="cpu", port=1, url="u", pid=2, status="ready"
)
MODEL = ModelRecord(id="tiny", name="tiny", path="/m", size_bytes=1, status="available")
ENGINE = WorkerBinary(id="llama", engine="llama", version="1", worker_type="cpu", platform="p", path="/e")


def failed(name: str, reason: str | None = "out of memory") -> WorkerRecord:
    return replace(WORKER, worker_id=name, status="failed", reason=reason)


def test_a_hive_without_anything_is_healthy() -> None:
    assert judge(WELL).status == "healthy"
    assert judge(WELL).reasons == ()
    assert judge(replace(WELL, workers=(WORKER,), models=(MODEL,), binaries=(ENGINE,), queen_url="u")).reasons == ()


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"disk_error": "Read-only file system"}, "unhealthy", "cannot be written to: Read-only file system."),
        ({"unreadable": {"models": "Permission denied"}}, "unhealthy", "The catalog of models cannot be read: Perm"),
        ({"disk_free": DISK_FULL - 1}, "unhealthy", "is full: 0.1 GB of 1000.0 GB are free."),
        ({"workers": (failed("a"),)}, "unhealthy", "Its only worker has failed."),
        ({"workers": (failed("a"), failed("b"))}, "unhealthy", "All 2 workers have failed."),
        ({"workers": (failed("a"), WORKER)}, "degraded", "The worker a has failed: out of memory"),
        ({"workers": (failed("a", None), WORKER)}, "degraded", "The worker a has failed."),
        ({"workers": (replace(WORKER, status="dead"), WORKER)}, "degraded", "The worker chat has ended."),
        ({"workers": (replace(WORKER, health_status="unhealthy"),)}, "degraded", "does not answer."),
        ({"disk_free": 1 * GB}, "degraded", "nearly full: 1.0 GB of 1000.0 GB"),
        ({"disk_free": 40 * GB}, "degraded", "nearly full: 40.0 GB"),
        ({"memory_available": 3 * GB}, "degraded", "Little memory is left: 3.0 GB of 64.0 GB."),
        ({"broken": {"nvidia": "GPU 0: GPU is lost"}}, "degraded", "The nvidia devices cannot all be read"),
        ({"binaries": (replace(ENGINE, status="failed", error="Its Python is gone"),)}, "degraded", "The engine llama"),
        ({"models": (replace(MODEL, status="failed", error="cut short"),)}, "degraded", "tiny cannot be used: cut"),
        ({"models": (replace(MODEL, status="failed"),)}, "degraded", "it does not say why"),
        (
            {"queen_url": "http://q:1", "queen_failing_since": "2026-11-21T00:00:00Z"},
            "degraded",
            "The queen at http://q:1 has taken no heartbeat since 2026-11-21T00:00:00Z.",
        ),
    ],
)
def test_each_thing_that_is_not_well_is_a_reason(change: dict[str, Any], status: str, reason: str) -> None:
    found = judge(replace(WELL, **change))
    assert found.status == status
    assert any(reason in said for said in found.reasons), found.reasons


@pytest.mark.parametrize(
    "change",
    [
        # A twentieth of a very large disk is still a lot, and all of a small one may be enough.
        {"disk_total": 20_000 * GB, "disk_free": 60 * GB},
        {"disk_total": 10 * GB, "disk_free": 3 * GB},
        {"workers": (replace(WORKER, status="unloaded"), replace(WORKER, status="starting"))},
        {"workers": (replace(WORKER, status="starting", health_status="unhealthy"),)},
        {"models": (replace(MODEL, status="downloading"),)},
        {"memory_total": 0, "memory_available": 0},
    ],
)
def test_what_is_no_reason(change: dict[str, Any]) -> None:
    assert judge(replace(WELL, **change)).reasons == ()


def test_of_many_only_some_are_told() -> None:
    found = judge(replace(WELL, workers=(WORKER, *(failed(f"w{i}") for i in range(500)))))
    assert len(found.reasons) == MOST + 1
    assert found.reasons[-1] == "And 490 more workers."


_SIZES = st.integers(0, 10**15)


@given(
    st.builds(
        Facts,
        disk_total=_SIZES,
        disk_free=_SIZES,
        memory_total=_SIZES,
        memory_available=_SIZES,
        disk_error=st.none() | st.text(max_size=5),
        workers=st.lists(
            st.builds(
                lambda status, health: replace(WORKER, status=status, health_status=health),
                st.sampled_from(get_args(WorkerStatus)),
                st.sampled_from(["healthy", "unhealthy", "unknown"]),
            ),
            max_size=20,
        ),
        models=st.lists(st.sampled_from([MODEL, replace(MODEL, status="failed")]), max_size=20),
        binaries=st.lists(st.sampled_from([ENGINE, replace(ENGINE, status="failed")]), max_size=20),
        broken=st.dictionaries(st.sampled_from(["nvidia", "amd", "apple"]), st.text(max_size=5)),
        queen_failing_since=st.none() | st.just("2026"),
    )
)
def test_no_reasons_and_healthy_are_the_same(facts: Facts) -> None:
    found = judge(facts)
    assert (found.status == "healthy") == (not found.reasons)
    assert all(reason and reason[0].isupper() for reason in found.reasons)
    assert len(found.reasons) < 50
