# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas by load: looks every second, and starts or unloads one at a time as `core.scaling` decides.

What the scaler takes away is `unloaded`, as one that was idle too long or made room for another: it can still be seen,
and starts again as it was. Further replicas are started in free room only: nobody has to go for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rbee.contracts.configs import KnownWorker, QueenConfig
from rbee.core import scaling
from rbee.core.memory import DEFAULT_PARALLEL
from rbee.core.scaling import Course, Limits, Load
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.scaling.candidates import Candidate, coming
from rbee.daemons.queen.scaling.rooms import MIN_STAY, Lease
from rbee.daemons.queen.scaling.starter import Starter, always

log = logging.getLogger(__name__)

_LEASE = "scaler"
#: Requests of a replica that is to go may take so long; else it stays.
_DRAIN = 60.0
_LOOK = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a queen scales. Seconds: between two looks, and how long a worker stays at least once it is there."""

    limits: Limits = field(default_factory=Limits)
    every: float = 1.0
    min_stay: float = MIN_STAY


@dataclass(frozen=True, slots=True)
class Group:
    """The replicas of one worker of the plan that may be more or fewer."""

    name: str
    model: str
    workers: tuple[KnownWorker, ...]
    min: int

    @property
    def each(self) -> int:
        """Slots of one, as far as the plan tells."""
        return self.workers[0].options.parallel or DEFAULT_PARALLEL


def groups(workers: Iterable[KnownWorker]) -> list[Group]:
    """Those with more replicas at most than always."""
    by_name: dict[str, list[KnownWorker]] = {}
    for worker in workers:
        by_name.setdefault(worker.spec_name, []).append(worker)
    return [
        Group(name, of[0].model, tuple(of), sum(not w.on_demand for w in of))
        for name, of in by_name.items()
        if name and any(w.on_demand for w in of)
    ]


class Scaler:
    """`waiting`, `oldest`: how many requests wait for a model, and how many seconds the first of them does."""

    def __init__(
        self,
        registry: Registry,
        starter: Starter,
        config: QueenConfig,
        *,
        clock: Callable[[], float],
        waiting: Callable[[str], int],
        oldest: Callable[[str], float],
        lease: Lease = always,
        pace: Pace | None = None,
    ) -> None:
        self._registry = registry
        self._starter = starter
        self._clock = clock
        self._waiting = waiting
        self._oldest = oldest
        self.lease = lease
        self._pace = pace or Pace()
        self._courses: dict[str, Course] = {}
        #: Steps under way, and models of which a replica is on its way out.
        self._steps: set[asyncio.Task[None]] = set()
        self._leaving: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self.ups = 0
        self.downs = 0
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self._groups = groups(config.workers)
        names = {g.name for g in self._groups}
        self._courses = {name: course for name, course in self._courses.items() if name in names}

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="scaler")

    async def stop(self) -> None:
        """A replica that is on its way to be there or gone is its hive's matter by then."""
        tasks = [*self._steps, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                if self._starter.rooms is not None:
                    self._starter.rooms.look()
                if self._groups and await self.lease(_LEASE, self._pace.every * 10):
                    self.look()
            except Exception:  # a store that is away for a while is no reason to never scale again
                log.exception("scaling")
            await asyncio.sleep(self._pace.every)

    def look(self) -> None:
        """One look at every group; at most one step of each model at a time."""
        now = self._clock()
        stepping = set(self._leaving)
        for group in self._groups:
            before = self._courses.get(group.name, Course())
            course, decision = scaling.decide(before, self.load(group), now, self._pace.limits)
            if decision is None:
                self._courses[group.name] = course
            elif group.model not in stepping and self._begin(group, decision.step, decision.reason):
                self._courses[group.name] = course
                stepping.add(group.model)

    def load(self, group: Group) -> Load:
        """What is there of it now."""
        registry, launcher = self._registry, self._starter.launcher
        going = {c.worker_id: c for c in launcher.going.values()} if launcher is not None else {}
        names = {w.worker_id for w in group.workers}
        there = [w for w in registry.of_models((group.model,)) if registry.why_not(w) is None]
        ids = {w.worker_id for w in there}
        loading = {w.worker_id: w.slots for w in registry.of_models((group.model,)) if coming(w)}
        loading.update({c.worker_id: group.each for c in going.values() if c.model == group.model})
        on_way = {w: slots for w, slots in loading.items() if w not in ids}
        mine = [w for w in there if w.worker_id in names]
        return Load(
            replicas=len(mine),
            coming=sum(w in names for w in on_way),
            min=group.min,
            max=len(group.workers),
            each=max([w.slots for w in mine], default=group.each),
            slots=sum(w.slots for w in there),
            coming_slots=sum(on_way.values()),
            busy=sum(w.busy for w in there),
            waiting=self._waiting(group.model),
            oldest=self._oldest(group.model),
            unloads_itself=all(w.idle_timeout is not None for w in group.workers),
        )

    def _begin(self, group: Group, step: scaling.Step, reason: str) -> bool:
        """Whether there is somebody to come or to go."""
        if step == "up":
            coming_one = next(iter(self._starter.candidates(group.name, group.model)), None)
            if coming_one is None:
                return False
            doing = self._up(group, coming_one, reason)
        else:
            going_one = self._least_missed(group)
            if going_one is None:
                return False
            doing = self._down(group, going_one, reason)
        task = asyncio.get_running_loop().create_task(doing, name=f"scale {group.name} {step}")
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        return True

    async def _up(self, group: Group, candidate: Candidate, reason: str) -> None:
        log.info("%s: one replica more, %s: %s", group.name, candidate.worker_id, reason)
        self.ups += await self._starter.more(candidate)

    def _least_missed(self, group: Group) -> Worker | None:
        """Of those beyond the plan's minimum the one with the least to do."""
        extra = {w.worker_id for w in group.workers if w.on_demand}
        found = [
            w
            for w in self._registry.of_models((group.model,))
            if w.worker_id in extra and self._registry.why_not(w) is None and not w.held
        ]
        return min(found, key=lambda w: (w.busy, w.last_used, w.worker_id), default=None)

    async def _down(self, group: Group, worker: Worker, reason: str) -> None:
        """No new requests to it; once it has none it is unloaded. It stays when others begin to wait meanwhile."""
        rooms = self._starter.rooms
        assert rooms is not None
        log.info("%s: one replica fewer, %s: %s", group.name, worker.worker_id, reason)
        self._registry.hold(worker, "scaling down")
        self._leaving.add(group.model)
        end, gone = self._clock() + _DRAIN, False
        try:
            while worker.busy and self._clock() < end and not self._waiting(group.model):
                await self._registry.changed(_LOOK)
            if not self._waiting(group.model) and not worker.busy:
                gone = await rooms.unload(worker, "scaling down")
        finally:
            self._leaving.discard(group.model)
            if not gone:
                self._registry.release(worker)
        self.downs += gone
