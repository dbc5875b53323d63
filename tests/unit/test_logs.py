# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon's log cannot fill the disk."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rbee.daemons.logs import Bounded


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("rbee", logging.INFO, __file__, 1, message, None, None)


def test_a_log_file_starts_anew_beyond_its_limit(tmp_path: Path) -> None:
    log = tmp_path / "hive.log"
    with log.open("a") as stream:
        handler = Bounded(stream, limit=1000)
        for i in range(100):
            handler.emit(record(f"line {i:03} " + "x" * 40))
    kept = (tmp_path / "hive.log.1").read_text() + log.read_text()
    assert log.stat().st_size <= 1100 and (tmp_path / "hive.log.1").stat().st_size <= 1100
    assert (tmp_path / "hive.log.1").stat().st_mode & 0o777 == 0o600
    assert kept.endswith("line 099 " + "x" * 40 + "\n")
    numbers = [int(line.split()[1]) for line in kept.splitlines()]
    assert numbers == list(range(numbers[0], 100)), "no hole, no torn line"


def test_a_stream_that_is_no_file_is_left_alone() -> None:

    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        Bounded(stream, limit=0).emit(record("hello"))
    assert os.read(read, 100) == b"hello\n"
    os.close(read)
