# SPDX-License-Identifier: GPL-3.0-or-later
"""How long answers take, and so how long one waits for a turn. Pure."""

from __future__ import annotations

#: Weight of the newest answer in the mean.
_NEW = 0.1
#: From so many answers on; before, all weigh the same.
_SETTLED = 10
#: How fast `quick` follows answers that are faster, and those that are slower.
_DOWN, _UP = 0.5, 0.02


class ServiceTimes:
    """Of one model. `mean` forgets slowly (about the last twenty answers count); `quick` stays near the fast ones.

    Both are None until something was measured.
    """

    __slots__ = ("_count", "mean", "quick")

    def __init__(self) -> None:
        self._count = 0
        self.mean: float | None = None
        self.quick: float | None = None

    def add(self, seconds: float) -> None:
        """An answer that came whole took so long."""
        if self.mean is None or self.quick is None:
            self.mean = self.quick = seconds
            self._count = 1
            return
        self._count += 1
        self.mean += (seconds - self.mean) * (_NEW if self._count >= _SETTLED else 1 / self._count)
        self.quick += (seconds - self.quick) * (_DOWN if seconds < self.quick else _UP)

    def wait(self, ahead: int, slots: int) -> float | None:
        """Seconds until a slot is free for who has `ahead` others before him; None: not known."""
        if self.mean is None or slots <= 0:
            return None
        return self.mean * (ahead + 1) / slots
