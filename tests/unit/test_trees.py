# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory and processor time of process trees: real processes."""

from __future__ import annotations

import sys
from pathlib import Path

from rbee.adapters import process
from rbee.adapters.trees import Memory, Tree, _elsewhere, cpu_between, trees
from tests.support.waiting import until


def test_a_tree_is_measured_with_its_grandchildren(tmp_path: Path) -> None:
    log = tmp_path / "log"
    inner = "x = bytearray(60_000_000); print('full', flush=True); import time; time.sleep(60)"
    outer = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    who = process.spawn_detached([sys.executable, "-c", outer], log=log)
    try:
        until(lambda: log.exists() and "full" in log.read_text())
        found = trees({who.pid, 2**22 - 1})
        assert found.keys() == {who.pid}
        assert found[who.pid].memory.resident > 70_000_000
        assert 0 <= found[who.pid].memory.files < 40_000_000
        assert who.pid in found[who.pid].pids
        assert len(found[who.pid].pids) == 2
        portable = dict(_elsewhere())
        assert found[who.pid].pids <= portable.keys()
        assert sum(portable[pid].resident for pid in found[who.pid].pids) > 70_000_000
    finally:
        process.kill_group(who)
        until(lambda: process.exit_status(who) is not None)
    assert trees(set()) == trees({who.pid}) == {}


def test_work_is_seen_as_processor_time(tmp_path: Path) -> None:
    who = process.spawn_detached([sys.executable, "-c", "while True: pass"], log=tmp_path / "log")
    try:
        before = trees({who.pid})[who.pid]
        until(lambda: cpu_between(before, trees({who.pid})[who.pid]) > 0.1)
    finally:
        process.kill_group(who)
        until(lambda: process.exit_status(who) is not None)


def test_processor_time_of_those_that_came_counts_and_of_those_that_went_does_not() -> None:
    nothing = Memory(0, 0)
    before = Tree(memory=nothing, cpu={(1, 10): 5.0, (2, 11): 7.0})
    # 2 went, and its pid was given to another.
    after = Tree(memory=nothing, cpu={(1, 10): 6.5, (2, 99): 0.25})
    assert cpu_between(before, after) == 1.75
