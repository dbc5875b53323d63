# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a worker's log: its end, what comes, and every way in which it is turned over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from rbee.core.logs_window import LONGEST, Line
from rbee.daemons.hive.workers import worker_logs
from rbee.daemons.hive.workers.worker_logs import Found, LogReader


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


@pytest.fixture
def reader(log: Path) -> Iterator[LogReader]:
    made = LogReader(log)
    yield made
    made.close()


def write(log: Path, *lines: str) -> None:
    with log.open("a") as f:
        f.writelines(f"{line}\n" for line in lines)


def turn_over(log: Path) -> None:
    """As the worker and its hive do."""
    shutil.copyfile(log, log.with_name("worker.log.1"))
    os.truncate(log, 0)


def texts(found: Found) -> list[str]:
    return [line.text for line in found.lines]


def tail(reader: LogReader, count: int, *, whole: bool = False) -> list[str]:
    return [line.text for line in reader.tail(count, None, whole=whole)]


def test_the_last_lines(log: Path, reader: LogReader) -> None:
    assert tail(reader, 5) == []
    write(log, *(str(n) for n in range(100)))
    assert tail(reader, 3) == ["97", "98", "99"]
    assert tail(reader, 0) == []
    assert tail(reader, 1000) == [str(n) for n in range(100)]


def test_the_last_lines_go_on_before_the_turn(log: Path, reader: LogReader) -> None:
    write(log, "a", "b", "c")
    turn_over(log)
    assert tail(reader, 2) == ["b", "c"]
    write(log, "d")
    assert tail(reader, 3) == ["b", "c", "d"]
    assert tail(reader, 1) == ["d"]
    assert tail(reader, 9) == ["a", "b", "c", "d"]


def test_a_huge_log_is_read_from_its_end(log: Path, reader: LogReader) -> None:
    with log.open("wb") as f:
        os.ftruncate(f.fileno(), 2**40)  # a terabyte of nothing
        f.seek(0, os.SEEK_END)
        f.write(b"\nlast\n")
    assert tail(reader, 1) == ["last"]


def test_a_log_without_any_line_end_is_bounded(log: Path, reader: LogReader) -> None:
    with log.open("wb") as f:
        f.write(b"x" * (2 * worker_logs.WINDOW))
    told = reader.tail(10_000, None, whole=False)
    assert len(told) == worker_logs.WINDOW // LONGEST
    assert {len(line.text) for line in told} == {LONGEST}


def test_only_what_is_newer(log: Path, reader: LogReader) -> None:
    write(log, "2026-11-20T08:00:00Z old", "  of the old", "2026-11-20T09:00:00Z new", "  of the new")
    since = datetime(2026, 11, 20, 8, 30, tzinfo=timezone.utc)
    assert [x.text for x in reader.tail(9, since, whole=False)] == ["2026-11-20T09:00:00Z new", "  of the new"]


def test_what_comes_is_told_once_and_by_whole_lines(log: Path, reader: LogReader) -> None:
    write(log, "a")
    assert tail(reader, 9, whole=True) == ["a"]
    assert reader.more() == Found()
    with log.open("a") as f:
        f.write("b\nhal")
        f.flush()
        assert texts(reader.more()) == ["b"]
        assert reader.more() == Found()
        f.write("f\n")
    assert texts(reader.more()) == ["half"]
    assert reader.last() == ()


def test_a_line_without_its_end_is_told_at_the_end(log: Path, reader: LogReader) -> None:
    log.write_text("a\nb")
    assert tail(reader, 9, whole=True) == ["a"]
    assert [x.text for x in reader.last()] == ["b"]
    other = LogReader(log)
    assert tail(other, 9) == ["a", "b"]
    other.close()


def test_a_log_that_is_made_later(log: Path, reader: LogReader) -> None:
    assert tail(reader, 9, whole=True) == []
    assert reader.more() == Found()
    write(log, "a")
    assert texts(reader.more()) == ["a"]


@pytest.mark.parametrize(
    "after", [[], ["e"], ["much more than there was before it was turned over, " * 5 + "and so on"]]
)
def test_nothing_is_lost_when_the_log_is_turned_over(log: Path, reader: LogReader, after: list[str]) -> None:
    write(log, "a", "b")
    assert tail(reader, 9, whole=True) == ["a", "b"]
    write(log, "c", "d")
    turn_over(log)
    write(log, *after)
    found = reader.more()
    assert ([line.said.strip() for line in found.lines], found.skipped) == (["c", "d", *after], 0)
    write(log, "f")
    assert texts(reader.more()) == ["f"]


