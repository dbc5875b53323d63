# SPDX-License-Identifier: GPL-3.0-or-later
"""What several queens share, for a daemon that shares with nobody: kept in memory, gone with the process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

_Hear = Callable[[bytes], None]


class Alone:
    """Half of a store. Its leases and buckets need no table: whoever could want them is in this process."""

    shared = False
    trouble: str | None = None
    #: Nobody else can be told apart from it.
    holder = "self"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}

    async def lease(self, name: str, ttl: float) -> bool:
        return True

    async def release(self, name: str) -> None:
        return

    async def take(self, name: str, tokens: float, rate: float, burst: float) -> bool:
        now = self._clock()
        level, at = self._levels.get(name, (burst, now))
        level = min(burst, level + rate * (now - at))
        granted = level >= tokens
        self._levels[name] = (level - tokens if granted else level, now)
        return granted

    async def request_cancel(self, job_id: str) -> None:
        """Nobody else runs jobs of this store."""

    async def orders(self, live: Collection[str]) -> tuple[list[str], list[str]]:
        return [], []

    def publish(self, topic: str, data: bytes) -> None:
        """Nobody hears it."""

    def subscribe(self, topic: str, hear: _Hear) -> Callable[[], None]:
        return lambda: None
