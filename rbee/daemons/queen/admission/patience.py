# SPDX-License-Identifier: GPL-3.0-or-later
"""How long those who wait put up with it: deadlines, timeouts, workers that are lost or still to come."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from rbee.core.errors import DeadlineExceeded, RbeeError, Unavailable
from rbee.core.routing import Labels
from rbee.core.spec_queen import LimitsSpec
from rbee.daemons.queen.admission.estimates import Estimates, come_again
from rbee.daemons.queen.admission.queues import Queues, Ticket
from rbee.daemons.queen.admission.turns import Turns
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.front.errors import DEATHS, NoWorker
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing.router import Router, may_again
from rbee.daemons.queen.scaling.starter import Loading, Starter

#: All that wait are looked after by and by, so many in so many seconds: workers fall silent without a word.
_LOOK_EVERY, _LOOK_AT = 1.0, 256
#: Those whose last worker is lost wait so long for news of what becomes of it.
GRACE = 5.0
#: A worker that died under a request is not asked again sooner: what it said in the same moment may be out of date.
_PAUSE = 0.5
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
        asked = ticket.asked
        if self._router.able(asked):
            return
        ticket.lost = ticket.since
        if not _bereft(asked):
            ticket.patience = self.limits.cold_wait or 0.0
        self._bear(ticket, ticket.since, self._need(asked))

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
                self._forgive(ticket, worker)
        self._turns.hand_on(worker)

    def _forgive(self, ticket: Ticket, worker: Worker) -> None:
        """A request that came back may go once more to this worker, which serves: where it only refused, or was lost
        and has been heard of since."""
        asked = ticket.asked
        why = asked.tried.get(worker.worker_id)
        if why is None:
            return
        if why.startswith(DEATHS):
            heard = worker.last_seen > ticket.since and self._clock() >= ticket.since + _PAUSE
            if not heard or not may_again(asked, worker.worker_id):
                return
            asked.again += (worker.worker_id,)
        del asked.tried[worker.worker_id]

    def look(self) -> None:
        """Looks after those that wait: slots that became free unheard, workers that fell silent."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._forgive_all()
        self._turns.offer_all()
        if not self._queues.tickets:
            return
        self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY, self.look)
        coming: dict[tuple[tuple[str, ...], Labels], Loading | None] = {}
        now = self._clock()
        for ticket in self._queues.turn(_LOOK_AT):
            if self._found(ticket):
                continue
            wish = ticket.asked.models, self._router.labels(ticket.asked)
            if wish not in coming:
                coming[wish] = self._starter.need(*wish)
            if ticket.lost is None:
                ticket.lost, ticket.patience = now, math.inf
                self._arm(ticket)
            try:
                self._bear(ticket, now, coming[wish])
            except NoWorker as e:
                self.end(ticket, e)

    def _forgive_all(self) -> None:
        """By what workers have said too soon to count."""
        workers = self._registry.workers
        for ticket in self._queues.returned:
            for worker_id, why in list(ticket.asked.tried.items()):
                worker = workers.get(worker_id) if why.startswith(DEATHS) else None
                if worker is not None and self._registry.why_not(worker) is None:
                    self._forgive(ticket, worker)

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
        left = self._until(ticket) - now
        if coming is not None:
            if left <= 0 or (coming.eta_seconds is not None and coming.eta_seconds > left):
                raise self._no_worker(ticket, coming)
            return
        if asked.ends is not None and any(
            w in self._registry.workers and not why.startswith(DEATHS) for w, why in asked.tried.items()
        ):
            return  # one refused (503), and may be able a moment later
        queued = lost > ticket.since
        hope = self._starter.hope(self._router.missed(asked)) if queued or _bereft(asked) else "none"
        if (hope == "none" and not queued) or (hope != "good" and now >= lost + GRACE):
            raise self._no_worker(ticket, None)

    def _until(self, ticket: Ticket) -> float:
        """When it will have waited too long."""
        if ticket.asked.ends is not None:
            return ticket.asked.ends
        timeout = self.limits.queue_timeout
        at = math.inf if timeout is None else ticket.since + timeout
        return at if ticket.lost is None else min(at, ticket.lost + ticket.patience)

    def _arm(self, ticket: Ticket) -> None:
        """Its timer is set to the next moment at which it may have waited too long."""
        if ticket.timer is not None:
            ticket.timer.cancel()
            ticket.timer = None
        at = self._until(ticket)
        if at < math.inf:
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
        elif ticket.lost is not None and now >= self._until(ticket) and not self._found(ticket):
            self.end(ticket, self._no_worker(ticket, self._need(asked)))
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
        not_started = self._starter.reasons(asked.models, self._router.labels(asked))
        return NoWorker(asked.models, self._router.reasons(asked), coming, not_started)

    def _need(self, asked: Asked) -> Loading | None:
        return self._starter.need(asked.models, self._router.labels(asked))


def _bereft(asked: Asked) -> bool:
    """Whether a worker died under it: it had been let in, and waits as those in the queue do."""
    return bool(asked.again) or any(why.startswith(DEATHS) for why in asked.tried.values())
