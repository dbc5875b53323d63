# SPDX-License-Identifier: GPL-3.0-or-later
"""Deaths in a fleet that has one worker only, on real processes: who asked it waits until it is back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.integration.test_recovery import asking, busy, whole
from tests.support.fleet_processes import Fleet, fleet_in
from tests.support.waiting import until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_in(tmp_path_factory.mktemp("fleet"), "h1") as fleet:
        yield fleet


@pytest.mark.parametrize("victim", ["engine_pid", "pid"])
def test_its_only_worker_is_killed_before_the_first_byte(running: Fleet, victim: str) -> None:
    running.well()
    thread, found = asking(running.url, tokens=5, delay=1.0)
    before = until(lambda: busy(running), "a worker that has it")
    os.kill(before[victim], signal.SIGKILL)
    thread.join(60)
    assert found == ["w-h1", whole(5)], (found, running.logs())
    assert running.info("w-h1")["engine_pid"] != before["engine_pid"]
