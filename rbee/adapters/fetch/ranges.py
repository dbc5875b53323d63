# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bytes of a file are here, and who fetches which of the others. Pure."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


class Ranges:
    """Bytes that are here, and those somebody is fetching; each a `[start, end)`."""

    def __init__(self, done: Iterable[Range] = ()) -> None:
        self._done: list[Range] = []
        self._claimed: list[Range] = []
        for start, end in done:
            self.add(start, end)

    @property
    def done(self) -> tuple[Range, ...]:
        """In order; neighbours are one."""
        return tuple(self._done)

    @property
    def count(self) -> int:
        return sum(end - start for start, end in self._done)

    @property
    def frontier(self) -> int:
        """Where the first missing byte is."""
        return self._done[0][1] if self._done and self._done[0][0] == 0 else 0

    @property
    def has_gaps(self) -> bool:
        return self.count > self.frontier

    def whole(self, total: int | None) -> bool:
        return total is not None and self.frontier >= total

    def add(self, start: int, end: int) -> None:
        """These bytes are here now."""
        if end <= start:
            return
        kept = []
        for a, b in self._done:
            if b < start or a > end:
                kept.append((a, b))
            else:
                start, end = min(a, start), max(b, end)
        self._done = sorted([*kept, (start, end)])

    def wall(self, position: int) -> int | None:
        """Where bytes that are here or claimed begin, at or after `position`; None when all after it is free."""
        return min((a for a, b in [*self._done, *self._claimed] if a >= position and b > a), default=None)

    def claim(self, total: int, most: int) -> Range | None:
        """The first bytes that are neither here nor claimed, at most so many; None when there are none."""
        at = 0
        for a, b in sorted([*self._done, *self._claimed]):
            if a > at:
                break
            at = max(at, b)
        if at >= total:
            return None
        found = (at, min(at + most, total, self.wall(at) or total))
        self.hold(found)
        return found

    def hold(self, claimed: Range) -> None:
        self._claimed.append(claimed)

    def release(self, claimed: Range) -> None:
        self._claimed.remove(claimed)
