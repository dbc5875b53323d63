# SPDX-License-Identifier: GPL-3.0-or-later
"""What workers were seen to hold: kept, bounded, and no number that is too small."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rbee.daemons.hive.workers import remembered
from rbee.daemons.hive.workers.remembered import Case, Remembered

CASE = Case(model="sha", engine="e 1", worker_type="cpu", context_length=128, slots=2, batch_size=None)
MB = 10**6


def test_what_was_noted_is_predicted_with_a_margin_and_outlives_the_process(tmp_path: Path) -> None:
    memory = Remembered(tmp_path / "data" / "memory.json")
    assert memory.predicted(CASE) is None
    memory.note(CASE, 100 * MB)
    for one in (memory, Remembered(tmp_path / "data" / "memory.json")):
        assert one.predicted(CASE) == 105 * MB


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "x"},
        {"engine": "e 2"},
        {"worker_type": "cuda"},
        {"context_length": 1},
        {"slots": 1},
        {"batch_size": 1},
    ],
)
def test_another_case_is_another(tmp_path: Path, changes: dict[str, object]) -> None:
    memory = Remembered(tmp_path / "memory.json")
    memory.note(CASE, MB)
    assert memory.predicted(replace(CASE, **changes)) is None  # type: ignore[arg-type]


def test_the_largest_of_the_last_ones_counts(tmp_path: Path) -> None:
    memory = Remembered(tmp_path / "memory.json")
    memory.note(CASE, 200 * MB)
    for _ in range(remembered.SAMPLES - 1):
        memory.note(CASE, 100 * MB)
        assert memory.predicted(CASE) == 210 * MB
    memory.note(CASE, 100 * MB)
    assert memory.predicted(CASE) == 105 * MB


def test_impossible_numbers_are_not_kept(tmp_path: Path) -> None:
    memory = Remembered(tmp_path / "memory.json")
    for number in (0, -1, 2**60):
        memory.note(CASE, number)
    assert memory.predicted(CASE) is None
    assert not (tmp_path / "memory.json").exists()


def test_the_ones_used_least_lately_go_first(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    seen = {f"k{n}": {"bytes": [MB]} for n in range(remembered.MOST - 2)}
    file.write_text(json.dumps({"version": 1, "seen": seen}))
    memory = Remembered(file)
    for number in range(3):
        memory.note(replace(CASE, slots=number), MB)
    kept = json.loads(file.read_text())["seen"]
    assert len(kept) == remembered.MOST
    assert "k0" not in kept
    assert list(kept)[:1] == ["k1"]
    # What is noted again is used again.
    memory.note(replace(CASE, slots=0), MB)
    assert list(json.loads(file.read_text())["seen"])[-1] == replace(CASE, slots=0).key


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 1, "seen": {"k": {"bytes": "x"}}}', '{"seen": 5}', "x" * (5 * 2**20), '{"a": ' * 5000],
)
def test_a_hurt_file_is_forgotten_and_made_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "memory.json"
    file.write_text(text)
    memory = Remembered(file)
    assert memory.predicted(CASE) is None
    memory.note(CASE, MB)
    assert Remembered(file).predicted(CASE) == 1_050_000


def test_numbers_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    for bad in ([], [-5], [2**60]):
        file.write_text(json.dumps({"version": 1, "seen": {CASE.key: {"bytes": bad}}}))
        assert Remembered(file).predicted(CASE) is None


def test_a_disk_that_takes_nothing_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    memory = Remembered(tmp_path / "in-the-way" / "memory.json")
    memory.note(CASE, MB)
    assert memory.predicted(CASE) == 1_050_000


SIZE = 32 * 2**20


@contextmanager
def engine(file: Path, how: str) -> Iterator[int]:
    """A process that has the file mapped, or read, or neither; its pid."""
    code = (
        "import mmap,sys\n"
        "f=open(sys.argv[1],'rb')\n"
        "m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ) if sys.argv[2] in ('mapped','touched') else None\n"
        "s=sum(m[i] for i in range(0,len(m),4096)) if sys.argv[2]=='touched' else 0\n"
        "d=f.read() if sys.argv[2]=='read' else b''\n"
        "print('up',flush=True)\n"
        "sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(file), how]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        yield child.pid
        assert child.stdin is not None
        child.stdin.close()


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="the system does not tell what is mapped")
@pytest.mark.parametrize(("how", "at_least"), [("mapped", SIZE), ("touched", SIZE), ("read", SIZE), ("neither", 0)])
def test_weights_count_whole_whether_they_were_touched_or_not(tmp_path: Path, how: str, at_least: int) -> None:
    file = tmp_path / "model"
    file.write_bytes(os.urandom(SIZE))
    with engine(file, how) as pid:
        resident = psutil.Process(pid).memory_info().rss
        held = remembered.held({pid}, resident, [file], SIZE)
        assert held is not None
        # An interpreter beside them, and never twice.
        assert at_least < held < at_least + 32 * MB
    assert remembered.held({pid}, resident, [file], SIZE) is None


def test_a_link_to_the_weights_is_them(tmp_path: Path) -> None:
    file, link = tmp_path / "model", tmp_path / "link"
    file.write_bytes(bytes(mmap.PAGESIZE * 16))
    link.symlink_to(file)
    with engine(link, "mapped") as pid:
        resident = psutil.Process(pid).memory_info().rss
        assert remembered.held({pid}, resident, [link], SIZE) == pytest.approx(resident + SIZE, abs=MB)
