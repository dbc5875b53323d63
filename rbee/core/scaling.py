# SPDX-License-Identifier: GPL-3.0-or-later
"""How many replicas a worker shall have now: one more, one fewer, or as it is. Pure; the clock is an argument."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Step = Literal["up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to act. Times in seconds; shares are of slots.

    Between `up_share` of n replicas and `down_share` of n - 1 lies the room in which nothing is done: a load that asked
    for one more never asks for one fewer.
    """

    up_share: float = 0.8
    down_share: float = 0.5
    #: The strain must last so long; the more requests wait, the shorter, down to `up_soonest`.
    up_after: float = 3.0
    up_soonest: float = 0.5
    #: The slack must last so long.
    down_after: float = 180.0
    #: Between two steps.
    cooldown: float = 2.0
    #: The last replica goes after so long without any request, where its own `idle_timeout` does not say.
    idle_after: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is there and what is wanted of it. Slots and requests are the model's, over all its workers.

    `replicas` serve, `coming` are being started, both of this very worker spec; `each`: slots of one of them.
    `oldest`: seconds that the first of the `waiting` waits. `unloads_itself`: its hive unloads it when it is idle.
    """

    replicas: int
    coming: int
    min: int
    max: int
    each: int
    slots: int
    coming_slots: int
    busy: int
    waiting: int
    oldest: float = 0.0
    unloads_itself: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is remembered between two looks."""

    strained_since: float | None = None
    slack_since: float | None = None
    stepped_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`reason` is a sentence without its subject."""

    step: Step
    reason: str


def decide(course: Course, load: Load, now: float, limits: Limits) -> tuple[Course, Decision | None]:
    """One look; at most one step, never beyond `min` and `max`.

    Replicas that are coming count as if they were there, so that a burst starts no more than it will need.
    """
    strained, slack = _strained(load, limits), _slack(load, limits)
    course = replace(
        course,
        strained_since=_since(course.strained_since, strained, now),
        slack_since=_since(course.slack_since, slack, now),
    )
    if course.stepped_at is not None and now - course.stepped_at < limits.cooldown:
        return course, None
    decision = None
    if course.strained_since is not None:
        decision = _up(load, max(now - course.strained_since, load.oldest), limits)
    elif course.slack_since is not None:
        decision = _down(load, now - course.slack_since, limits)
    return (course if decision is None else Course(stepped_at=now)), decision


def _since(before: float | None, holds: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if before is None else before


def _strained(load: Load, limits: Limits) -> bool:
    if load.slots + load.coming_slots == 0:
        return False  # a model that nobody runs is a matter of cold starts, which make room too
    if load.replicas + load.coming >= load.max:
        return False
    if load.waiting > 0 and load.coming_slots == 0:
        return True
    return load.busy + load.waiting > limits.up_share * (load.slots + load.coming_slots)


def _slack(load: Load, limits: Limits) -> bool:
    if load.replicas <= load.min or load.coming_slots > 0 or load.waiting > 0:
        return False
    left = load.slots - load.each
    return load.busy < limits.down_share * left if left > 0 else load.busy == 0 and not load.unloads_itself


def _up(load: Load, lasted: float, limits: Limits) -> Decision | None:
    beyond = max(0.0, load.busy + load.waiting - limits.up_share * (load.slots + load.coming_slots))
    after = max(limits.up_soonest, limits.up_after / (1 + beyond / max(1, load.each)))
    if lasted < after:
        return None
    if load.waiting:
        return Decision(step="up", reason=f"{load.waiting} waiting, {load.busy} of {load.slots} slots busy")
    return Decision(step="up", reason=f"{load.busy} of {load.slots} slots busy")


def _down(load: Load, lasted: float, limits: Limits) -> Decision | None:
    last = load.slots <= load.each
    if lasted < (limits.idle_after if last else limits.down_after):
        return None
    busy = "no request" if load.busy == 0 else f"at most {load.busy} of {load.slots} slots busy"
    return Decision(step="down", reason=f"{busy} for {lasted:.0f} s")
