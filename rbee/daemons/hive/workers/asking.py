# SPDX-License-Identifier: GPL-3.0-or-later
"""What others ask of a worker's life, and how that life hears of it whatever it is doing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rbee.adapters.process import Step
from rbee.adapters.tasks import end_tasks

T = TypeVar("T")


def nobody(step: Step) -> None:
    """Of steps that are told to nobody."""


@dataclass(slots=True, eq=False)
class Ask:
    """To end the process, then to unload the worker or to start it anew. `reason` is a sentence for a restart, one
    without its subject for an unload. `on_step` is told how it goes; `done` is set when the process has ended and
    what follows has begun, or when the life ended otherwise."""

    kind: Literal["unload", "restart"]
    reason: str
    drain: bool = True
    on_step: Callable[[Step], None] = nobody
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Mailbox:
    """Holds the one ask that a life has not answered yet."""

    def __init__(self) -> None:
        self.ask: Ask | None = None
        self._come = asyncio.Event()

    def put(self, ask: Ask) -> None:
        assert self.ask is None, "wait for the one before"
        self.ask = ask
        self._come.set()

    def answer(self) -> None:
        """It is done, or never will be."""
        if self.ask is not None:
            self.ask.done.set()
        self.ask = None
        self._come.clear()

    async def wait(self, seconds: float) -> None:
        """Until somebody asks, so long at the most."""
        waiting = asyncio.ensure_future(self._come.wait())
        try:
            await asyncio.wait({waiting}, timeout=seconds)
        finally:
            waiting.cancel()

    async def unless_asked(self, doing: Coroutine[Any, Any, T]) -> T | None:
        """What comes of it; None when somebody asks meanwhile: then it is cancelled."""
        work, come = asyncio.ensure_future(doing), asyncio.ensure_future(self._come.wait())
        try:
            await asyncio.wait({work, come}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            come.cancel()
            if not work.done():
                await end_tasks(work)
