# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a request would wait, by what answers have taken."""

from __future__ import annotations

from rbee.core.service_times import ServiceTimes
from rbee.daemons.queen.admission.limits import LONGEST_WAIT
from rbee.daemons.queen.admission.queues import Queues
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Registry

#: Told to come again after so many seconds while no answer has been measured yet.
_UNMEASURED = 5.0


class Estimates:
    """One mean for each model that has answered."""

    def __init__(self, registry: Registry, queues: Queues) -> None:
        self._registry = registry
        self._queues = queues
        self._times: dict[str, ServiceTimes] = {}

    def add(self, model: str, seconds: float) -> None:
        """An answer that came whole took so long."""
        times = self._times.get(model)
        if times is None:
            times = self._times[model] = ServiceTimes()
        times.add(seconds)

    def mean(self, models: tuple[str, ...]) -> float | None:
        """Seconds that an answer of the first of these that was measured takes; None: none was."""
        return next((t.mean for m in models if (t := self._times.get(m)) is not None), None)

    def quick(self, models: tuple[str, ...]) -> float:
        """What the fastest of late took; 0: not known."""
        return min((t.quick for m in models if (t := self._times.get(m)) and t.quick is not None), default=0.0)

    def turn(self, asked: Asked, batch: bool) -> float | None:
        """Seconds until a new request of its client had its turn, with the model where that is soonest; None: not
        known, and so it is where one of the models was not measured: that may be the soonest."""
        name, weight = asked.client.name, asked.client.weight
        found = [self.wait(m, self._queues.ahead(m, batch, name, weight)) for m in asked.models]
        known = [wait for wait in found if wait is not None]
        return min(known) if known and len(known) == len(found) else None

    def wait(self, model: str, ahead: int) -> float | None:
        """Seconds until a slot of `model` is free for who has `ahead` others before him; None: not known."""
        times = self._times.get(model)
        if times is None:
            return None
        workers = self._registry.of_models((model,))
        slots = sum(w.slots - w.foreign for w in workers if self._registry.why_not(w) is None)
        return times.wait(ahead, slots)


def come_again(wait: float | None) -> float:
    """Retry-After for who would wait so long."""
    return min(max(wait if wait is not None else _UNMEASURED, 1.0), LONGEST_WAIT)
