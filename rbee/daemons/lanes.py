# SPDX-License-Identifier: GPL-3.0-or-later
"""Lanes: how many jobs of a kind run at once. What takes long waits for its like, never before what is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rbee.core.errors import Unavailable

#: Jobs that may wait in one lane.
QUEUE = 500


@dataclass(slots=True)
class _Lane:
    limit: int
    running: int = 0
    #: In the order of their coming; a dict, so that one in the middle can leave at once.
    waiting: dict[str, None] = field(default_factory=dict)


class Lanes:
    """`limits` by name of the lane, `default` for the others. Belongs to one event loop; knows jobs by their id."""

    def __init__(self, limits: Mapping[str, int], default: int, queue: int = QUEUE) -> None:
        self._limits = dict(limits)
        self._default = default
        self._queue = queue
        self._lanes: dict[str, _Lane] = {}

    def enter(self, name: str, job_id: str) -> int:
        """0: the job may run now; else its place among those that wait.

        Raises Unavailable (`too_many_jobs`) when too many wait already.
        """
        lane = self._lanes.setdefault(name, _Lane(self._limits.get(name, self._default)))
        if lane.running < lane.limit:
            lane.running += 1
            return 0
        if len(lane.waiting) >= self._queue:
            raise Unavailable(
                f"{lane.running} jobs of this kind run and {len(lane.waiting)} wait already.",
                code="too_many_jobs",
                retry_after=5,
            )
        lane.waiting[job_id] = None
        return len(lane.waiting)

    def leave(self, name: str, job_id: str) -> str | None:
        """The job has ended, or waits no more. The job that may run in its place, if any."""
        lane = self._lanes[name]
        if job_id in lane.waiting:
            del lane.waiting[job_id]
            return None
        if not lane.waiting:
            lane.running -= 1
            return None
        first = next(iter(lane.waiting))
        del lane.waiting[first]
        return first

    def counts(self) -> dict[str, tuple[int, int]]:
        """Of each lane that was ever used: jobs that run, jobs that wait."""
        return {name: (lane.running, len(lane.waiting)) for name, lane in self._lanes.items()}
