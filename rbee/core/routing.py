# SPDX-License-Identifier: GPL-3.0-or-later
"""Which worker answers a request: the least busy of those that can. Pure; the clock is an argument."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, TypeVar

#: Statuses in which a worker takes requests; a busy one queues them.
ROUTABLE = frozenset({"ready", "busy"})


class Candidate(Protocol):
    """What routing looks at. `busy` counts the requests in its slots and queue, as far as is known."""

    @property
    def worker_id(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def slots(self) -> int: ...

    @property
    def busy(self) -> int: ...

    @property
    def last_seen(self) -> float: ...

    @property
    def unreachable(self) -> str | None: ...

    @property
    def picked(self) -> int: ...

    @property
    def reason(self) -> str | None: ...


W = TypeVar("W", bound=Candidate)


def why_not(worker: Candidate, now: float, stale_after: float) -> str | None:
    """Why no request goes to this worker; None when requests do."""
    if worker.unreachable is not None:
        return worker.unreachable
    if worker.status not in ROUTABLE:
        return f"{worker.status}: {worker.reason}" if worker.reason else worker.status
    silent = now - worker.last_seen
    if silent > stale_after:
        return f"stale: silent for {silent:.0f} s"
    return None


def route(workers: Iterable[W], now: float, stale_after: float, tried: Collection[str] = ()) -> W | None:
    """The worker with the smallest share of its slots taken; of equals the one that was asked longest ago.

    Never one that is stale, unreachable, not ready, or in `tried` (ids of those that failed this request).
    None when that leaves nobody; `reasons` says why.
    """
    best: W | None = None
    best_load = 0.0
    oldest = now - stale_after
    for worker in workers:
        if worker.unreachable is not None or worker.status not in ROUTABLE or worker.last_seen < oldest:
            continue
        if tried and worker.worker_id in tried:
            continue
        load = worker.busy / (worker.slots or 1)
        if best is None or load < best_load or (load == best_load and worker.picked < best.picked):
            best, best_load = worker, load
    return best


def reasons(workers: Iterable[Candidate], now: float, stale_after: float, tried: Mapping[str, str]) -> tuple[str, ...]:
    """Why each of these was not chosen, as `worker: reason`; `tried` has what those said that failed this request."""
    found = []
    for worker in workers:
        reason = why_not(worker, now, stale_after) or tried.get(worker.worker_id)
        if reason is not None:
            found.append(f"{worker.worker_id}: {reason}")
    return tuple(found)


def models_for(name: str, aliases: Mapping[str, tuple[str, ...]], known: Collection[str]) -> tuple[str, ...]:
    """The models that serve requests for `name`, first choice first; empty when nobody knows it.

    A model's own name is that model and nothing else; an alias is its list, where other aliases may stand.
    """
    if name in known:
        return (name,)
    found: dict[str, None] = {}
    seen = {name}
    waiting = list(reversed(aliases.get(name, ())))
    while waiting:
        item = waiting.pop()
        if item in known or item not in aliases:
            found[item] = None
        elif item not in seen:
            seen.add(item)
            waiting.extend(reversed(aliases[item]))
    return tuple(found)
