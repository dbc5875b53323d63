# SPDX-License-Identifier: GPL-3.0-or-later
"""Cold starts: a declared worker that nobody runs is started when a request wants it, once for all that wait."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from rbee.contracts.configs import KnownWorker, QueenConfig
from rbee.core.errors import RbeeError
from rbee.core.load_times import left
from rbee.core.routing import Labels, unlabelled
from rbee.daemons.jobs import Handler
from rbee.daemons.queen.known.hives import Hives
from rbee.daemons.queen.known.registry import NOBODY, Registry, Worker
from rbee.daemons.queen.scaling.candidates import Candidate, Found, Hope, best_hope, coming, find, served
from rbee.daemons.queen.scaling.cold import ColdStart
from rbee.daemons.queen.scaling.launching import Launcher
from rbee.daemons.queen.scaling.rooms import MIN_STAY, Lease, Rooms, Run, Short
from rbee.daemons.queen.scaling.spawns import Spawns
from rbee.daemons.queen.scaling.troubles import FIRST, Troubles

log = logging.getLogger(__name__)

#: A model for which there is no room yet is wanted for so long after the last request that asked for it.
_WANTED = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How far a model is that gets ready. `state`: starting or queued; `progress` 0 to 1; seconds."""

    state: str = "starting"
    progress: float | None = None
    eta_seconds: float | None = None


async def always(name: str, seconds: float) -> bool:
    """The lease of a queen that is the only one."""
    return True


#: A model, and labels that its hive must have.
_Wish = tuple[str, Labels]


def _serves(wish: _Wish, require: Labels) -> bool:
    """Whether what is started for `wish` serves those too that require these."""
    return set(require) <= set(wish[1])


