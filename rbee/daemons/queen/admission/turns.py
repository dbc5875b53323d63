# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots that become free are handed on, in the same moment, to those whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rbee.daemons.queen.admission.queues import Queues, Ticket
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing.router import Router

#: So many of a line are asked in one go whether they can use a free slot; the rest a moment later.
_SLICE = 64


class Turns:
    """Takes slots. Whoever can use a free one does not wait, and nobody is woken who cannot."""

    def __init__(self, registry: Registry, router: Router, queues: Queues, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._router = router
        self._queues = queues
        self._clock = clock
        self._scanning: set[Worker] = set()

    def take(self, worker: Worker) -> None:
        """One slot of it is in use from now on."""
        worker.in_flight += 1
        if worker.in_flight > worker.peak:
            worker.peak = worker.in_flight
        worker.last_used = self._clock()

    def hand_on(self, worker: Worker) -> None:
        """The free slots of `worker` go to those whose turn it is and who can use them."""
        if self._registry.workers.get(worker.worker_id) is not worker or self._registry.why_not(worker) is not None:
            return
        model = worker.beat.model
        while worker.free > 0 and self._queues.waiting(model) and self._serve_one(worker, model, 0):
            pass

    def settle(self, ticket: Ticket) -> None:
        """A new one may find a slot that those before it cannot use."""
        worker = self._router.choose(ticket.asked)
        if worker is None:
            return
        if self._queues.waiting(worker.beat.model) == 1:
            self._serve(worker.beat.model, ticket, worker)
        else:
            self.hand_on(worker)

    def _serve_one(self, worker: Worker, model: str, first: int) -> bool:
        """Serves the next of a line; False when nobody in this slice of it can go."""
        asked = 0
        for ticket in self._queues.order(model, first, _SLICE):
            asked += 1
            chosen = self._router.choose(ticket.asked)
            if chosen is not None:
                self._serve(model, ticket, chosen)
                return True
        if asked == _SLICE and worker not in self._scanning:
            self._scanning.add(worker)
            asyncio.get_running_loop().call_soon(self._scan_on, worker, model, first + _SLICE)
        return False

    def _serve(self, model: str, ticket: Ticket, worker: Worker) -> None:
        self.take(worker)
        self._queues.serve(model, ticket)
        ticket.worker = worker
        ticket.future.set_result(worker)

    def _scan_on(self, worker: Worker, model: str, first: int) -> None:
        """Further down the line, after others had the loop."""
        self._scanning.discard(worker)
        if worker.free > 0 and self._registry.why_not(worker) is None and self._serve_one(worker, model, first):
            self.hand_on(worker)
