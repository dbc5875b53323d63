# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a download is and how fast, over its last seconds."""

from __future__ import annotations

import time
from collections import deque

#: Seconds that a speed is told of.
WINDOW = 5.0
#: At least so many seconds between two samples.
_EVERY = 0.1


class Meter:
    """Bytes of all files of one download. Called from the loop or from a thread, by one at a time for each file."""

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self._files: dict[str, int] = {}
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def done(self) -> int:
        return sum(list(self._files.values()))

    @property
    def started(self) -> bool:
        return bool(self._samples)

    def set(self, name: str, done: int) -> None:
        """So many bytes of a file are here."""
        first = not self._samples
        if first:
            self._samples.append((time.monotonic(), self.done))
        self._files[name] = done
        now = time.monotonic()
        if not first and now - self._samples[-1][0] >= _EVERY:
            self._samples.append((now, self.done))
            while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW:
                self._samples.popleft()

    def start(self, name: str, done: int) -> None:
        """So many bytes of a file are here already: no speed comes from them."""
        self._files[name] = done
        self._samples.clear()
        self._samples.append((time.monotonic(), self.done))

    @property
    def speed(self) -> int:
        """Bytes a second; 0 when nothing came lately."""
        samples = list(self._samples)
        if not samples:
            return 0
        now = time.monotonic()
        recent = [s for s in samples if now - s[0] <= WINDOW] or samples[-1:]
        began, count = recent[0]
        return max(0, int((self.done - count) / max(now - began, 1e-3)))

    @property
    def eta(self) -> float | None:
        speed = self.speed
        if self.total is None or speed <= 0:
            return None
        return round(max(0, self.total - self.done) / speed, 1)
