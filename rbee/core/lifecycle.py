# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a worker: started again, given up, killed as hung, unloaded. Pure; clocks are arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How a hive cares for its workers. All times in seconds."""

    #: Between looks at a worker that is well, and how long it may take to answer one.
    look_every: float = 5.0
    answer_within: float = 5.0
    #: One that lives and has not answered for so long, and so many looks in a row, is hung.
    hung_after: float = 60.0
    misses: int = 3
    #: Looks in a row at which it holds more than its limit.
    over_looks: int = 2
    #: The wait before it is started again: the first, doubled with every end, and the longest.
    wait_first: float = 0.5
    wait_longest: float = 60.0
    #: So many ends within so long, and it is given up. Ends that are longer ago are forgotten.
    ends: int = 5
    within: float = 600.0
    #: From SIGTERM to SIGKILL: a worker drains by itself for 30, and needs a moment to end its engine.
    drain: float = 35.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterEnd:
    """`ends` are those that still count, this one last. `wait` is None when it is started no more."""

    ends: tuple[float, ...]
    wait: float | None


def after_end(ends: Sequence[float], now: float, limits: Limits) -> AfterEnd:
    """A process that was ready before has ended at `now`. Times are of the wall clock, so that they outlive a hive;
    those that a clock set back has put into the future count as now."""
    kept = (*(min(t, now) for t in ends if now - t < limits.within), now)
    return AfterEnd(ends=kept, wait=None if len(kept) >= limits.ends else wait_after(len(kept), limits))


def wait_after(ends: int, limits: Limits) -> float:
    """Seconds before the next start, after so many ends that count: exponential, bounded."""
    return min(limits.wait_longest, limits.wait_first * 2.0 ** min(max(0, ends - 1), 64))


def too_often(ends: Sequence[float], last: str) -> str:
    """Why it is given up, for a person. `last` is a sentence."""
    within = duration(ends[-1] - ends[0])
    return f"It ended {len(ends)} times within {within} and is started no more; the last time: {last}"


def duration(seconds: float) -> str:
    """For a person: `42 seconds`, `5 minutes`, `2 hours`."""
    for size, name in ((3600, "hour"), (60, "minute")):
        if seconds >= size * 2 or seconds == size:
            return f"{seconds / size:.0f} {name}{'' if seconds == size else 's'}"
    return f"{seconds:.3g} second{'' if seconds == 1 else 's'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen of a process that lives. `answered`: it told how it is. `resident`: bytes of it and its engine,
    None when that could not be measured."""

    answered: bool
    slots_busy: int = 0
    requests: int = 0
    resident: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is remembered between looks. Times are of a clock that never goes back."""

    active_at: float
    answered_at: float
    requests: int = 0
    missed: int = 0
    over: int = 0

    @classmethod
    def begun(cls, now: float) -> Course:
        """Of a worker that is ready now, or has just been found running."""
        return cls(active_at=now, answered_at=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why its process must end: it is `hung` (killed, started again), `too_big` or `given_up` by itself (drained,
    started again) or `idle` (drained, unloaded). `reason` is a sentence without its subject: `held 812 MB, its limit
    is 800 MB`."""

    kind: Literal["hung", "too_big", "given_up", "idle"]
    reason: str


def look(
    course: Course,
    seen: Look,
    now: float,
    limits: Limits,
    *,
    memory_limit_mb: int | None = None,
    idle_timeout: float | None = None,
) -> tuple[Course, Verdict | None]:
    """One look. A worker that does not answer is never idle: nobody knows what it does."""
    course = _followed(course, seen, now, memory_limit_mb)
    silent = now - course.answered_at
    if course.missed >= limits.misses and silent >= limits.hung_after:
        return course, Verdict(kind="hung", reason=f"hung: it has not answered for {duration(silent)}")
    if memory_limit_mb is not None and course.over >= limits.over_looks and seen.resident is not None:
        held = f"held {seen.resident / 1e6:,.0f} MB, its limit is {memory_limit_mb:,} MB"
        return course, Verdict(kind="too_big", reason=held)
    if idle_timeout is not None and seen.answered and now - course.active_at >= idle_timeout:
        return course, Verdict(kind="idle", reason=f"had no request for {duration(idle_timeout)}")
    return course, None


def _followed(course: Course, seen: Look, now: float, memory_limit_mb: int | None) -> Course:
    if memory_limit_mb is None:
        course = replace(course, over=0)
    elif seen.resident is not None:
        course = replace(course, over=course.over + 1 if seen.resident > memory_limit_mb * 10**6 else 0)
    if not seen.answered:
        return replace(course, missed=course.missed + 1)
    active = seen.slots_busy > 0 or seen.requests != course.requests
    return replace(
        course,
        answered_at=now,
        missed=0,
        requests=seen.requests,
        active_at=now if active else course.active_at,
    )
