# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core.rate import Bucket, Left
from rbee.core.service_times import ServiceTimes


def test_a_minutes_worth_at_once_then_one_by_one() -> None:
    bucket = Bucket()
    assert [bucket.take(60, 1000.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(60, 1000.0) == pytest.approx(1.0)
    assert bucket.take(60, 1000.25) == pytest.approx(0.75)
    assert bucket.take(60, 1001.0) == 0.0
    assert bucket.take(60, 1001.0) > 0


def test_what_is_left() -> None:
    bucket = Bucket()
    assert bucket.left(60, 5.0) == Left(limit=60, remaining=60, reset=0.0)
    bucket.take(60, 5.0)
    assert bucket.left(60, 5.0) == Left(limit=60, remaining=59, reset=1.0)
    bucket.take(60, 5.0, 59)
    assert bucket.left(60, 5.5) == Left(limit=60, remaining=0, reset=59.5)


def test_many_at_once_are_all_or_nothing() -> None:
    bucket = Bucket()
    assert bucket.take(10, 0.0, 10) == 0.0
    assert bucket.take(10, 0.0, 5) == pytest.approx(30.0)
    assert bucket.take(10, 30.0, 5) == 0.0


@given(st.integers(1, 10_000), st.lists(st.floats(0, 10), max_size=300))
def test_never_more_than_the_rate_and_the_wait_is_exact(per_minute: int, pauses: list[float]) -> None:
    bucket, now = Bucket(), 1000.0
    for taken, pause in enumerate(pauses, 1):
        now += pause
        wait = bucket.take(per_minute, now)
        if wait:
            assert bucket.take(per_minute, now + wait * 0.99 - 1e-5) > 0
            now += wait
            assert bucket.take(per_minute, now) == 0.0
        assert taken <= per_minute + (now - 1000.0) * per_minute / 60 + 1e-3 * len(pauses)


def test_nothing_measured_nothing_known() -> None:
    times = ServiceTimes()
    assert times.wait(3, 1) is None
    times.add(2.0)
    assert times.wait(0, 0) is None
    assert times.wait(0, 1) == 2.0
    assert times.wait(3, 2) == 4.0


def test_the_mean_follows_and_quick_stays_low() -> None:
    times = ServiceTimes()
    for _ in range(50):
        times.add(10.0)
        times.add(1.0)
    assert times.mean == pytest.approx(5.5, abs=1.5)
    assert times.quick is not None and times.quick < 2.0
    for _ in range(100):
        times.add(10.0)
    assert times.mean == pytest.approx(10.0, abs=0.1)


def test_few_answers_count_alike() -> None:
    times = ServiceTimes()
    for seconds in (1.0, 2.0, 3.0, 4.0):
        times.add(seconds)
    assert times.mean == pytest.approx(2.5)
