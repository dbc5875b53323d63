# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hive tells of a worker: read from the worker, measured, or remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.trees import Memory, Tree
from rbee.contracts.configs import WorkerConfig
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.records import Mark
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.workers.files import ProcessFile, WorkerFolder
from rbee.daemons.hive.workers.health import Report, read_report
from rbee.daemons.hive.workers.managed import Managed
from rbee.daemons.hive.workers.vitals import Vitals
from rbee.daemons.hive.workers.waking import as_before
from tests.support.workers import worker_config

MARK = Mark(fleet="home", spec_digest="d1")
INFO = {
    "pid": 7, "status": "busy", "slots": 2, "slots_busy": 2, "context_length": 512, "requests_handled": 9,
    "tokens_generated": 80, "avg_tokens_per_sec": 12.5, "errors": 1, "reason": None,
}  # fmt: skip


def managed(tmp_path: Path, config: WorkerConfig | None = None, **state: Any) -> Managed:
    said = {"pid": 7, "start_time": 1, "port": 9300, "status": "ready", "predicted": 5 * 10**6, "mark": MARK, **state}
    made = config or worker_config(tmp_path / "m.gguf")
    return Managed(config=made, folder=WorkerFolder.of(tmp_path, "w"), state=ProcessFile(**said))


def told(**changes: Any) -> Report | str:
    return read_report(200, json.dumps({**INFO, **changes}).encode(), 7)


def test_a_workers_word_is_read() -> None:
    assert told() == Report(
        status="busy", slots=2, slots_busy=2, context_length=512, requests_handled=9, tokens_generated=80,
        avg_tokens_per_sec=12.5, errors=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>", "It answers 200 and nothing that a worker says."),
        (404, b"[]", "It answers 404 and nothing that a worker says."),
        (200, b'{"pid": 8, "status": "ready"}', "Another process answers at its port."),
        (200, b"{}", "Another process answers at its port."),
    ],
)
def test_a_strangers_word_is_none(status: int, body: bytes, said: str) -> None:
    assert read_report(status, body, 7) == said


def test_nonsense_in_a_word_does_no_harm() -> None:
    found = told(status=["?"], slots="many", slots_busy=-1, tokens_generated=2**70, errors=None, avg_tokens_per_sec="x")
    assert found == Report(status="unknown", context_length=512, requests_handled=9)
    long = told(status="failed", reason="x" * 10**6)
    assert isinstance(long, Report)
    assert len(long.reason or "") == 2000


def test_the_load_is_of_the_time_between_two_looks(tmp_path: Path) -> None:
    worker = managed(tmp_path)

    def seen(cpu: float, resident: int = 3 * 10**6) -> Tree:
        return Tree(memory=Memory(resident, 0), cpu={(7, 1): cpu, (8, 1): 0.5})

    worker.measure(seen(1.0), 100.0, {8: 300, 9: 50})
    assert (worker.record().cpu_percent, worker.record().vram_mb) == (None, 300)
    worker.measure(seen(1.1, 9 * 10**6), 100.1, None)  # too soon to tell
    assert worker.record().cpu_percent is None
    worker.measure(seen(2.0), 102.0, None)
    assert (worker.record().cpu_percent, worker.record().memory_mb, worker.record().vram_mb) == (50.0, 3.0, 300)
    assert worker.peak == 9 * 10**6


def test_of_one_without_a_process_nothing_is_told_that_was_its_process(tmp_path: Path) -> None:
    worker = managed(tmp_path, restarts=3, last_end="It burned.")
    worker.measure(Tree(memory=Memory(10**6, 0), cpu={(7, 1): 1.0}), 1.0, {7: 1})
    worker.checked.report = Report(status="ready", slots_busy=1, requests_handled=4)
    worker.state = replace(worker.state, status="unloaded", pid=0)
    found = worker.record()
    assert (found.memory_mb, found.vram_mb, found.cpu_percent, found.uptime_seconds) == (None, None, None, 0)
    assert (found.slots_busy, found.requests_handled, found.health_status) == (0, 4, "unknown")
    assert (found.restarts, found.last_end, found.predicted_memory_mb) == (3, "It burned.", 5.0)


def test_a_start_that_cannot_be_read_is_no_uptime(tmp_path: Path) -> None:
    assert managed(tmp_path, started_at="yesterday").record().uptime_seconds == 0
    assert managed(tmp_path, started_at="2020-01-01T00:00:00.000Z").record().uptime_seconds > 10**8


async def test_a_driver_that_fails_ends_no_look(tmp_path: Path) -> None:
    worker = managed(tmp_path, worker_config(tmp_path / "m", worker_type="cuda", device="cuda:0"), pid=1)
    vitals = Vitals(lambda: [worker])

    async def broken() -> dict[int, int]:
        raise RuntimeError("driver mismatch")

    vitals.vram_by_pid = broken
    await vitals.take()
    assert (worker.measured.tree is not None, worker.measured.vram_mb) == (True, None)


def test_an_unloaded_worker_comes_back_as_it_was_only_for_who_says_no_more(tmp_path: Path) -> None:
    options = WorkerOptions(context_length=128, threads=3)
    config = worker_config(tmp_path / "m", options=options, device="cuda:1", worker_type="cuda", idle_timeout=60.0)
    worker = managed(tmp_path, config, status="unloaded", pid=0)
    plain = WorkerSpawn(model="tiny", worker_id="w-1")
    found = as_before(plain, worker)
    assert (found.worker, found.device, found.engine, found.idle_timeout, found.mark) == (
        "cuda", 1, "llama-cpp", 60.0, MARK,
    )  # fmt: skip
    assert found.options == WorkerOptions(context_length=128)  # the threads were its share
    worker.state = replace(worker.state, threads_asked=True)
    assert as_before(plain, worker).options == options
    for other in (replace(plain, model="m2"), replace(plain, mark=MARK), replace(plain, options=options)):
        assert as_before(other, worker) is other
    assert as_before(plain, None) is plain
    worker.state = replace(worker.state, status="failed")
    assert as_before(plain, worker) is plain
