# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate before the workers: limits, slots, and the queues of those that wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from rbee.contracts.configs import QueenConfig
from rbee.core.errors import DeadlineExceeded, TooMany, Unavailable
from rbee.daemons.queen.admission.estimates import Estimates, come_again
from rbee.daemons.queen.admission.limits import Limits
from rbee.daemons.queen.admission.never import Never
from rbee.daemons.queen.admission.patience import Patience
from rbee.daemons.queen.admission.queues import Queues, Ticket
from rbee.daemons.queen.admission.turns import Turns
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.front.errors import NoWorker
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing.router import Router
from rbee.daemons.queen.scaling.starter import Starter

#: How waiting ends: with a slot, with the client gone, or refused for one of the reasons.
Ended = Literal["entered", "left", "deadline", "timeout", "no_worker", "crowded_out"]
#: By this header a client asks to wait behind others; nobody comes before others by it.
PRIORITY_HEADER = "X-Priority"


class Gate:
    """Every request goes `admit`, then `try_enter` or `wait`, `leave` for each worker it had, `done` in the end.

    Owner of the queues and of all slots that this queen takes.
    """

    def __init__(
        self, registry: Registry, router: Router, starter: Starter, config: QueenConfig, clock: Callable[[], float]
    ) -> None:
        self._router = router
        self._clock = clock
        self._queues = Queues()
        #: Not empty when somebody waits.
        self._tickets = self._queues.tickets
        self._estimates = Estimates(registry, self._queues)
        self._turns = Turns(registry, router, self._queues, clock)
        self._patience = Patience(registry, router, starter, self._queues, self._estimates, self._turns, clock)
        self._never = Never(registry, config)
        self.limits = Limits()
        #: Called at the end of each waiting with the model, the seconds, and how it ended.
        self.waits: Callable[[str, float, Ended], None] = lambda model, seconds, ended: None
        registry.listeners.append(self._patience.news)
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        """Those that wait go on waiting, by the new limits and policies."""
        self._queue = config.limits.queue
        self._never.configure(config)
        self._patience.limits = config.limits
        if self._tickets:
            self._patience.rearm()
            asyncio.get_running_loop().call_soon(self._patience.look)  # hives get their labels after this

    # A request's way.

    def admit(self, asked: Asked) -> None:
        """Counts it in, against its client's limits and its policies. Raises TooMany, RbeeError `policy_rejected`."""
        client = asked.client
        if client.concurrent is None and client.requests_per_minute is None:
            self._router.admit(asked)
            return
        self.limits.check(client, self._clock(), self._estimates, asked.models)
        self._router.admit(asked)
        self.limits.enter(client)

    def done(self, asked: Asked) -> None:
        """The request that was admitted is over, however it ended."""
        if asked.client.concurrent is not None:
            self.limits.leave(asked.client)

    def try_enter(self, asked: Asked) -> Worker | None:
        """A worker with a slot for it, taken; None: it must `wait`. Nobody overtakes those that wait."""
        if self._tickets and any(map(self._queues.waiting, asked.models)):
            return None
        worker = self._router.choose(asked)
        if worker is not None:
            self._turns.take(worker)
        return worker

    async def wait(self, asked: Asked) -> Worker:
        """A slot, taken, once there is one. Raises TooMany (the queue is full, its deadline cannot be met), Unavailable
        (NoWorker: nobody can, and none comes in time; `queue_timeout`), DeadlineExceeded, InvalidRequest: the model's
        workers cannot, and never will.

        Cancelled: its place is free at once, and so is the slot that it may have been given in the same moment.
        """
        if asked.choice is not None:
            self._never.check(asked, asked.choice.needs)
        ticket = self._join(asked)
        ended: Ended = "left"
        try:
            worker = await ticket.future
            ended = "entered"
            return worker
        except (DeadlineExceeded, Unavailable) as e:
            ended = _ended(e)
            raise
        finally:
            self._queues.drop(ticket)
            if ticket.timer is not None:
                ticket.timer.cancel()
            waited = self._clock() - ticket.since
            asked.waited += waited
            self.waits(asked.models[0], waited, ended)
            if ended == "left":
                self._give_back(ticket)

    def leave(self, asked: Asked, worker: Worker, seconds: float | None) -> None:
        """Its slot is free. `seconds`: how long an answer that came whole took; None: it was none."""
        worker.in_flight -= 1
        worker.last_used = self._clock()
        if seconds is not None:
            self._estimates.add(worker.beat.model, seconds)
        if self._tickets:
            self._turns.hand_on(worker)

    # Who waits.

    def _join(self, asked: Asked) -> Ticket:
        """Its ticket, in the queues; it may have been served already. Raises as `wait`."""
        now = self._clock()
        if asked.ends is not None and asked.ends <= now:
            raise DeadlineExceeded("The request's deadline has passed.")
        batch = asked.client.priority == "batch" or asked.headers.get(PRIORITY_HEADER, "").lower() == "batch"
        ticket = Ticket(asked, batch, now)
        self._patience.begin(ticket)
        self._queues.join(ticket, None if asked.tried else self._with_room(ticket))
        if asked.queued is None:
            asked.queued = now
        if ticket.lost is None:
            self._turns.settle(ticket)
        if ticket.worker is None:
            self._patience.watch(ticket)
        return ticket

    def _with_room(self, ticket: Ticket) -> str:
        """The model whose line has room for it, or made by the newest of a client that has more there than his share:
        the one that it would be served by, any of them while nobody can. Raises TooMany: there is none, or its turn
        would come too late."""
        asked = ticket.asked
        first = self._router.waits_for(asked) if len(asked.models) > 1 and ticket.lost is None else None
        models = asked.models if first is None else (first,)
        for model in models:
            if self._queues.counted(model) < self._queue:
                self._in_time(ticket, asked.models)
                return model
        for model in models:
            other = self._queues.crowded(model, ticket)
            if other is not None:
                self._in_time(ticket, asked.models)
                self._patience.end(other, self._full(other))
                return model
        if self._router.choose(asked) is not None:
            return models[0]  # for a moment: there is a slot that those before it cannot use
        raise self._full(ticket)

    def _full(self, ticket: Ticket) -> TooMany:
        asked = ticket.asked
        return TooMany(
            f"{self._queue} requests wait for {asked.name!r} already.",
            code="queue_full",
            mend="Come again later.",
            retry_after=come_again(self._estimates.turn(asked, ticket.batch)),
        )

    def _in_time(self, ticket: Ticket, models: tuple[str, ...]) -> None:
        """Raises TooMany when its turn would come too late for its deadline, as far as is known."""
        asked = ticket.asked
        if asked.ends is None or ticket.lost is not None:
            return
        wait = self._estimates.turn(asked, ticket.batch)
        if wait is None:
            return
        left, needed = asked.ends - ticket.since, wait + self._estimates.quick(models)
        if needed > left:
            raise TooMany(
                f"The deadline in {left:.1f} s cannot be met: an answer of {asked.name!r} takes about {needed:.1f} s "
                f"now, {wait:.1f} s of them until its turn.",
                code="deadline_unmeetable",
                mend="Allow more time, or come again later.",
                retry_after=come_again(wait),
            )

    def _give_back(self, ticket: Ticket) -> None:
        """Its client left: a slot that it was given goes to the next, an error that it was told is heard."""
        if ticket.worker is not None:
            self.leave(ticket.asked, ticket.worker, None)
        elif ticket.future.done() and not ticket.future.cancelled():
            ticket.future.exception()

    # What is told of it.

    def waiting(self, model: str) -> int:
        """Requests that wait for a slot of `model`, those not that would only take one if they can't have another's."""
        return self._queues.wanting(model)

    def oldest(self, model: str) -> float:
        """Seconds that the first of them waits already; 0 when nobody does."""
        since = self._queues.oldest(model)
        return self._clock() - since if since is not None else 0.0

    def depths(self) -> dict[str, int]:
        """Requests that wait, for each model that anybody waits for."""
        return {model: self._queues.waiting(model) for model in self._queues.models()}

    def estimate(self, model: str) -> float | None:
        """Seconds until a request that came now, behind all others, had a slot; None: not known."""
        return self._estimates.wait(model, self._queues.waiting(model))


def _ended(error: DeadlineExceeded | Unavailable) -> Ended:
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    if isinstance(error, TooMany):
        return "crowded_out"
    return "no_worker" if isinstance(error, NoWorker) else "timeout"
