# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers that the queen knows, indexed by model. One owner: the queen's event loop; nothing here awaits IO."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, KeysView, Mapping
from typing import Literal

from rbee.adapters.splice import Upstream
from rbee.contracts import defaults
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.core.errors import InvalidRequest
from rbee.core.records import WorkerRecord
from rbee.core.routing import why_not
from rbee.daemons.queen.known.worker import NOBODY, PROBED, Worker, beat_of, upstream_of

__all__ = ["NOBODY", "PROBED", "Refusal", "Registry", "Worker", "upstream_of"]

log = logging.getLogger(__name__)

#: Why a worker's heartbeat was not taken.
Refusal = Literal["replaced", "unknown_hive", "untrusted"]

#: A worker that was silent for this many times STALE_AFTER is forgotten.
_FORGET = 10
_NO_WORKERS: Mapping[str, Worker] = {}


class Registry:
    """`clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float], stale_after: float = defaults.STALE_AFTER) -> None:
        self._clock = clock
        self.stale_after = stale_after
        self.workers: dict[str, Worker] = {}
        self._by_model: dict[str, dict[str, Worker]] = {}
        self._by_address: dict[Upstream, dict[str, Worker]] = {}
        #: Changes with the set of models.
        self.generation = 0
        self._waiting: set[asyncio.Future[None]] = set()
        #: Called with each worker that spoke or answers again; None: other news for those that wait.
        self.listeners: list[Callable[[Worker | None], None]] = []
        self._labels: dict[str, Mapping[str, str]] = {}
        #: Hives whose workers are taken in; None: this queen was never told of hives, and takes in any.
        self._hives: frozenset[str] | None = None

    def of_hives(self, hives: Iterable[str]) -> list[Worker]:
        """The fleet's hives are these now. Workers of others are forgotten at once and given back; what they say later
        is ignored. A queen that was never told of any hive believes workers without one."""
        known = frozenset(hives)
        if known or self._hives is not None:
            self._hives = known
        gone = [w for w in self.workers.values() if self._hives is not None and w.beat.hive_id not in self._hives]
        for worker in gone:
            self.forget(worker.worker_id)
        if gone:
            self._tell()
        return gone

    def label(self, labels: Mapping[str, Mapping[str, str]]) -> None:
        """The labels of all hives, by their ids; workers have those of theirs."""
        self._labels = dict(labels)
        for worker in self.workers.values():
            worker.labels = self._labels.get(worker.beat.hive_id, NOBODY)

    def heartbeat(self, beat: WorkerHeartbeat, trusted: bool = True) -> Worker | None:
        """Takes in what a worker says of itself: it lives, so it is reachable from its side at least.

        `trusted`: it has shown the fleet's token (or there is none). None when it is ignored, for the reason that
        `refusal` gives, or because it is the late goodbye of one that was forgotten. Raises InvalidRequest for a bad
        URL.
        """
        if self.refusal(beat, trusted) is not None:
            return None
        known, now = self.workers.get(beat.worker_id), self._clock()
        if known is None and beat.status == "stopping":
            return None
        if known is None or known.beat.started_at != beat.started_at or known.trusted != trusted:
            known = self._add(Worker(beat, now, trusted))
            self._evict(known)
        elif known.beat.model == beat.model and known.beat.url == beat.url:
            known.update(beat, now)
        else:
            self._unindex(known)
            known.update(beat, now)
            if not known.held:
                known.unreachable = None
            self._index(known)
            self._evict(known)
        self._tell(known)
        return known

    def refusal(self, beat: WorkerHeartbeat, trusted: bool = True) -> Refusal | None:
        """Why it is not taken in: an older process of the same id, a worker of a hive that is not of this fleet, or
        one without the token that takes a trusted one's place. None: it is."""
        if self._hives is not None and beat.hive_id not in self._hives:
            return "unknown_hive"
        known = self.workers.get(beat.worker_id)
        if known is None:
            return None
        if self._outlived(known, beat, self._clock()):
            return "replaced"
        return "untrusted" if known.trusted and not trusted else None

    def _outlived(self, known: Worker, beat: WorkerHeartbeat, now: float) -> bool:
        """Whether an older process says it, while a newer one is well. When the newer one is not, the start times
        tell nothing: its machine's clock has been set back."""
        return (
            beat.started_at < known.beat.started_at
            and known.unreachable is None
            and now - known.last_seen <= self.stale_after
        )

    def discovered(self, hive_id: str, records: Iterable[WorkerRecord]) -> list[Worker]:
        """Takes in workers that a hive told of; those that it must take on trust are returned, to be probed."""
        new: list[Worker] = []
        for record in records:
            try:
                upstream_of(record.url)
            except InvalidRequest as e:  # the others are none the worse for it
                log.warning("worker %s of hive %s: %s", record.worker_id, hive_id, e)
                continue
            known = self.workers.get(record.worker_id)
            if record.status == "unloaded":
                # Nothing to probe: it is there to be seen, and why, until its hive starts it again or removes it.
                if known is None or record.started_at >= known.beat.started_at:
                    self._add(Worker(beat_of(record, hive_id), self._clock(), trusted=True))
                continue
            if known is not None and known.held and known.beat.started_at >= record.started_at:
                continue  # who took it out of routing brings it back
            failed = record.status in ("failed", "dead")
            if known is not None and known.beat.started_at >= record.started_at and known.unreachable is None:
                if failed and known.status not in ("failed", "dead", "stopping"):
                    known.unreachable = f"{record.status}: {record.reason or 'says its hive'}"
                    new.append(known)
                continue
            worker = self._add(Worker(beat_of(record, hive_id), self._clock(), trusted=True))
            if not failed:
                worker.unreachable = PROBED
                new.append(worker)
        return new

    def drop(self, worker_id: str, reason: str) -> Worker | None:
        """No more requests to it until `restore` or a heartbeat of a newer process."""
        worker = self.workers.get(worker_id)
        if worker is not None and not worker.held:
            worker.unreachable = reason
        return worker

    def restore(self, worker: Worker, status: str | None = None) -> None:
        """It answered a probe. Nothing when it has been replaced meanwhile, or is held."""
        if self.workers.get(worker.worker_id) is worker and not worker.held:
            worker.unreachable = None
            worker.last_seen = self._clock()
            if status is not None:
                worker.status = status
            self._tell(worker)

    def hold(self, worker: Worker, reason: str) -> None:
        """No more requests to it, whatever it answers, until `release` or a heartbeat of a newer process."""
        worker.held, worker.unreachable = True, reason

    def release(self, worker: Worker) -> None:
        """It may be routed to again."""
        if worker.held:
            worker.held = False
            self.restore(worker)

    def forget(self, worker_id: str) -> Worker | None:
        """It is gone for good, says its hive."""
        worker = self.workers.pop(worker_id, None)
        if worker is not None:
            self._unindex(worker)
        return worker

    def sweep(self) -> list[Worker]:
        """Forgets workers that have been silent for very long, and those that said goodbye and are stale."""
        now = self._clock()
        old = [
            w
            for w in self.workers.values()
            if now - w.last_seen > self.stale_after * (1 if w.status in ("stopping", "dead") else _FORGET)
            and w.status != "unloaded"
        ]
        for worker in old:
            self.forget(worker.worker_id)
        return old

    def of_model(self, model: str) -> Mapping[str, Worker]:
        """Workers of a model by their ids: the index itself, not to be changed."""
        return self._by_model.get(model, _NO_WORKERS)

    def of_models(self, models: Iterable[str]) -> list[Worker]:
        return [w for m in models for w in self._by_model.get(m, {}).values()]

    @property
    def models(self) -> KeysView[str]:
        """Models that at least one known worker has, whatever its state."""
        return self._by_model.keys()

    def why_not(self, worker: Worker) -> str | None:
        return why_not(worker, self._clock(), self.stale_after)

    def age(self, worker: Worker) -> float:
        return self._clock() - worker.last_seen

    async def changed(self, timeout: float) -> bool:
        """Waits until some worker spoke or answered; False when `timeout` seconds passed first."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait_for(waiter, timeout)
        except (asyncio.TimeoutError, TimeoutError):
            return False
        finally:
            self._waiting.discard(waiter)
        return True

    def tell(self) -> None:
        """There is news for those that wait, though no worker spoke."""
        self._tell()

    def _tell(self, worker: Worker | None = None) -> None:
        for listener in self.listeners:
            listener(worker)
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _add(self, worker: Worker) -> Worker:
        self.forget(worker.worker_id)
        self.workers[worker.worker_id] = worker
        worker.labels = self._labels.get(worker.beat.hive_id, NOBODY)
        self._index(worker)
        return worker

    def _index(self, worker: Worker) -> None:
        self.generation += worker.beat.model not in self._by_model
        self._by_model.setdefault(worker.beat.model, {})[worker.worker_id] = worker
        self._by_address.setdefault(worker.upstream, {})[worker.worker_id] = worker

    def _unindex(self, worker: Worker) -> None:
        of_model = self._by_model.get(worker.beat.model)
        if of_model is not None:
            of_model.pop(worker.worker_id, None)
            if not of_model:
                self.generation += 1
                del self._by_model[worker.beat.model]
        there = self._by_address.get(worker.upstream)
        if there is not None:
            there.pop(worker.worker_id, None)
            if not there:
                del self._by_address[worker.upstream]

    def _evict(self, newest: Worker) -> None:
        """A port has one owner: a worker that speaks from another's address has taken its place."""
        for other in [w for w in self._by_address[newest.upstream].values() if w is not newest]:
            if other.status == "unloaded":  # its port was given on
                continue
            older = self._outlived(other, newest.beat, newest.last_seen)
            if not older and (newest.trusted or not other.trusted):
                self.forget(other.worker_id)
