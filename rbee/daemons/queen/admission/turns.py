# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots that become free are handed on, in the same moment, to those whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rbee.daemons.queen.admission.queues import Queues, Ticket
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing.router import Router

#: So many of a line are asked in one go whether they can use a free slot (or as many as _SHORT allows); the rest a
#: moment later.
_SLICE = 64
#: A search of a long line is repeated after so many times what it took, unless that was short.
_REST, _SHORT = 10.0, 0.001


class Turns:
    """Takes slots. Whoever can use a free one does not wait, and nobody is woken who cannot."""

    def __init__(self, registry: Registry, router: Router, queues: Queues, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._router = router
        self._queues = queues
        self._clock = clock
        #: Models whose lines are being searched beyond the first slice, and until when others are not.
        self._scanning: set[str] = set()
        self._rests: dict[str, float] = {}

    def take(self, worker: Worker) -> None:
        """One slot of it is in use from now on."""
        worker.in_flight += 1
        if worker.in_flight > worker.peak:
            worker.peak = worker.in_flight
        worker.last_used = self._clock()

    def hand_on(self, worker: Worker) -> None:
        """The free slots of `worker` go to those whose turn it is and who can use them. When it is lost, those that
        waited for it may have to be content with another model."""
        if self._registry.workers.get(worker.worker_id) is worker and self._registry.why_not(worker) is None:
            self._offer(worker)
        else:
            self.offer_all()

    def offer_all(self) -> None:
        """As `hand_on`, for every worker of a model that somebody waits for."""
        for model in self._queues.models():
            for worker in self._registry.of_models((model,)):
                if worker.free > 0 and self._registry.why_not(worker) is None and not self._offer(worker):
                    break  # who cannot use this one has been asked about all of them

    def settle(self, ticket: Ticket) -> None:
        """A new one may find a slot that those before it cannot use."""
        worker = self._router.choose(ticket.asked)
        if worker is None:
            return
        if self._queues.waiting(worker.beat.model) == 1:
            self._serve(worker.beat.model, ticket, worker)
        else:
            self._offer(worker)

    def _offer(self, worker: Worker) -> bool:
        """False: nobody can use what it has left."""
        model = worker.beat.model
        while worker.free > 0 and self._queues.waiting(model):
            served, rest = self._serve_one(model, 0)
            if not served:
                if rest and model not in self._scanning and self._clock() >= self._rests.get(model, 0.0):
                    self._scanning.add(model)
                    asyncio.get_running_loop().call_soon(self._scan, worker, rest, 0.0)
                return False
        return True

    def _serve_one(self, model: str, first: int) -> tuple[bool, int]:
        """Serves the next of a slice of the line: whether there was one, and where the rest begins; 0: no more."""
        asked, late = 0, self._clock() + _SHORT
        for ticket in self._queues.order(model, first, _SLICE):
            asked += 1
            if ticket.future.done():
                continue  # cancelled, and about to go
            chosen = self._router.choose(ticket.asked)
            if chosen is not None:
                self._serve(model, ticket, chosen)
                return True, first
            if self._clock() > late:  # policies take longer
                break
        else:
            return False, first + asked if asked == _SLICE else 0
        return False, first + asked

    def _serve(self, model: str, ticket: Ticket, worker: Worker) -> None:
        self.take(worker)
        self._queues.serve(model, ticket)
        ticket.worker = worker
        ticket.future.set_result(worker)

    def _scan(self, worker: Worker, first: int, spent: float) -> None:
        """Down the line, slice by slice with others in between: somebody there may use what those before cannot."""
        model, began, rest = worker.beat.model, self._clock(), 0
        if self._registry.why_not(worker) is None:
            served = True
            while served and worker.free > 0 and self._queues.waiting(model):
                served, rest = self._serve_one(model, first)
        spent += self._clock() - began
        if rest and worker.free > 0:
            asyncio.get_running_loop().call_soon(self._scan, worker, rest, spent)
            return
        self._scanning.discard(model)
        if spent > _SHORT:
            self._rests[model] = self._clock() + spent * _REST
        else:
            self._rests.pop(model, None)
