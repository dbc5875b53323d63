# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas by load: single looks, and simulated fleets that run for hours in a moment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.core.scaling import Course, Decision, Limits, Load, decide

LIMITS = Limits()
QUIET = Load(replicas=1, coming=0, min=1, max=3, each=4, slots=4, coming_slots=0, busy=0, waiting=0)


def after(load: Load, seconds: float, limits: Limits = LIMITS, course: Course | None = None) -> Decision | None:
    """What is decided at the end of so many seconds of this load, seen from their first moment on."""
    course, _ = decide(course or Course(), load, 0.0, limits)
    return decide(course, load, seconds, limits)[1]


def test_a_strain_must_last() -> None:
    strained = replace(QUIET, busy=4)
    assert after(strained, 1.0) is None
    assert after(strained, 3.0) == Decision(step="up", reason="4 of 4 slots busy")


def test_who_waits_longer_and_in_greater_number_waits_less() -> None:
    waiting = replace(QUIET, busy=4, waiting=1)
    assert after(waiting, 1.0) is None
    crowd = replace(QUIET, busy=4, waiting=40)
    found = after(crowd, 0.5)
    assert found == Decision(step="up", reason="40 waiting, 4 of 4 slots busy")
    assert after(crowd, 0.4) is None
    # Another queen led until now: the requests tell how long it has been so.
    assert decide(Course(), replace(waiting, oldest=9.0), 0.0, LIMITS)[1] is not None


def test_a_strain_that_ends_is_forgotten() -> None:
    course, _ = decide(Course(), replace(QUIET, busy=4), 0.0, LIMITS)
    course, _ = decide(course, QUIET, 2.0, LIMITS)
    course, found = decide(course, replace(QUIET, busy=4), 4.0, LIMITS)
    assert found is None
    assert course.strained_since == 4.0


def test_what_is_coming_counts_as_there() -> None:
    waiting = replace(QUIET, busy=4, waiting=2)
    assert after(waiting, 60.0) is not None
    assert after(replace(waiting, coming=1, coming_slots=4), 60.0) is None
    assert after(replace(waiting, waiting=9, coming=1, coming_slots=4), 60.0) is not None


def test_a_model_that_nobody_runs_is_none_of_its_business() -> None:
    assert after(replace(QUIET, replicas=0, min=0, slots=0, waiting=9), 60.0) is None


def test_waiting_alone_is_a_strain_whatever_the_slots_say() -> None:
    assert after(replace(QUIET, waiting=1), 60.0) is not None


def test_never_beyond_the_bounds() -> None:
    assert after(replace(QUIET, replicas=2, coming=1, busy=40, waiting=40), 1e6) is None
    assert after(replace(QUIET, replicas=1, busy=0), 1e6) is None
    assert after(replace(QUIET, replicas=1, min=0, max=1, busy=0), 1e6) is not None


@pytest.mark.parametrize(
    ("busy", "seconds", "goes"),
    [(1, 179.0, False), (1, 181.0, True), (2, 1e6, False), (0, 181.0, True)],
)
def test_down_when_one_fewer_would_still_be_half_idle(busy: int, seconds: float, goes: bool) -> None:
    found = after(replace(QUIET, replicas=2, slots=8, busy=busy), seconds)
    assert (found is not None) == goes
    if found is not None:
        assert found.step == "down"


def test_down_tells_why() -> None:
    found = after(replace(QUIET, replicas=2, slots=8, busy=1), 200.0)
    assert found == Decision(step="down", reason="at most 1 of 8 slots busy for 200 s")


def test_nobody_goes_while_somebody_comes_or_waits() -> None:
    two = replace(QUIET, replicas=2, slots=8)
    assert after(replace(two, coming_slots=4), 1e6) is None
    assert after(replace(two, waiting=1, max=2), 1e6) is None


def test_the_last_one_stays_longer_and_is_its_hives_matter_where_it_has_an_idle_timeout() -> None:
    last = replace(QUIET, min=0)
    assert after(last, 600.0) is None
    assert after(last, 901.0) == Decision(step="down", reason="no request for 901 s")
    assert after(replace(last, unloads_itself=True), 1e6) is None
    assert after(replace(last, busy=1), 1e6) is None


def test_two_steps_are_apart() -> None:
    strained = replace(QUIET, busy=4, waiting=40)
    course, found = decide(Course(strained_since=-10.0), strained, 0.0, LIMITS)
    assert found is not None
    assert course == Course(stepped_at=0.0)
    course, _ = decide(course, strained, 0.5, LIMITS)
    assert decide(course, strained, 1.9, LIMITS)[1] is None
    assert decide(course, strained, 2.0, LIMITS)[1] is not None


