# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine's load, sensors, disk and processes: the arithmetic with a clock as an argument, the rest for real."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rbee.adapters import processes, system
from rbee.adapters.gpu import cpu
from tests.support.stand_ins import host


class Machine:
    """A clock, and CPU seconds of two cores."""

    def __init__(self) -> None:
        self.now = 100.0
        self.busy, self.total = 50.0, 200.0

    def seconds(self) -> tuple[float, float]:
        return self.busy, self.total

    def passes(self, seconds: float, share: float) -> None:
        self.now += seconds
        self.busy += 2 * seconds * share
        self.total += 2 * seconds


def test_load_is_of_the_time_since_it_was_looked_at_and_no_noise() -> None:
    machine = Machine()
    meter = system.CpuMeter(machine.seconds, lambda: machine.now)
    assert meter.percent() == 0.0
    machine.passes(0.5, 1.0)
    assert meter.percent() == 100.0
    machine.passes(0.5, 0.0)
    assert meter.percent() == 50.0
    # Asked again at once it looks back over a second or more.
    machine.passes(0.001, 1.0)
    assert meter.percent() == pytest.approx(50.0, abs=0.2)
    machine.passes(30, 0.25)
    assert meter.percent() == pytest.approx(26.0, abs=1)
    machine.passes(30, 0.25)
    assert meter.percent() == 25.0
    machine.busy -= 1000
    assert meter.percent() == 0.0


def test_this_machine_is_measured() -> None:
    assert all(load >= 0 for load in system.load_average())
    total, used = system.swap()
    assert 0 <= used <= total
    assert system.CpuMeter().percent() >= 0


def test_a_disk_is_told_before_its_folder_is_there(tmp_path: Path) -> None:
    total, free = system.disk(tmp_path / "not" / "there")
    assert 0 < free <= total
    assert system.existing(tmp_path / "not" / "there") == tmp_path


def test_writing_is_tried_and_leaves_nothing(tmp_path: Path) -> None:
    assert system.try_writing(tmp_path / "new") is None
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    assert system.try_writing(tmp_path / "file") == "File exists"
    assert system.try_writing(tmp_path / "file" / "below") == "Not a directory"


def sensor(root: Path, number: int, name: str, **files: str) -> None:
    folder = root / "sys/class/hwmon" / f"hwmon{number}"
    folder.mkdir(parents=True)
    for file, text in {"name": name, **files}.items():
        (folder / file).write_text(f"{text}\n")


def test_heat_of_the_processor(tmp_path: Path) -> None:
    machine = host(tmp_path)
    assert cpu.temperature(machine) is None
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("48500\n")
    assert cpu.temperature(machine) == 48.5
    sensor(tmp_path, 0, "nvme", temp1_input="90000")
    sensor(tmp_path, 1, "k10temp", temp1_input="61125", temp1_label="Tctl", temp3_input="75000", temp3_label="Tccd1")
    assert cpu.temperature(machine) == 61.125
    assert cpu.device(4, machine).temperature_celsius == 61.125


def test_heat_without_labels_is_the_hottest_and_nonsense_is_none(tmp_path: Path) -> None:
    sensor(tmp_path, 0, "coretemp", temp1_input="nonsense", temp2_input="999000", temp3_input="40000")
    assert cpu.temperature(host(tmp_path)) == 40.0


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    """A process and its child; the parent has told the child's pid."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()', 'a-secret'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
        "child.communicate()\n"
    )
    made = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield made
    finally:
        made.communicate()


def test_a_tree_has_one_owner(family: subprocess.Popen[str]) -> None:
    assert family.stdout is not None
    child = int(family.stdout.readline())
    found = processes.owners({family.pid: "chat"})
    assert found == {family.pid: "chat", child: "chat"}
    assert processes.owners({}) == {}
    assert processes.owners({2**22 + 1: "nobody"}) == {}
    assert set(processes.names([child, 2**22 + 1])) == {child}
    assert processes.resident([child, 2**22 + 1])[child] > 0


def test_processes_are_listed_by_size_and_name(family: subprocess.Popen[str]) -> None:
    assert family.stdout is not None
    child = int(family.stdout.readline())
    name = processes.names([child])[child]
    found = processes.table(name.upper(), 10_000)
    assert {os.getpid(), family.pid, child} <= {p.pid for p in found.processes} | {os.getpid()}
    sizes = [p.memory for p in found.processes]
    assert sizes == sorted(sizes, reverse=True)
    (one,) = (p for p in found.processes if p.pid == child)
    assert one.memory > 0
    assert one.status
    assert one.user
    everything = processes.table(None, 1)
    assert len(everything.processes) <= 1 < everything.total
    assert processes.table("no process has such a name", 5).total == 0


def test_one_that_ends_meanwhile_is_left_out_and_a_busy_one_is_seen() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    brief = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def pause() -> None:
        brief.communicate()
        worked = psutil.Process(busy.pid).cpu_times().user
        while psutil.Process(busy.pid).cpu_times().user < worked + 0.05:
            time.sleep(0.01)

    try:
        listing = processes.table(None, 10_000, pause)
        found = {p.pid: p for p in listing.processes}
        assert found[busy.pid].cpu_percent > 0
        assert brief.pid not in found
        assert listing.total > len(found)
    finally:
        busy.kill()
        busy.wait()
