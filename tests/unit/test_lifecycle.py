# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a worker, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core import lifecycle
from rbee.core.lifecycle import AfterEnd, Course, Limits, Look, Verdict

LIMITS = Limits()
WELL = Look(answered=True, resident=10**8)
SILENT = Look(answered=False)
gaps = st.lists(st.floats(0, 2000, allow_nan=False), min_size=1, max_size=40)


@given(gaps)
def test_it_is_given_up_if_and_only_if_so_many_ends_came_within_the_window(gaps: list[float]) -> None:
    now, ends, times = 1e9, (), []  # type: float, tuple[float, ...], list[float]
    for gap in gaps:
        now += gap
        times.append(now)
        found = lifecycle.after_end(ends, now, LIMITS)
        recent = [t for t in times if now - t < LIMITS.within]
        assert list(found.ends) == recent
        assert (found.wait is None) == (len(recent) >= LIMITS.ends)
        if found.wait is None:
            assert "It ended" in lifecycle.too_often(found.ends, "It burned.")
            return
        assert LIMITS.wait_first <= found.wait <= LIMITS.wait_longest
        ends = found.ends


@given(st.integers(0, 10**6))
def test_waits_never_shrink_and_are_bounded(ends: int) -> None:
    first, second = lifecycle.wait_after(ends, LIMITS), lifecycle.wait_after(ends + 1, LIMITS)
    assert LIMITS.wait_first <= first <= second <= LIMITS.wait_longest
    assert second in (2 * first, LIMITS.wait_longest, LIMITS.wait_first)


def test_one_that_was_well_for_long_begins_anew() -> None:
    limits = replace(LIMITS, ends=100)
    ends: tuple[float, ...] = ()
    for second in range(10):
        ends = lifecycle.after_end(ends, 1000.0 + second, limits).ends
    assert lifecycle.after_end(ends, 1010.0, limits).wait == 60.0
    assert lifecycle.after_end(ends, 1010.0 + limits.within, limits) == AfterEnd(
        ends=(1010.0 + limits.within,), wait=limits.wait_first
    )


def test_a_clock_that_was_set_back_forgets_nothing_and_keeps_nothing_for_ever() -> None:
    found = lifecycle.after_end((5000.0, 5001.0), 100.0, LIMITS)
    assert found.ends == (100.0, 100.0, 100.0)
    assert lifecycle.after_end(found.ends, 100.0 + LIMITS.within, LIMITS).ends == (100.0 + LIMITS.within,)


def test_why_it_was_given_up_says_how_often_how_fast_and_how_last() -> None:
    said = lifecycle.too_often((0.0, 10.0, 42.0), "It held 812 MB, its limit is 800 MB.")
    assert said == (
        "It ended 3 times within 42 seconds and is started no more; the last time: It held 812 MB, its limit is 800 MB."
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.5, "0.5 seconds"),
        (1, "1 second"),
        (60, "1 minute"),
        (90, "90 seconds"),
        (300, "5 minutes"),
        (3600, "1 hour"),
        (7200, "2 hours"),
    ],
)
def test_durations_for_people(seconds: float, said: str) -> None:
    assert lifecycle.duration(seconds) == said


def looks(seen: list[Look], **asked: float | int | None) -> list[Verdict | None]:
    """A look every five seconds."""
    course, found, now = Course.begun(0.0), [], 0.0  # type: Course, list[Verdict | None], float
    for one in seen:
        now += LIMITS.look_every
        course, verdict = lifecycle.look(course, one, now, LIMITS, **asked)  # type: ignore[arg-type]
        found.append(verdict)
    return found


def test_silence_is_borne_for_a_minute() -> None:
    found = looks([WELL, *[SILENT] * 12])
    assert found[:-1] == [None] * 12
    assert found[-1] == Verdict(kind="hung", reason="hung: it has not answered for 1 minute")


def test_an_answer_in_between_ends_the_silence() -> None:
    assert looks([*[SILENT] * 11, WELL, *[SILENT] * 11]) == [None] * 23


def test_a_hive_that_slept_itself_kills_nobody() -> None:
    # A minute without looks is no minute of silence: it takes several looks in a row.
    course, verdict = lifecycle.look(Course.begun(0.0), SILENT, 3600.0, LIMITS)
    assert verdict is None
    assert lifecycle.look(course, WELL, 3605.0, LIMITS)[1] is None


def test_too_much_memory_twice_in_a_row_is_too_much() -> None:
    big, small = replace(WELL, resident=812 * 10**6), replace(WELL, resident=800 * 10**6)
    assert looks([big, small, big, big], memory_limit_mb=800) == [
        None,
        None,
        None,
        Verdict(kind="too_big", reason="held 812 MB, its limit is 800 MB"),
    ]
    assert looks([big] * 5) == [None] * 5
    # What could not be measured is neither too much nor little.
    unseen = replace(WELL, resident=None)
    assert [v is not None for v in looks([big, unseen, unseen, big], memory_limit_mb=800)] == [False] * 3 + [True]


def test_idle_means_no_request_since_and_none_now() -> None:
    busy, done = replace(WELL, slots_busy=1), replace(WELL, requests=1)
    assert looks([WELL] * 3, idle_timeout=12) == [
        None,
        None,
        Verdict(kind="idle", reason="had no request for 12 seconds"),
    ]
    assert looks([WELL, *[busy] * 8], idle_timeout=12) == [None] * 9
    # A request that came and went between two looks counts too.
    found = looks([WELL, WELL, done, done, done, done], idle_timeout=12)
    assert [v is not None for v in found] == [False] * 5 + [True]
    assert looks([WELL] * 100) == [None] * 100


def test_one_that_does_not_answer_is_not_idle() -> None:
    assert looks([WELL, *[SILENT] * 5], idle_timeout=12) == [None] * 6


@given(st.lists(st.sampled_from([WELL, SILENT, replace(WELL, slots_busy=1), replace(WELL, resident=None)])))
def test_a_verdict_always_has_its_cause(seen: list[Look]) -> None:
    for number, verdict in enumerate(looks(seen, idle_timeout=30, memory_limit_mb=1000)):
        if verdict is None:
            continue
        past = seen[: number + 1]
        assert verdict.kind in ("hung", "idle")
        if verdict.kind == "hung":
            assert not any(s.answered for s in past[-LIMITS.misses :])
        else:
            assert past[-1].answered
            assert not any(s.slots_busy for s in past[-6:])
