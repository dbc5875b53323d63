# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate before the workers: limits, slots, and the queues of those that wait for one."""

from __future__ import annotations

from collections.abc import Callable

from rbee.contracts.configs import QueenConfig
from rbee.core.errors import DeadlineExceeded
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.front.errors import UNREACHABLE, NoWorker
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing.router import Router
from rbee.daemons.queen.scaling.starter import Starter


class Gate:
    """Every request goes `admit`, then `try_enter` or `wait`, `leave` for each worker it had, `done` in the end."""

    def __init__(
        self, registry: Registry, router: Router, starter: Starter, config: QueenConfig, clock: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._router = router
        self._starter = starter
        self._clock = clock
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self._limits = config.limits

    def admit(self, asked: Asked) -> None:
        """Counts it in, against its client's limits and its policies. Raises TooMany, RbeeError `policy_rejected`."""
        self._router.admit(asked)

    def done(self, asked: Asked) -> None:
        """The request that was admitted is over, however it ended."""

    def try_enter(self, asked: Asked) -> Worker | None:
        """A worker with a slot for it, taken; None: it must `wait`. Nobody overtakes those that wait."""
        worker = self._router.choose(asked)
        if worker is not None:
            worker.in_flight += 1
            worker.last_used = self._clock()
        return worker

    async def wait(self, asked: Asked) -> Worker:
        """A slot, taken, once there is one. Raises TooMany (the queue is full, its deadline cannot be met), Unavailable
        (NoWorker: nobody can, and none comes in time), DeadlineExceeded."""
        while True:
            left = None if asked.ends is None else asked.ends - self._clock()
            if left is not None and left <= 0:
                raise DeadlineExceeded("The request's deadline has passed.")
            worker = self.try_enter(asked)
            if worker is not None:
                return worker
            if not self._router.able(asked):
                coming = self._starter.need(asked.models)
                refused = [w for w, why in asked.tried.items() if not why.startswith(UNREACHABLE)]
                if left is None or (coming is None and not any(w in self._registry.workers for w in refused)):
                    raise NoWorker(asked.models, self._router.reasons(asked), coming)
            if not await self._registry.changed(60.0 if left is None else left) and left is not None:
                raise DeadlineExceeded("The model did not get ready within the request's deadline.")
            for worker_id in [w for w, why in asked.tried.items() if not why.startswith(UNREACHABLE)]:
                del asked.tried[worker_id]  # there is news: it may be able to answer now

    def leave(self, asked: Asked, worker: Worker, seconds: float | None) -> None:
        """Its slot is free. `seconds`: how long an answer that came whole took; None: it was none."""
        worker.in_flight -= 1
        worker.last_used = self._clock()

    def waiting(self, model: str) -> int:
        """Requests that wait for a slot of `model`."""
        return 0
