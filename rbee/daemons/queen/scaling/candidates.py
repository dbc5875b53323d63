# SPDX-License-Identifier: GPL-3.0-or-later
"""Which workers could be started for a model: those of the plan that do not run, and unloaded ones of anybody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import KnownWorker
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.routing import Labels, unlabelled
from rbee.daemons.queen.known.hives import Hive, Hives
from rbee.daemons.queen.known.quarantine import QUARANTINED
from rbee.daemons.queen.known.registry import Registry, Worker

#: Whether a worker that is away comes back by itself: it should, it may within a moment or never, it will not.
Hope = Literal["good", "moment", "none"]
_HOPES: tuple[Hope, ...] = ("good", "moment", "none")
#: Statuses of one that has a process, or has had one a moment ago.
LIVE = frozenset({"starting", "ready", "busy"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A worker that does not run and could. Lower `rank` first; `spec_name` is empty for one that no plan names."""

    worker_id: str
    model: str
    hive_id: str
    spec_name: str
    device: str
    rank: int
    request: WorkerSpawn


@dataclass(frozen=True, slots=True)
class Found:
    """`pending`: of some nobody can tell yet, their hive has not been seen since this queen began. `why_not` are the
    others' reasons, for a person."""

    candidates: tuple[Candidate, ...]
    pending: bool
    why_not: tuple[str, ...]


def device_id(kind: str, index: int) -> str:
    """As workers and hives call it; a machine has one CPU device."""
    return kind if kind == "cpu" and not index else f"{kind}:{index}"


def coming(worker: Worker) -> bool:
    """Whether it gets ready by itself: it loads (and may not listen yet), or has only to answer its first probe."""
    return worker.coming and not worker.held and not _failed(worker)


def _failed(worker: Worker) -> bool:
    """Whether its hive says so."""
    return (worker.unreachable or "").startswith(("failed: ", "dead: "))


def runs(worker: Worker, hive: Hive | None) -> bool:
    """Whether its hive has a process of it, as far as is known. One that does not answer, and that its hive does not
    list, was taken away unheard."""
    if worker.status not in LIVE or _failed(worker):
        return False
    if worker.unreachable is None or worker.held or hive is None or hive.capabilities is None:
        return True
    return _listed(worker, hive.capabilities)


def hope(worker: Worker, hive: Hive | None, silent: float, stale_after: float) -> Hope:
    """Whether one that cannot be asked gets well by itself. `silent`: seconds since it was heard of."""
    if worker.status in ("unloaded", "failed") or silent > stale_after:
        return "none"
    why = worker.unreachable or ""
    if worker.held:
        return "good" if why.startswith(QUARANTINED) else "moment"
    if worker.status == "stopping" or why.startswith("failed: "):
        return "moment"  # to be started anew, or for good: its hive will say
    if why and hive is not None and hive.capabilities is not None:
        return "good" if _listed(worker, hive.capabilities) else "moment"
    return "good"


def best_hope(workers: Iterable[Worker], registry: Registry, hives: Mapping[str, Hive]) -> Hope:
    """The best that is true of any."""
    found = {hope(w, hives.get(w.beat.hive_id), registry.age(w), registry.stale_after) for w in workers}
    return min(found, key=_HOPES.index, default="none")


def served(model: str, require: Labels, registry: Registry) -> bool:
    """Whether requests can go to a worker of it, on a hive with these labels."""
    workers = registry.of_model(model).values()
    return any(registry.why_not(w) is None and unlabelled(w.labels, require) is None for w in workers)


def _listed(worker: Worker, capabilities: Capabilities) -> bool:
    return any(r.worker_id == worker.worker_id for r in capabilities.workers)


def find(model: str, known: Iterable[KnownWorker], registry: Registry, hives: Hives, require: Labels = ()) -> Found:
    """On hives with the labels that are required, best first: unloaded ones (their engine was there a while ago),
    those that start on demand, the plan's missing, then those that have failed. One on a hive that does not answer is
    none."""
    found: list[Candidate] = []
    why_not: list[str] = []
    pending = False
    mine = [w for w in known if w.model == model]
    for one in mine:
        hive = hives.by_id.get(one.hive_id)
        status = "gone" if hive is None else hives.status(hive)
        worker = registry.workers.get(one.worker_id)
        if worker is not None and runs(worker, hive):
            continue
        if hive is not None and (lacking := unlabelled(hive.known.labels, require)) is not None:
            why_not.append(f"{one.worker_id}: {lacking}")
            continue
        if status == "online":
            found.append(_of_plan(one, worker))
        else:
            pending = pending or status == "unknown"
            why_not.append(f"{one.worker_id}: its hive {one.hive_id} is {'not of this fleet' if not hive else status}")
    named = {w.worker_id for w in mine}
    for worker in registry.of_models((model,)):
        if worker.status == "unloaded" and worker.worker_id not in named and not unlabelled(worker.labels, require):
            hive = hives.by_id.get(worker.beat.hive_id)
            if hive is not None and hives.status(hive) == "online":
                found.append(_as_it_was(worker))
    return Found(tuple(sorted(found, key=lambda c: c.rank)), pending, tuple(why_not))


def _of_plan(one: KnownWorker, worker: Worker | None) -> Candidate:
    rank = 1 if one.on_demand else 2
    if worker is not None:
        rank = 0 if worker.status == "unloaded" else 3
    request = WorkerSpawn(
        hive_id=one.hive_id,
        model=one.model,
        worker=one.worker_type,
        device=one.device,
        engine=one.engine,
        worker_id=one.worker_id,
        options=one.options,
        idle_timeout=one.idle_timeout,
        mark=one.mark,
    )
    return Candidate(
        worker_id=one.worker_id,
        model=one.model,
        hive_id=one.hive_id,
        spec_name=one.spec_name,
        device=device_id(one.worker_type, one.device),
        rank=rank,
        request=request,
    )


def _as_it_was(worker: Worker) -> Candidate:
    """Its hive knows how it was."""
    beat = worker.beat
    return Candidate(
        worker_id=beat.worker_id,
        model=beat.model,
        hive_id=beat.hive_id,
        spec_name="",
        device=beat.device,
        rank=0,
        request=WorkerSpawn(hive_id=beat.hive_id, model=beat.model, worker_id=beat.worker_id),
    )
