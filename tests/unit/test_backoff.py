# SPDX-License-Identifier: GPL-3.0-or-later
"""Waits between tries: each longer than the one before, none without end, and not all at the same moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from rbee.adapters.fetch.download import Download, Tuning
from rbee.adapters.fetch.http import Again
from rbee.contracts import defaults
from rbee.daemons.hive.heartbeat import wait_after


def test_a_queen_that_is_away_is_tried_less_and_less_often() -> None:
    waits = [wait_after(failures) for failures in range(1, 40)]
    assert waits[0] <= 1
    assert len(set(waits[:5])) == 5
    assert waits == sorted(waits)
    assert waits[-1] == max(waits) == defaults.BACKOFF_MAX
    assert wait_after(10**6) == defaults.BACKOFF_MAX


def waits_of(failures: int, error: Exception, times: int = 50) -> list[float]:
    download = cast(Download, SimpleNamespace(tuning=Tuning(backoff=0.5)))
    return [Download.wait_of(download, error, failures) for _ in range(times)]


def test_a_download_is_tried_again_later_each_time_and_spread() -> None:
    for failures in range(1, 30):
        longest = min(defaults.BACKOFF_MAX, 0.5 * 2**failures)
        found = waits_of(failures, ConnectionError())
        assert all(longest / 2 <= wait <= longest for wait in found)
        assert len(set(found)) > 1


def test_a_server_that_says_when_is_believed() -> None:
    assert set(waits_of(1, Again("busy", 7.0))) == {7.0}
    assert set(waits_of(9, Again("busy", 0.0))) == {0.0}
    assert min(waits_of(9, Again("busy"))) >= defaults.BACKOFF_MAX / 2
