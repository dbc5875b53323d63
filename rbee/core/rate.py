# SPDX-License-Identifier: GPL-3.0-or-later
"""A limit of requests a minute: a bucket that holds a minute's worth and fills all the time. Pure.

The generic cell rate algorithm (ITU-T I.371): one number, the time at which the bucket would be full again, stands
for it. Times are of one clock that never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is left of a limit: `remaining` requests now, all `limit` of them in `reset` seconds."""

    limit: int
    remaining: int
    reset: float


class Bucket:
    """`full`: when it is full again; what is past is full."""

    __slots__ = ("full",)

    def __init__(self) -> None:
        self.full = 0.0

    def take(self, per_minute: int, now: float, many: int = 1) -> float:
        """Takes `many` and gives 0, or takes nothing and gives the seconds after which it would."""
        each = 60.0 / per_minute
        full = (self.full if self.full > now else now) + each * many
        wait = full - now - 60.0
        if wait > 1e-6:  # sums of `each` are not exact
            return wait
        self.full = full
        return 0.0

    def left(self, per_minute: int, now: float) -> Left:
        """What `take` would find."""
        reset = max(0.0, self.full - now)
        return Left(limit=per_minute, remaining=max(0, int(per_minute - reset * per_minute / 60.0 + 1e-6)), reset=reset)
