# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's last moments: from when on she takes no more requests, and how long she waits for those she has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rbee.contracts import defaults
from rbee.core.errors import Unavailable

#: Seconds between the end of the job that stops her and the end of the process.
_LINGER = 1.0


class Ending:
    """One of these for a queen. `stopping` is looked at by every request, so it is a plain attribute.

    `active` gives how many requests are in flight. `on_refuse` is called once, when she begins to refuse.
    """

    __slots__ = ("_active", "_asked", "_deadline", "_on_refuse", "stopping")

    def __init__(self, active: Callable[[], int], on_refuse: Callable[[], None]) -> None:
        self._active = active
        self._on_refuse = on_refuse
        self._asked = asyncio.Event()
        self._deadline: float | None = None
        self.stopping = False

    def refuse(self) -> None:
        """From now on new requests and jobs get 503, code `stopping`."""
        if not self.stopping:
            self.stopping = True
            self._on_refuse()

    @staticmethod
    def refusal() -> Unavailable:
        """For a request that came too late. Whoever asks again finds the next queen, if she is only restarted."""
        return Unavailable("The queen is stopping.", code="stopping", retry_after=2.0)

    async def drained(self, limit: float = defaults.DAEMON_DRAIN) -> int:
        """Waits until no request is in flight, at most `limit` seconds after the first call of this; how many are left.
        The time is given once: who waited for a stop on demand does not wait again in the stop itself."""
        clock = asyncio.get_running_loop().time
        if self._deadline is None:
            self._deadline = clock() + limit
        # Nothing tells when a request is over: the hot path has no time for that.
        while self._active() and clock() < self._deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return self._active()

    def end(self) -> None:
        """The process is to end; in a moment, so that whoever asked for it can read how it went."""
        asyncio.get_running_loop().call_later(_LINGER, self._asked.set)

    async def asked(self) -> None:
        """Returns once someone asked, over HTTP, that the process end."""
        await self._asked.wait()