def test_a_line_that_was_half_read_before_the_turn_is_made_whole(log: Path, reader: LogReader) -> None:
    log.write_text("a\nhal")
    assert tail(reader, 9, whole=True) == ["a"]
    with log.open("a") as f:
        f.write("f\n")
    turn_over(log)
    assert texts(reader.more()) == ["half"]


def test_what_was_turned_over_twice_is_told_as_missing(log: Path, reader: LogReader) -> None:
    write(log, "one line", "another")
    assert tail(reader, 9, whole=True) == ["one line", "another"]
    turn_over(log)
    write(log, "first of the second", "and so on, and so on")
    turn_over(log)
    write(log, "third")
    found = reader.more()
    assert (texts(found), found.skipped) == (["third"], -1)


def test_a_log_that_was_emptied_by_hand_is_followed(log: Path, reader: LogReader) -> None:
    write(log, "a", "b")
    assert tail(reader, 9, whole=True) == ["a", "b"]
    log.write_text("")
    assert reader.more().skipped == -1
    write(log, "c")
    assert texts(reader.more()) == ["c"]


def test_a_log_that_was_replaced_is_followed(log: Path, reader: LogReader) -> None:
    write(log, "a")
    assert tail(reader, 9, whole=True) == ["a"]
    write(log, "last of the old")
    log.rename(log.with_name("moved"))
    write(log, "first of the new")
    told = [line for _ in range(4) for line in texts(reader.more())]
    assert told == ["last of the old", "first of the new"]


def test_last_words_of_a_log_that_is_gone(log: Path, reader: LogReader) -> None:
    write(log, "a")
    assert tail(reader, 9, whole=True) == ["a"]
    write(log, "b")
    log.unlink()
    assert texts(reader.more()) == ["b"]
    assert reader.more() == Found()
    reader.close()
    assert reader.more() == Found()


def test_who_falls_behind_goes_on_near_the_end(log: Path, reader: LogReader) -> None:
    write(log, "a")
    assert tail(reader, 9, whole=True) == ["a"]
    write(log, *(f"{n:08}" for n in range(1_000_000)))
    found = reader.more()
    told = texts(found)
    assert found.skipped == 9_000_000 - worker_logs.STEP
    assert told == [f"{n:08}" for n in range(1_000_000 - len(told), 1_000_000)]
    assert len(told) == worker_logs.STEP // 9
    assert not found.behind


def test_who_falls_behind_a_turn_goes_on_near_its_end(log: Path, reader: LogReader) -> None:
    write(log, "a")
    assert tail(reader, 9, whole=True) == ["a"]
    write(log, *(f"{n:08}" for n in range(1_000_000)))
    turn_over(log)
    write(log, "z")
    found = reader.more()
    assert found.skipped == 9_000_000 - worker_logs.STEP
    assert texts(found)[-2:] == ["00999999", "z"]


def test_much_at_once_comes_in_steps(log: Path, reader: LogReader) -> None:
    assert tail(reader, 9, whole=True) == []
    write(log, *(f"{n:08}" for n in range(20_000)))
    told: list[str] = []
    looks, behind = 0, True
    while behind:
        found = reader.more()
        told += texts(found)
        looks, behind = looks + 1, found.behind
    assert told == [f"{n:08}" for n in range(20_000)]
    assert looks == -(-180_000 // worker_logs.STEP)


def test_a_line_without_end_comes_in_pieces_while_it_is_written(log: Path, reader: LogReader) -> None:
    assert tail(reader, 9, whole=True) == []
    told: list[Line] = []
    for _ in range(40):
        with log.open("a") as f:
            f.write("x" * LONGEST)
        told += reader.more().lines
    assert told
    assert all(line.more for line in told)
    write(log, "")
    told += reader.more().lines
    assert sum(len(line.text) for line in told) == 40 * LONGEST
    assert not told[-1].more


def test_a_link_in_the_logs_place_is_not_followed(log: Path, reader: LogReader, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    log.symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        reader.more()
