# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a fleet when its queen was stopped, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rbee.cli.views.problems import harmless
from rbee.contracts.operations.fleet import QueenStopResponse

#: More names than these are only counted.
_NAMES = 12


def render(answer: QueenStopResponse, now: datetime) -> Iterator[str]:
    """A line of what was stopped, one of what goes on without her, and one for each that could not be stopped."""
    stopped = [_many("hive", answer.hives_stopped)] if answer.hives_stopped else []
    if answer.workers_stopped:
        stopped.append(f"{answer.workers_stopped} worker{'s' * (answer.workers_stopped != 1)}")
    if stopped:
        yield f"Stopped: {'; '.join(stopped)}."
    left = [_many("hive", answer.hives_left)] if answer.hives_left else []
    left += [_many("worker", answer.workers_left)] if answer.workers_left else []
    if left:
        yield f"Still running: {'; '.join(left)}. With --cascade these are stopped too."
    for why in answer.failed:
        yield f"Not stopped: {harmless(why)}"


def _many(what: str, names: Sequence[str]) -> str:
    """`hive box`, `3 workers: a, b, c`."""
    if len(names) == 1:
        return f"{what} {harmless(names[0])}"
    shown = ", ".join(harmless(name) for name in names[:_NAMES])
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{len(names)} {what}s: {shown}{more}"
