# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests a minute, counted by several queens together.

Each counts for herself, at once, and tells the others a moment later what she has let in; they take it from their own
buckets. So a limit holds for all of them together, but for what comes within that moment, and no request waits for a
database. While that is away each queen holds the limit by herself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from rbee.contracts import codec
from rbee.daemons.job_store import Store
from rbee.daemons.queen.admission.limits import LocalRates

log = logging.getLogger(__name__)

_TOPIC = "rates"
#: Seconds for which what was let in is gathered before it is told.
GATHER = 0.1
#: Others' requests that a bucket takes on at most, in times what it holds.
_DEBT = 2.0


class SharedRates(LocalRates):
    """`Rates` over a shared store. Belongs to one event loop; `clock` is the one that `take` is asked with."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        super().__init__()
        self._store = store
        self._clock = clock
        #: By client: how many since the last word, and of how many a minute.
        self._taken: dict[str, tuple[int, int]] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._forget: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._forget = self._store.subscribe(_TOPIC, self._heard)

    def stop(self) -> None:
        self._forget()
        if self._telling is not None:
            self._telling.cancel()

    def take(self, name: str, per_minute: int, now: float) -> float:
        wait = super().take(name, per_minute, now)
        if wait == 0.0:
            self._taken[name] = (self._taken.get(name, (0, 0))[0] + 1, per_minute)
            if self._telling is None:
                self._telling = asyncio.get_running_loop().call_later(GATHER, self._tell)
        return wait

    def _tell(self) -> None:
        self._telling = None
        taken, self._taken = self._taken, {}
        self._store.publish(_TOPIC, codec.encode(taken))

    def _heard(self, data: bytes) -> None:
        if not data:
            return
        try:
            told = codec.decode(dict[str, tuple[int, int]], data)
        except codec.CodecError as e:
            log.warning("another queen tells what cannot be read: %s", e)
            return
        now = self._clock()
        for name, (many, per_minute) in told.items():
            if many > 0 and per_minute > 0:
                bucket = self.bucket(name, now)
                bucket.full = min(max(bucket.full, now) + many * 60.0 / per_minute, now + _DEBT * 60.0)