class Starter:
    """`configure` replaces what may be started. It starts nothing until it is connected."""

    def __init__(
        self,
        registry: Registry,
        config: QueenConfig,
        *,
        hives: Hives | None = None,
        clock: Callable[[], float] = time.monotonic,
        min_stay: float = MIN_STAY,
        backoff: float = FIRST,
    ) -> None:
        self._registry = registry
        self._hives = hives
        self._clock = clock
        self._min_stay = min_stay
        self.spawns = Spawns(clock)
        self.troubles = Troubles(backoff)
        #: Replicas for which there was no free room: no reason why a cold start, which makes room, should fail.
        self.tight = Troubles(backoff)
        self.launcher: Launcher | None = None
        self.rooms: Rooms | None = None
        self._waiting: Callable[[str], int] = lambda model: 0
        #: By model, and the labels that its hive must have.
        self._cold: dict[_Wish, ColdStart] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted_at: dict[_Wish, float] = {}
        #: Those of the plan, by id.
        self._by_id: dict[str, KnownWorker] = {}
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        """What is being started goes on."""
        self._workers = config.workers
        # What a changed one failed of may be mended.
        old, self._by_id = self._by_id, {w.worker_id: w for w in config.workers}
        self.troubles.keep({w for w, known in self._by_id.items() if old.get(w) == known})
        if self.rooms is not None:
            self.rooms.configure(config.workers)

    def connect(self, run: Run, waiting: Callable[[str], int], lease: Lease = always) -> None:
        """How it does what it does: jobs of the queen, who waits for a model, and the leases of several queens."""
        if self._hives is None:
            return
        self._waiting = waiting
        self.launcher = Launcher(self._registry, self._hives, self.spawns, run=run, clock=self._clock)
        self.rooms = Rooms(
            self._registry,
            self._hives,
            clock=self._clock,
            run=run,
            waiting=waiting,
            lease=lease,
            min_stay=self._min_stay,
        )
        self.rooms.configure(self._workers)

    def watched(self, handler: Handler) -> Handler:
        """The handler of WorkerSpawn: what is started by hand is known here too."""
        return self.spawns.watched(handler)

    async def stop(self) -> None:
        """Waits for nothing any more; hives go on with what they start."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What requests ask.

    def need(self, models: tuple[str, ...], require: Labels = ()) -> Loading | None:
        """Somebody wants one of these, on a hive with these labels, and no worker can: makes sure that one is started.
        How far it is, or None when none comes. Never blocks, and starts nothing twice."""
        now = self._clock()
        require = tuple(sorted(set(require)))
        for wish in self._cold:
            if wish[0] in models and _serves(wish, require):
                self._wanted_at[wish] = now
        found = self.loading(models, require)
        if found is not None or self.launcher is None:
            return found
        for model in models:
            wish = model, require
            if self._may_start(wish, now):
                self._wanted_at[wish] = now
                self._begin(wish)
                return self._loading(wish)
        return None

    def loading(self, models: tuple[str, ...], require: Labels = ()) -> Loading | None:
        """How far the first of these is that gets ready; None: none does."""
        for model in models:
            found = self._loading((model, require))
            if found is not None:
                return found
        return None

    def hope(self, workers: Iterable[Worker]) -> Hope:
        """Whether one of these, which cannot be asked now, gets well by itself. The best that holds for any."""
        return best_hope(workers, self._registry, self._hives.by_id if self._hives is not None else {})

    def cold(self, model: str) -> bool:
        """Whether a worker of it could be started on demand."""
        return any(w.model == model for w in self._workers) or any(
            w.status == "unloaded" for w in self._registry.of_models((model,))
        )

    def reasons(self, models: Iterable[str], require: Labels = ()) -> tuple[str, ...]:
        """Why nothing of them is being started, as `worker: reason`; what failed last stays told until it runs."""
        found: list[str] = []
        for model in models:
            there = self._find((model, require))
            for worker_id in dict.fromkeys(
                [*(w.worker_id for w in self._workers if w.model == model), *(c.worker_id for c in there.candidates)]
            ):
                why = self.troubles.why(worker_id)
                if why is not None:
                    found.append(f"{worker_id}: {why}")
            found.extend(there.why_not)
        return tuple(found)

    # What `rbee status` asks.

    @property
    def planned(self) -> tuple[KnownWorker, ...]:
        """All that the file describes, in its order."""
        return self._workers

    def starting(self, worker_id: str) -> bool:
        """Whether this queen is about it now."""
        going = self.launcher is not None and worker_id in self.launcher.going
        return going or self.spawns.of_worker(worker_id) is not None

    # What the scaler asks.

    def candidates(self, spec_name: str, model: str) -> list[Candidate]:
        """What could be one replica more, best first."""
        now = self._clock()
        return [
            c
            for c in self._find((model, ())).candidates
            if c.spec_name == spec_name
            and not self.starting(c.worker_id)
            and not self.troubles.holds_back(c.worker_id, now)
            and not self.tight.holds_back(c.worker_id, now)
        ]

    async def more(self, candidate: Candidate) -> bool:
        """Starts one replica more, in free room only; whether it is there. What failed is told as any other's."""
        assert self.launcher is not None
        try:
            done = await self.launcher.launch(candidate)
        except Short as e:
            self.tight.note(candidate.worker_id, str(e), self._clock())
            log.info("no room for one replica more, %s: %s", candidate.worker_id, e)
            return False
        except RbeeError as e:
            self.troubles.note(candidate.worker_id, str(e), self._clock())
            log.warning("no further replica %s: %s", candidate.worker_id, e)
            return False
        self.troubles.over(candidate.worker_id)
        self.tight.over(candidate.worker_id)
        return done

    # Inside.

    def _find(self, wish: _Wish) -> Found:
        if self._hives is None:
            return Found((), False, ())
        model, require = wish
        return find(model, self._workers, self._registry, self._hives, require)

    def _may_start(self, wish: _Wish, now: float) -> bool:
        """Whether a start makes sense: nobody of it is routable, and one could be that has not just failed."""
        if served(*wish, self._registry):
            return False
        found = self._find(wish)
        return found.pending or any(not self.troubles.holds_back(c.worker_id, now) for c in found.candidates)

    def _begin(self, wish: _Wish) -> None:
        assert self.launcher is not None and self.rooms is not None
        first = self._find(wish).candidates
        cold = self._cold[wish] = ColdStart(
            wish[0],
            first[0].hive_id if first else "",
            find=partial(self._find, wish),
            served=partial(served, *wish, self._registry),
            wanted=partial(self._wanted, wish),
            registry=self._registry,
            launcher=self.launcher,
            rooms=self.rooms,
            troubles=self.troubles,
            clock=self._clock,
        )
        task = asyncio.get_running_loop().create_task(self._run(wish, cold), name=f"cold start of {wish[0]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, wish: _Wish, cold: ColdStart) -> None:
        try:
            await cold.run()
        except Exception:
            log.exception("the cold start of %s", cold.model)
        finally:
            self._cold.pop(wish, None)
            self._wanted_at.pop(wish, None)
            self._registry.tell()  # whoever waits for it learns that nothing comes

    def _wanted(self, wish: _Wish) -> bool:
        """Those that wait may be content with hives that have other labels: they say so by and by."""
        model, require = wish
        waits = not require and self._waiting(model) > 0
        return waits or self._clock() - self._wanted_at.get(wish, -_WANTED) < _WANTED

    def _loading(self, wish: _Wish) -> Loading | None:
        model, require = wish
        for spawn in self.spawns.of_model(model):
            if unlabelled(self._labels(spawn.hive_id), require) is not None:
                continue
            worker = self._registry.workers.get(spawn.worker_id)
            progress = worker.beat.progress if worker is not None and coming(worker) else None
            return self._far(model, spawn.hive_id, spawn.began, progress if progress is not None else spawn.progress)
        for worker in self._registry.of_models((model,)):
            if unlabelled(worker.labels, require) is not None or not coming(worker):
                continue
            if self._registry.age(worker) <= self._registry.stale_after:
                return self._far(model, worker.beat.hive_id, None, worker.beat.progress)
        cold = self._cold.get(wish) or next(
            (c for w, c in self._cold.items() if w[0] == model and not c.queued and _serves(w, require)), None
        )
        if cold is None:
            return None
        return Loading(state="queued") if cold.queued else self._far(model, cold.hive_id, self._clock(), None)

    def _labels(self, hive_id: str) -> Mapping[str, str]:
        hive = self._hives.by_id.get(hive_id) if self._hives is not None else None
        return hive.known.labels if hive is not None else NOBODY

    def _far(self, model: str, hive_id: str, began: float | None, progress: float | None) -> Loading:
        expected = self.launcher.expected(model, hive_id) if self.launcher is not None else None
        if began is None:
            eta = expected if progress is None or expected is None else expected * max(0.0, 1 - progress)
        else:
            eta = left(self._clock() - began, expected, progress)
        return Loading(progress=progress, eta_seconds=None if eta is None else round(eta, 1))
