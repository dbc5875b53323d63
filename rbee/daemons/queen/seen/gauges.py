# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers that the queen's rooms have anyway, as text for a scrape; and the tokens that workers tell of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from rbee.adapters.access_log import LineFile
from rbee.daemons.queen.admission.gate import Ended, Gate
from rbee.daemons.queen.known.hives import Hives
from rbee.daemons.queen.known.quarantine import Quarantine
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.known.worker import Worker
from rbee.daemons.queen.routing.router import Router
from rbee.daemons.queen.scaling.scaler import Scaler
from rbee.daemons.queen.scaling.starter import Starter
from rbee.daemons.queen.seen.metrics import MOST_WORKERS, OTHER, Metrics, labels, series, typed, value


class Tokens:
    """Adds up what workers count since their start, from one heartbeat to the next. What a worker counted before this
    queen knew it is not hers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last: dict[str, tuple[str, int, int]] = {}

    def heard(self, worker: Worker | None) -> None:
        """Listener of the registry."""
        if worker is None:
            return
        beat = worker.beat
        before = self._last.get(beat.worker_id)
        self._last[beat.worker_id] = (beat.started_at, beat.tokens_generated, beat.prompt_tokens)
        if before is None:
            return
        tokens, prompt = (before[1], before[2]) if before[0] == beat.started_at else (0, 0)
        if beat.tokens_generated > tokens or beat.prompt_tokens > prompt:
            mine = self._metrics.of_worker(beat.model, beat.worker_id)
            mine.tokens += max(0, beat.tokens_generated - tokens)
            mine.prompt += max(0, beat.prompt_tokens - prompt)

    def forget(self, worker_id: str) -> None:
        self._last.pop(worker_id, None)


class Gauges:
    """Callable as one of `Metrics.gauges`."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        registry: Registry,
        hives: Hives,
        gate: Gate,
        router: Router,
        starter: Starter,
        scaler: Scaler,
        quarantine: Quarantine,
        log: LineFile,
    ) -> None:
        self._metrics = metrics
        self._registry = registry
        self._hives = hives
        self._gate = gate
        self._router = router
        self._starter = starter
        self._scaler = scaler
        self._quarantine = quarantine
        self._log = log
        self._tokens = Tokens(metrics)
        #: How waiting for a slot ended, to count.
        self._waits: Counter[str] = Counter()
        gate.waits = self._waited
        registry.listeners.append(self._tokens.heard)

    def _waited(self, model: str, seconds: float, ended: Ended) -> None:
        self._waits[ended] += 1

    def __call__(self) -> Iterator[str]:
        self._forget_who_left()
        yield from self._workers()
        hives: Counter[str] = Counter(self._hives.status(hive) for hive in self._hives.by_id.values())
        yield from series("rbee_queen_hives", "gauge", "Hives, by state.", "status", hives)
        depths = self._gate.depths()
        yield from series("rbee_queen_queue_depth", "gauge", "Requests that wait for a slot.", "model", depths)
        oldest = {model: round(self._gate.oldest(model), 3) for model in depths}
        text = "Seconds that the first of a queue waits."
        yield from series("rbee_queen_queue_oldest_seconds", "gauge", text, "model", oldest)
        yield from self._counters()

    def _workers(self) -> Iterator[str]:
        registry = self._registry
        states: Counter[str] = Counter()
        busy: Counter[tuple[str, str]] = Counter()
        slots: Counter[tuple[str, str]] = Counter()
        speed: dict[tuple[str, str], float] = {}
        for place, worker in enumerate(registry.workers.values()):
            key = worker.beat.model, worker.worker_id if place < MOST_WORKERS else OTHER
            busy[key] += worker.busy
            if registry.why_not(worker) is None:
                states[worker.status] += 1
                slots[key] += worker.slots
                speed[key] = worker.beat.avg_tokens_per_sec
            else:
                states["unreachable" if worker.unreachable else worker.status] += 1
        yield from series("rbee_queen_workers", "gauge", "Workers, by state.", "status", states)
        told: tuple[tuple[str, str, Mapping[tuple[str, str], float]], ...] = (
            ("rbee_queen_worker_in_flight", "Requests that a worker has.", busy),
            ("rbee_queen_worker_slots", "Requests that a worker serves at once; of those that serve.", slots),
            ("rbee_queen_tokens_per_second", "Of one request, on average since the worker's start.", speed),
        )
        for name, text, numbers in told:
            yield from typed(name, "gauge", text)
            for (model, worker_id), number in sorted(numbers.items()):
                yield f"{name}{labels(model=model, worker=worker_id)} {number}"

    def _counters(self) -> Iterator[str]:
        launcher, rooms = self._starter.launcher, self._starter.rooms
        starts, failures = (launcher.starts, launcher.failures) if launcher is not None else (0, 0)
        evictions = rooms.evictions if rooms is not None else 0
        for name, text, number in (
            ("rbee_queen_cold_starts_total", "Workers that the queen started.", starts),
            ("rbee_queen_cold_start_failures_total", "Workers that she could not start.", failures),
            ("rbee_queen_evictions_total", "Workers that were unloaded to make room.", evictions),
            ("rbee_queen_quarantined_total", "Workers that sent nothing of an answer.", self._quarantine.doubted),
            ("rbee_queen_restarted_total", "Those of them that were started anew.", self._quarantine.restarted),
            ("rbee_queen_access_log_lost_total", "Lines that the disk did not take.", self._log.lost),
        ):
            yield from value(name, "counter", text, number)
        steps = {"up": self._scaler.ups, "down": self._scaler.downs}
        text = "Replicas more or fewer, by load."
        yield from series("rbee_queen_scalings_total", "counter", text, "direction", steps)
        text = "Requests that had to wait for a slot, by how that ended."
        yield from series("rbee_queen_waits_total", "counter", text, "ended", self._waits)
        text = "Times that a policy could not be evaluated and was left out."
        yield from series("rbee_queen_policy_errors_total", "counter", text, "policy", self._router.failures)

    def _forget_who_left(self) -> None:
        known = self._registry.workers
        for model, worker_id in list(self._metrics.workers):
            if worker_id not in known:
                self._metrics.forget(model, worker_id)
                self._tokens.forget(worker_id)
