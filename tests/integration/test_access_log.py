# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of lines behind the access log: whole lines, rotated, and a full disk costs lines only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rbee.adapters.access_log import MOST_WAITING, LineFile


def lines_of(*files: Path) -> list[bytes]:
    return [line for file in files for line in file.read_bytes().splitlines()]


def test_every_line_is_there_once_and_in_order(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "logs" / "access.log")
    file.start()
    for number in range(5_000):
        file.add(b"%d" % number)
    file.close()
    assert lines_of(tmp_path / "logs" / "access.log") == [b"%d" % n for n in range(5_000)]
    assert file.lost == 0
    assert (tmp_path / "logs" / "access.log").stat().st_mode & 0o777 == 0o600


def test_it_is_turned_over_by_size_and_only_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for number in range(6):
        file = LineFile(path, size=100, kept=2)
        file.start()
        file.add(b"%d" % number * 120)
        file.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["access.log", "access.log.1", "access.log.2"]
    assert [p.read_bytes()[:1] for p in sorted(tmp_path.iterdir())] == [b"5", b"4", b"3"]


def test_what_a_slow_disk_cannot_take_is_counted(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "access.log")
    for _ in range(MOST_WAITING + 7):
        file.add(b"x")
    assert file.lost == 7
    file.start()
    file.close()
    assert len(lines_of(tmp_path / "access.log")) == MOST_WAITING


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of a few pages."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode()}")
    return place


def test_a_full_disk_costs_lines_and_leaves_none_cut(small_disk: Path) -> None:
    path = small_disk / "access.log"
    try:
        file = LineFile(path)
        file.start()
        file.add(b"a" * 1000)
        file.close()
        file = LineFile(path)
        file.start()
        for _ in range(100):
            file.add(b"b" * 1000)
        file.close()
        assert file.lost == 100
        assert lines_of(path) == [b"a" * 1000]
        file = LineFile(path)
        file.start()
        file.add(b"c" * 1000)
        file.close()
        assert lines_of(path) == [b"a" * 1000, b"c" * 1000]
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
