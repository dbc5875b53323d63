# SPDX-License-Identifier: GPL-3.0-or-later
"""How long those who wait put up with it: deadlines, timeouts, workers that are lost or still to come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rbee.core.errors import DeadlineExceeded, RbeeError, Unavailable
from rbee.core.spec_queen import LimitsSpec
from rbee.daemons.queen.admission.estimates import Estimates, come_again
from rbee.daemons.queen.admission.queues import Queues, Ticket
from rbee.daemons.queen.admission.turns import Turns
from rbee.daemons.queen.front.errors import UNREACHABLE, NoWorker
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing.router import Router
from rbee.daemons.queen.scaling.starter import Loading, Starter

#: All that wait are looked after by and by, so many in so many seconds: workers fall silent without a word.
_LOOK_EVERY, _LOOK_AT = 1.0, 256
#: Those in a queue whose last worker is lost wait so long for it to come back.
GRACE = 5.0
_INSTANT = 1e-3


class Patience:
    """Ends the waiting of those that wait in vain. `limits` may be replaced; then `rearm`."""

    def __init__(
        self,
        registry: Registry,
        router: Router,
        starter: Starter,
        queues: Queues,
        estimates: Estimates,
        turns: Turns,
        clock: Callable[[], float],
    ) -> None:
        self.limits = LimitsSpec()
        self._registry = registry
        self._router = router
        self._starter = starter
        self._queues = queues
        self._estimates = estimates
        self._turns = turns
        self._clock = clock
        self._looking: asyncio.TimerHandle | None = None

    def begin(self, ticket: Ticket) -> None:
        """It is about to wait. Raises NoWorker when nobody can serve it, and nobody comes in its time."""
        if self._router.able(ticket.asked):
            return
        ends = ticket.asked.ends
        ticket.lost = ticket.since
        ticket.patience = (self.limits.cold_wait or 0.0) if ends is None else ends - ticket.since
        self._bear(ticket, ticket.since, self._starter.need(ticket.asked.models))

    def watch(self, ticket: Ticket) -> None:
        """It waits."""
        self._arm(ticket)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY, self.look)

    def rearm(self) -> None:
        """The limits are others now."""
        for ticket in self._queues.tickets:
            self._arm(ticket)

    def news(self, worker: Worker | None) -> None:
        """A worker spoke, or answers again; None: something else that those who wait may want to know."""
        if not self._queues.tickets:
            return
        if worker is None:
            self.look()
            return
        if self._registry.why_not(worker) is None:
            for ticket in self._queues.returned:
                tried = ticket.asked.tried
                if tried and not tried.get(worker.worker_id, UNREACHABLE).startswith(UNREACHABLE):
                    del tried[worker.worker_id]  # it refused, and may be able to answer now
        self._turns.hand_on(worker)

    def look(self) -> None:
        """Looks after those that wait: slots that became free unheard, workers that fell silent."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._turns.offer_all()
        if not self._queues.tickets:
            return
        self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY, self.look)
        coming: dict[tuple[str, ...], Loading | None] = {}
        now = self._clock()
        for ticket in self._queues.turn(_LOOK_AT):
            if self._found(ticket):
                continue
            models = ticket.asked.models
            if models not in coming:
                coming[models] = self._starter.need(models)
            if ticket.lost is None:
                ticket.lost = now
                ticket.patience = max(self.limits.cold_wait or 0.0, GRACE)
                self._arm(ticket)
            try:
                self._bear(ticket, now, coming[models])
            except NoWorker as e:
                self.end(ticket, e)

    def _found(self, ticket: Ticket) -> bool:
        """Whether some worker can serve it, as soon as a slot is free."""
        if not self._router.able(ticket.asked):
            return False
        if ticket.lost is not None:
            ticket.lost = None
            self._arm(ticket)
        return True

    def _bear(self, ticket: Ticket, now: float, coming: Loading | None) -> None:
        """Whether it is worth its while to wait for a worker that is not there yet: raises NoWorker when not."""
        asked, lost = ticket.asked, ticket.lost
        assert lost is not None
        left = lost + ticket.patience - now if asked.ends is None else asked.ends - now
        if coming is not None:
            if left <= 0 or (coming.eta_seconds is not None and coming.eta_seconds > left):
                raise self._no_worker(ticket, coming)
            return
        if asked.ends is not None and any(
            w in self._registry.workers and not why.startswith(UNREACHABLE) for w, why in asked.tried.items()
        ):
            return  # one refused (503), and may be able a moment later
        if not (lost > ticket.since and now < lost + GRACE):
            raise self._no_worker(ticket, None)

    def _arm(self, ticket: Ticket) -> None:
        """Its timer is set to the next moment at which it may have waited too long."""
        if ticket.timer is not None:
            ticket.timer.cancel()
            ticket.timer = None
        at = ticket.asked.ends
        if at is None:
            ends = []
            if self.limits.queue_timeout is not None:
                ends.append(ticket.since + self.limits.queue_timeout)
            if ticket.lost is not None:
                ends.append(ticket.lost + ticket.patience)
            at = min(ends, default=None)
        if at is not None:
            delay = max(at - self._clock(), 0.0)
            ticket.timer = asyncio.get_running_loop().call_later(delay, self._expire, ticket)

    def _expire(self, ticket: Ticket) -> None:
        ticket.timer = None
        asked, now = ticket.asked, self._clock() + _INSTANT
        if asked.ends is not None:
            if now >= asked.ends:
                said = "its turn came" if ticket.lost is None else "a worker of the model was ready"
                self.end(ticket, DeadlineExceeded(f"The request's deadline passed before {said}."))
                return
        elif ticket.lost is not None and now >= ticket.lost + ticket.patience and not self._found(ticket):
            self.end(ticket, self._no_worker(ticket, self._starter.need(asked.models)))
            return
        elif self.limits.queue_timeout is not None and now >= ticket.since + self.limits.queue_timeout:
            error = Unavailable(
                f"No slot was free for {asked.name!r} in {now - ticket.since:.0f} s.",
                code="queue_timeout",
                mend="Come again later.",
                retry_after=come_again(self._estimates.turn(asked, ticket.batch)),
            )
            self.end(ticket, error)
            return
        self._arm(ticket)

    def end(self, ticket: Ticket, error: RbeeError) -> None:
        """It waits no longer, and is told why."""
        if not ticket.future.done():
            self._queues.drop(ticket)
            ticket.future.set_exception(error)

    def _no_worker(self, ticket: Ticket, coming: Loading | None) -> NoWorker:
        asked = ticket.asked
        return NoWorker(asked.models, self._router.reasons(asked), coming, self._starter.reasons(asked.models))