# Simulated: requests that take their time, replicas that take theirs to come.


@dataclass
class Fleet:
    """One model, one worker of the plan. Time goes in steps of half a second."""

    min: int
    max: int
    each: int
    takes: float = 5.0
    limits: Limits = LIMITS
    now: float = 0.0
    course: Course = field(default_factory=Course)
    replicas: int = 0
    #: When each that is being started is there.
    coming: list[float] = field(default_factory=list)
    steps: list[tuple[float, str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replicas = max(self.min, 1)

    def tick(self, wanted: int) -> None:
        """So many requests want a slot now."""
        self.now += 0.5
        self.replicas += sum(at <= self.now for at in self.coming)
        self.coming = [at for at in self.coming if at > self.now]
        slots = self.replicas * self.each
        busy = min(wanted, slots)
        load = Load(
            replicas=self.replicas,
            coming=len(self.coming),
            min=self.min,
            max=self.max,
            each=self.each,
            slots=slots,
            coming_slots=len(self.coming) * self.each,
            busy=busy,
            waiting=wanted - busy,
        )
        self.course, found = decide(self.course, load, self.now, self.limits)
        if found is None:
            return
        if found.step == "up":
            self.coming.append(self.now + self.takes)
        else:
            self.replicas -= 1
        assert self.min <= self.replicas + len(self.coming) <= self.max
        self.steps.append((self.now, found.step, self.replicas + len(self.coming)))

    def run(self, wanted: int, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.tick(wanted)


FLEETS = st.builds(
    Fleet,
    min=st.integers(0, 2),
    max=st.integers(2, 8),
    each=st.integers(1, 8),
    takes=st.sampled_from([0.5, 5.0, 60.0]),
)


@settings(max_examples=60, deadline=None)
@given(FLEETS, st.integers(1, 80))
def test_a_constant_load_is_answered_in_one_direction_and_then_left_alone(fleet: Fleet, wanted: int) -> None:
    fleet.run(wanted, 3600)
    assert len({step for _, step, _ in fleet.steps}) <= 1
    settled = len(fleet.steps)
    fleet.run(wanted, 3600)
    assert len(fleet.steps) == settled
    slots = fleet.replicas * fleet.each
    assert wanted <= 0.8 * slots or fleet.replicas == fleet.max
    assert fleet.replicas <= max(fleet.min, 1) or wanted > 0.5 * (slots - fleet.each) - 1e-9 or len(fleet.steps) == 0


@settings(max_examples=40, deadline=None)
@given(FLEETS, st.lists(st.tuples(st.integers(0, 60), st.integers(1, 240)), max_size=12))
def test_whatever_comes_the_bounds_hold_and_steps_are_apart(fleet: Fleet, loads: list[tuple[int, int]]) -> None:
    for wanted, seconds in loads:
        fleet.run(wanted, seconds)
    times = [at for at, _, _ in fleet.steps]
    assert all(b - a >= fleet.limits.cooldown for a, b in pairwise(times))


@settings(max_examples=40, deadline=None)
@given(FLEETS, st.integers(9, 80))
def test_a_burst_scales_up_and_its_end_down_again(fleet: Fleet, wanted: int) -> None:
    before = fleet.replicas
    fleet.run(wanted, 600)
    top = fleet.replicas
    if wanted > 0.8 * before * fleet.each and before < fleet.max:
        assert top > before
    fleet.run(0, 3 * 3600)
    assert (fleet.replicas, fleet.coming) == (fleet.min, [])
    assert [n for _, step, n in fleet.steps if step == "down"] == list(range(top - 1, fleet.min - 1, -1))


def test_a_burst_that_is_over_before_they_come_does_not_start_them_all() -> None:
    fleet = Fleet(min=1, max=8, each=4, takes=20.0)
    fleet.run(6, 10)  # two replicas have eight slots: 6 of them is 75 %
    assert len(fleet.coming) == 1
    fleet.run(0, 15)
    assert (fleet.replicas, fleet.coming) == (2, [])


def test_a_load_that_swings_around_the_line_does_not_make_it_flap() -> None:
    fleet = Fleet(min=1, max=4, each=4)
    for _ in range(600):
        fleet.run(4, 10)
        fleet.run(2, 10)
    assert [step for _, step, _ in fleet.steps] == ["up"]
