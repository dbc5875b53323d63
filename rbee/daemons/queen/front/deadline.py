# SPDX-License-Identifier: GPL-3.0-or-later
"""The caller's deadline: `X-Deadline` (epoch milliseconds) or `X-Request-Timeout` (seconds)."""

from __future__ import annotations

import math
from collections.abc import Callable

from rbee.core.errors import DeadlineExceeded, InvalidRequest


def deadline_of(
    at: str | None, within: str | None, arrived: float, wall: Callable[[], float]
) -> tuple[float, bytes | None]:
    """When the request's time is over on the clock of `arrived`: the earlier of `at` (X-Deadline) and `within`
    (X-Request-Timeout); and the X-Deadline for the worker where the client sent none itself.

    Raises InvalidRequest for nonsense, DeadlineExceeded when it is over already.
    """
    left = math.inf
    if at is not None:
        left = _number("X-Deadline", at) / 1000 - wall()
    if within is not None:
        left = min(left, _number("X-Request-Timeout", within))
    if left <= 0:
        raise DeadlineExceeded("The request's deadline has passed.")
    return arrived + left, b"%d" % int((wall() + left) * 1000) if at is None else None


def _number(name: str, said: str) -> float:
    try:
        value = float(said)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or value > 1e14:
        raise InvalidRequest(f"{name} must be a number, not {said[:40]!r}.", param=name)
    return value
