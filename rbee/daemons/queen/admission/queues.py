# SPDX-License-Identifier: GPL-3.0-or-later
"""Those that wait for a slot, by the models that they would take."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from rbee.core.fair_queue import Line
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Worker


class Ticket:
    """A request that waits. `future` gets the worker whose slot it was given, or why it gets none."""

    __slots__ = ("asked", "batch", "counts", "future", "lost", "models", "patience", "since", "timer", "worker")

    def __init__(self, asked: Asked, batch: bool, since: float) -> None:
        self.asked = asked
        self.batch = batch
        self.since = since
        self.future: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        #: The models in whose lines it stands.
        self.models: tuple[str, ...] = ()
        #: The one of them whose line it fills; None: it has been let in before.
        self.counts: str | None = None
        #: Since when no worker can serve it; None: one can. And for how long it puts up with that.
        self.lost: float | None = None
        self.patience = math.inf
        self.timer: asyncio.TimerHandle | None = None
        #: Whose slot it was given.
        self.worker: Worker | None = None


class _ModelLine:
    __slots__ = ("arrivals", "line")

    def __init__(self) -> None:
        self.line: Line[Ticket] = Line()
        #: Oldest first.
        self.arrivals: OrderedDict[Ticket, None] = OrderedDict()


class Queues:
    """A ticket stands in the lines of all its models and leaves all of them at once."""

    def __init__(self) -> None:
        self._lines: dict[str, _ModelLine] = {}
        self._counted: dict[str, int] = {}
        #: All tickets; those that were looked after last are last.
        self.tickets: OrderedDict[Ticket, None] = OrderedDict()
        #: Those that a worker has sent back.
        self.returned: set[Ticket] = set()

    def join(self, ticket: Ticket, counts: str | None) -> None:
        """Last of its client's; first of them and in nobody's way where it `counts` for no line: it had its turn."""
        ticket.models, ticket.counts = ticket.asked.models, counts
        client, front = ticket.asked.client, counts is None
        if counts is not None:
            self._counted[counts] = self.counted(counts) + 1
        for model in ticket.models:
            own = self._lines.get(model)
            if own is None:
                own = self._lines[model] = _ModelLine()
            own.line.of(ticket.batch).push(client.name, ticket, client.weight, front=front)
            own.arrivals[ticket] = None
        self.tickets[ticket] = None
        if ticket.asked.tried:
            self.returned.add(ticket)

    def serve(self, model: str, ticket: Ticket) -> None:
        """It goes, by its turn in the line of `model`."""
        self._lines[model].line.serve(ticket.batch, ticket.asked.client.name, ticket)
        self.drop(ticket)

    def drop(self, ticket: Ticket) -> None:
        """It waits no longer. Nothing when it does not."""
        for model in ticket.models:
            own = self._lines[model]
            own.line.of(ticket.batch).discard(ticket.asked.client.name, ticket)
            del own.arrivals[ticket]
            if not own.arrivals:
                del self._lines[model]
        if ticket.models:
            ticket.models = ()
            if ticket.counts is not None:
                self._counted[ticket.counts] -= 1
                if not self._counted[ticket.counts]:
                    del self._counted[ticket.counts]
            del self.tickets[ticket]
            self.returned.discard(ticket)

    def order(self, model: str, first: int, many: int) -> Iterator[Ticket]:
        """`many` of those that wait for `model`, from number `first` on, next first."""
        own = self._lines.get(model)
        if own is not None:
            for _, _, ticket in islice(own.line.order(), first, first + many):
                yield ticket

    def counted(self, model: str) -> int:
        """Those that fill the line of `model`. Who would have another model's worker stands there and fills nothing."""
        return self._counted.get(model, 0)

    def wanting(self, model: str) -> int:
        """Those whose first wish it is: they fill its line, or came back from a worker of it."""
        back = sum(ticket.counts is None and ticket.models[:1] == (model,) for ticket in self.returned)
        return self.counted(model) + back

    def waiting(self, model: str) -> int:
        own = self._lines.get(model)
        return len(own.arrivals) if own is not None else 0

    def oldest(self, model: str) -> float | None:
        """When the one came that waits longest; None: nobody waits."""
        own = self._lines.get(model)
        return next(iter(own.arrivals)).since if own is not None else None

    def ahead(self, model: str, batch: bool, name: str, weight: int) -> int:
        """About how many go before a new one of this client."""
        own = self._lines.get(model)
        return own.line.ahead(batch, name, weight) if own is not None else 0

    def crowded(self, model: str, ticket: Ticket) -> Ticket | None:
        """Who makes room in a full line for a new one of a client that has less than his share; None: nobody does."""
        own, client = self._lines.get(model), ticket.asked.client
        other = own.line.crowded(ticket.batch, client.name, client.weight) if own is not None else None
        return other if other is not None and other.counts == model else None

    def models(self) -> list[str]:
        """Those that somebody waits for."""
        return list(self._lines)

    def turn(self, many: int) -> list[Ticket]:
        """`many` tickets to look after; each has its turn."""
        found = list(islice(self.tickets, many))
        for ticket in found:
            self.tickets.move_to_end(ticket)
        return found
