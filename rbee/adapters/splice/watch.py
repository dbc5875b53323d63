# SPDX-License-Identifier: GPL-3.0-or-later
"""One timer for all exchanges: a timer for each would cost every request more than the rest of its bookkeeping."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

log = logging.getLogger(__name__)

NEVER: Final = float("inf")
#: Seconds between looks, and so how late a deadline may be noticed.
TICK: Final = 0.05


class Watched(Protocol):
    """What has a time at which something must have happened."""

    #: It may move to later; to sooner only in `overdue`, or with another `Watch.add`.
    due: float

    def overdue(self, now: float) -> None:
        """`due` has passed: acts, and sets the next `due`."""


class Watch:
    """Looks at what is under way every `TICK` seconds while there is any. One for each event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._watched: set[Watched] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking = False
        #: Nothing is due before: hundreds of streams are not looked at in every tick.
        self._earliest = NEVER

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, asked for once: asking costs a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def add(self, watched: Watched) -> None:
        """Watches it until `remove`; it is called on its `due`, not before and at most a tick later."""
        self._watched.add(watched)
        if watched.due < self._earliest:
            self._earliest = watched.due
        if not self._ticking:
            self._ticking = True
            self.loop.call_later(TICK, self._tick)

    def remove(self, watched: Watched) -> None:
        """Watches it no longer."""
        self._watched.discard(watched)

    def _tick(self) -> None:
        now = self._clock()
        if now >= self._earliest:
            for watched in [one for one in self._watched if one.due <= now]:
                try:
                    watched.overdue(now)
                except Exception:  # one that fails must not stop the clock of all others
                    watched.due = NEVER
                    log.exception("a deadline could not be kept")
            self._earliest = min((one.due for one in self._watched), default=NEVER)
        if self._watched:
            self.loop.call_later(TICK, self._tick)
        else:
            self._ticking = False
