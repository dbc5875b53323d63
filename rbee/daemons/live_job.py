# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that has not ended yet, as its runner holds it; and one that only goes on while somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rbee.contracts.jobs import Job
from rbee.daemons import sse


@dataclass(slots=True)
class Live:
    """Without a task it waits for its turn."""

    job: Job
    lane: str
    handler: Callable[..., Any]
    request: Any
    feed: sse.Feed = field(default_factory=sse.Feed)
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    #: As JSON, once there is one.
    result: bytes = b""
    fade: asyncio.Task[None] | None = None

    @property
    def endless(self) -> bool:
        """Whether it goes on until it is cancelled: then it is of use only to those who read its stream."""
        return getattr(self.request, "follow", False) is True


def attend(live: Live, longest: float, abandon: Callable[[], None]) -> None:
    """`abandon()` is called once nobody has read the job's stream for `longest` seconds. Needs a running loop.

    Whoever follows a log and is killed, or loses the network, cancels nothing: their job would write its events and
    keep its place in its lane for ever.
    """
    loop = asyncio.get_running_loop()

    def look() -> None:
        if live.feed.ended:
            return
        left = longest - live.feed.unheard()
        if left <= 0:
            abandon()
        else:
            loop.call_later(left, look)

    loop.call_later(longest, look)
