# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the engine alive: starts it, starts it again when it dies, and gives up when it dies too often."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rbee.adapters.splice import Splice
from rbee.contracts import defaults
from rbee.core.errors import Unavailable
from rbee.daemons.worker.process import Engine, EngineFailed, Launch
from rbee.daemons.worker.state import WorkerState

log = logging.getLogger(__name__)

#: Seconds of processor time between two looks below which an engine does nothing.
_AT_WORK = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds, and how many restarts within `restart_window` are one too many."""

    start_timeout: float = defaults.WORKER_START_TIMEOUT
    stop_timeout: float = defaults.ENGINE_STOP_TIMEOUT
    drain: float = defaults.WORKER_DRAIN
    restarts: int = 3
    restart_window: float = 60.0
    backoff: float = defaults.BACKOFF_FIRST
    #: A serving engine is asked so often, and is hung when it misses so many answers in a row.
    look_every: float = 10.0
    look_timeout: float = 5.0
    misses: int = 3


class Supervisor:
    """Owner of the engine. `engine` is None unless it is ready to serve.

    `launch` makes the command of the next life (a fresh port each time). `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        launch: Callable[[], Launch],
        state: WorkerState,
        splice: Splice,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._launch = launch
        self._state = state
        self._splice = splice
        self._limits = limits
        self._clock = clock
        self._deaths: deque[float] = deque()
        self._child: Engine | None = None
        self.engine: Engine | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins; what comes of it is told by the state."""
        self._task = asyncio.create_task(self._run())

    @property
    def loading_pid(self) -> int | None:
        """The engine that is being waited for."""
        return self._child.pid if self._child is not None and self.engine is None else None

    def serving(self) -> Engine:
        """The engine. Raises Unavailable: it loads, died, or the worker stops."""
        state = self._state
        if self.engine is not None and state.phase == "serving":
            return self.engine
        if state.phase == "stopping":
            raise Unavailable("This worker is stopping.", code="worker_stopping", retry_after=1)
        if state.phase == "failed":
            raise Unavailable(
                f"This worker has failed: {state.reason}", code="worker_failed", retry_after=defaults.HEARTBEAT_INTERVAL
            )
        raise Unavailable("The model is being loaded.", code="model_loading", retry_after=2)

    async def stop(self) -> None:
        """Ends the engine for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self.engine = None
        if self._child is not None:
            await self._child.stop(self._limits.stop_timeout)

    async def _run(self) -> None:
        try:
            while True:
                failure = await self._live()
                log.warning("%s", failure.message)
                self.engine = None
                if failure.final or self._too_often():
                    again = "" if failure.final else f" It did so {len(self._deaths)} times in a short while."
                    self._state.enter("failed", f"{failure}{again}")
                    return
                self._state.enter("starting", f"{failure} Starting it again.")
                await asyncio.sleep(self._limits.backoff * 2 ** (len(self._deaths) - 1))
        except asyncio.CancelledError:
            raise
        except Exception as e:  # a fault of ours must not look like a model that loads for ever
            log.exception("supervising the engine")
            self._state.enter("failed", f"The worker has a fault: {e!r}")

    async def _live(self) -> EngineFailed:
        """One life of the engine, to its end; why it ended."""
        try:
            child = self._child = await Engine.start(self._launch())
        except EngineFailed as e:
            return e
        try:
            await child.wait_ready(self._splice, self._limits.start_timeout)
        except EngineFailed as e:
            await child.stop(0.1)
            return e
        self._state.slots = int(child.facts.get("slots") or self._state.slots)
        self._state.context_length = child.facts.get("context_length") or self._state.context_length
        self._state.capabilities = tuple(c for c in ("tools", "vision") if child.facts.get(c))
        self._state.engine_starts += 1
        self.engine = child
        self._state.enter("serving")
        log.info("the engine is ready (pid %d)", child.pid)
        hung = await self._watch(child)
        self._splice.drop(child.upstream)
        return hung or await child.failure()

    async def _watch(self, child: Engine) -> EngineFailed | None:
        """Until the engine ends; or kills it and says why, when it is there and does nothing any more.

        One that gives no answer but uses the processor is at work: all its threads may sit in long requests.
        """
        limits, missed, used = self._limits, 0, child.cpu_seconds()
        while not await child.ends_within(limits.look_every):
            answers = await child.answers(self._splice, limits.look_timeout)
            before, used = used, child.cpu_seconds()
            missed = 0 if answers or used - before > _AT_WORK else missed + 1
            if missed >= limits.misses:
                await child.kill(limits.stop_timeout)
                return EngineFailed(f"{child.launch.name} hung: it gave no answer {missed} times and did nothing.")
        return None

    def _too_often(self) -> bool:
        now = self._clock()
        self._deaths.append(now)
        while self._deaths[0] < now - self._limits.restart_window:
            self._deaths.popleft()
        return len(self._deaths) > self._limits.restarts
