# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a hive is healthy, judged from facts alone. No reasons and healthy are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rbee.core.records import ModelRecord, WorkerBinary, WorkerRecord

Health = Literal["healthy", "degraded", "unhealthy"]

#: Below this nothing more can be written that is worth writing; below the others it is time to act. A share of a
#: large disk is still a lot: it counts only below `DISK_SHARE_OF`.
DISK_FULL = 100 * 10**6
DISK_LOW = 2 * 10**9
DISK_SHARE, DISK_SHARE_OF = 0.05, 50 * 10**9
MEMORY_SHARE = 0.05
#: Reasons of one kind that are told one by one.
MOST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a hive. Bytes; `disk_error` says why the models' disk cannot be written to, `unreadable` why
    a catalog cannot be read at all, `broken` why a device backend fails though its driver is there,
    `queen_failing_since` when she last stopped taking heartbeats."""

    disk_total: int
    disk_free: int
    memory_total: int
    memory_available: int
    disk_error: str | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    workers: Sequence[WorkerRecord] = ()
    models: Sequence[ModelRecord] = ()
    binaries: Sequence[WorkerBinary] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    queen_url: str | None = None
    queen_failing_since: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`reasons`: what makes it unhealthy first."""

    status: Health
    reasons: tuple[str, ...]


def judge(facts: Facts) -> Condition:
    """Unhealthy is a hive that cannot do its work: no models can come, or none of its workers runs. Degraded is one
    of which a part does not work, or soon will not."""
    grave, other = tuple(_grave(facts)), tuple(_other(facts))
    status: Health = "unhealthy" if grave else "degraded" if other else "healthy"
    return Condition(status=status, reasons=grave + other)


def _grave(facts: Facts) -> Iterator[str]:
    if facts.disk_error is not None:
        yield f"The disk for models cannot be written to: {facts.disk_error}."
    elif facts.disk_free < DISK_FULL:
        yield f"The disk for models is full: {_gb(facts.disk_free)} of {_gb(facts.disk_total)} are free."
    for what, why in sorted(facts.unreadable.items()):
        yield f"The catalog of {what} cannot be read: {why}."
    if facts.workers and all(_failed(worker) for worker in facts.workers):
        count = len(facts.workers)
        yield "Its only worker has failed." if count == 1 else f"All {count} workers have failed."


def _other(facts: Facts) -> Iterator[str]:
    yield from _few([_of_worker(worker) for worker in facts.workers], "workers")
    share = facts.disk_total * DISK_SHARE
    low = facts.disk_free < DISK_LOW or facts.disk_free < min(share, DISK_SHARE_OF)
    if low and facts.disk_free >= DISK_FULL and facts.disk_error is None:
        yield f"The disk for models is nearly full: {_gb(facts.disk_free)} of {_gb(facts.disk_total)} are free."
    if facts.memory_available < facts.memory_total * MEMORY_SHARE:
        yield f"Little memory is left: {_gb(facts.memory_available)} of {_gb(facts.memory_total)}."
    for backend, why in sorted(facts.broken.items()):
        yield f"The {backend} devices cannot all be read, though their driver is there: {why}."
    yield from _few(
        [f"The engine {b.id} cannot be used: {b.error or 'it does not say why'}" for b in facts.binaries if _bad(b)],
        "engines",
    )
    yield from _few(
        [f"The model {m.id} cannot be used: {m.error or 'it does not say why'}" for m in facts.models if _bad(m)],
        "models",
    )
    if facts.queen_failing_since is not None:
        yield f"The queen at {facts.queen_url} has taken no heartbeat since {facts.queen_failing_since}."


def _of_worker(worker: WorkerRecord) -> str | None:
    why = f": {worker.reason}" if worker.reason else "."
    if worker.status == "failed":
        return f"The worker {worker.worker_id} has failed{why}"
    if worker.status == "dead":
        return f"The worker {worker.worker_id} has ended{why}"
    if worker.status in ("ready", "busy") and worker.health_status == "unhealthy":
        return f"The worker {worker.worker_id} runs, but does not answer{why}"
    return None


def _failed(worker: WorkerRecord) -> bool:
    return worker.status in ("failed", "dead")


def _bad(thing: ModelRecord | WorkerBinary) -> bool:
    return thing.status == "failed"


def _few(reasons: Sequence[str | None], what: str) -> Iterator[str]:
    """Those that are reasons; of many only the first ones, and how many more."""
    told = [reason for reason in reasons if reason is not None]
    yield from told[:MOST]
    if len(told) > MOST:
        yield f"And {len(told) - MOST} more {what}."


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
