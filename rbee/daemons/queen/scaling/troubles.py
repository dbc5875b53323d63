# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that could not be started: why, and how long nobody tries again."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds after the first failure, doubled with each, and the longest.
FIRST, LONGEST = 2.0, 300.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """`until` is of the queen's clock."""

    why: str
    times: int
    until: float


class Troubles:
    """By worker. What is told stays until the worker has been started."""

    def __init__(self, first: float = FIRST, longest: float = LONGEST) -> None:
        self._first = first
        self._longest = longest
        self._of: dict[str, Trouble] = {}

    def note(self, worker_id: str, why: str, now: float) -> Trouble:
        times = self._of[worker_id].times + 1 if worker_id in self._of else 1
        wait = min(self._longest, self._first * 2.0 ** min(times - 1, 32))
        self._of[worker_id] = found = Trouble(why, times, now + wait)
        return found

    def over(self, worker_id: str) -> None:
        self._of.pop(worker_id, None)

    def holds_back(self, worker_id: str, now: float) -> bool:
        """Whether it failed a moment ago."""
        found = self._of.get(worker_id)
        return found is not None and now < found.until

    def of(self, worker_id: str) -> Trouble | None:
        return self._of.get(worker_id)

    def why(self, worker_id: str) -> str | None:
        found = self._of.get(worker_id)
        return None if found is None else found.why

    def keep(self, worker_ids: set[str]) -> None:
        """Forgets all others."""
        self._of = {w: t for w, t in self._of.items() if w in worker_ids}
