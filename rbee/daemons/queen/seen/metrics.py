# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's numbers, in Prometheus' text format. What a request adds is a few list items; text is made when asked."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

#: Upper bounds of a histogram's buckets, in seconds.
SLOW: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
QUICK: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
#: Models, and workers, that have series of their own; more of them share one, so that a scrape stays small.
MOST_MODELS: Final = 500
MOST_WORKERS: Final = 1_000
OTHER: Final = "(other)"
#: Whose worker has left: its counts stay, so that sums never go back.
GONE: Final = "(gone)"


class Histogram:
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SLOW) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: str = "") -> list[str]:
        lines, so_far = [], 0
        before = f"{labels}," if labels else ""
        for bound, count in zip((*(str(b) for b in self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            lines.append(f'{name}_bucket{{{before}le="{bound}"}} {so_far}')
        after = f"{{{labels}}}" if labels else ""
        return [*lines, f"{name}_sum{after} {self.total:.6f}", f"{name}_count{after} {so_far}"]


class OfModel:
    """What requests for one model took, in seconds."""

    __slots__ = ("duration", "first_byte", "overhead", "queue")

    def __init__(self) -> None:
        self.duration = Histogram()
        self.first_byte = Histogram()
        self.queue = Histogram()
        self.overhead = Histogram(QUICK)


class OfWorker:
    """What one worker did: counts by (status, end), sums of seconds, tokens since the queen knows it."""

    __slots__ = ("ends", "first_byte", "first_bytes", "model", "prompt", "queue", "seconds", "tokens")

    def __init__(self, model: str) -> None:
        self.model = model
        self.ends: dict[tuple[int, str], int] = {}
        self.seconds = self.first_byte = self.queue = 0.0
        self.first_bytes = 0
        self.tokens = self.prompt = 0

    def add(self, other: OfWorker) -> None:
        for end, count in other.ends.items():
            self.ends[end] = self.ends.get(end, 0) + count
        self.seconds += other.seconds
        self.first_byte += other.first_byte
        self.queue += other.queue
        self.first_bytes += other.first_bytes
        self.tokens += other.tokens
        self.prompt += other.prompt


class Metrics:
    """`gauges` are asked at each scrape: each gives lines of text."""

    def __init__(self) -> None:
        self.models: dict[str, OfModel] = {}
        self.workers: dict[tuple[str, str], OfWorker] = {}
        #: (code, status) to count: requests that no worker answered.
        self.refused: Counter[tuple[str, int]] = Counter()
        self.retries = 0
        self.active = 0
        self.answered = 0
        self.gauges: list[Callable[[], Iterable[str]]] = []

    # What the request path calls.

    def done(
        self, model: str, worker: str, status: int, end: str, seconds: float, first: float | None, waited: float
    ) -> OfModel:
        """A request that a worker answered, or whose client left it. Seconds; `first` None: no byte came."""
        self.answered += 1
        mine = self.of_worker(model, worker)
        mine.ends[status, end] = mine.ends.get((status, end), 0) + 1
        mine.seconds += seconds
        mine.queue += waited
        times = self.of_model(model)
        times.duration.add(seconds)
        times.queue.add(waited)
        if first is not None:
            mine.first_byte += first
            mine.first_bytes += 1
            times.first_byte.add(first)
        return times

    def of_model(self, model: str) -> OfModel:
        found = self.models.get(model)
        if found is None:
            if len(self.models) >= MOST_MODELS:
                model = OTHER
            found = self.models.setdefault(model, OfModel())
        return found

    def of_worker(self, model: str, worker: str) -> OfWorker:
        found = self.workers.get((model, worker))
        if found is None:
            if len(self.workers) >= MOST_WORKERS:
                worker = OTHER
                model = model if model in self.models else OTHER
            found = self.workers.setdefault((model, worker), OfWorker(model))
        return found

    def forget(self, model: str, worker: str) -> None:
        """The worker is no more: its counts go on under one name for all that left."""
        left = self.workers.pop((model, worker), None) if worker not in (GONE, OTHER) else None
        if left is not None:
            self.workers.setdefault((model, GONE), OfWorker(model)).add(left)

    @property
    def total(self) -> int:
        """Requests that have ended, refused ones too."""
        return self.answered + sum(self.refused.values())

    # What a scrape reads.

    def text(self) -> str:
        """Everything, for `GET /metrics`."""
        # First: they also tell who has left.
        of_rooms = [line for gauge in self.gauges for line in gauge()]
        lines = [*self._of_workers(), *self._of_models()]
        lines += typed("rbee_queen_refused_total", "counter", "Requests that were refused, by the error's code.")
        lines += [
            f"rbee_queen_refused_total{labels(code=code, status=str(status))} {count}"
            for (code, status), count in sorted(self.refused.items())
        ]
        lines += value("rbee_queen_requests_active", "gauge", "Requests that are here, waiting ones too.", self.active)
        lines += value("rbee_queen_retries_total", "counter", "Requests sent on to another worker.", self.retries)
        lines += of_rooms
        return "\n".join(lines) + "\n"

    def _of_workers(self) -> list[str]:
        name = "rbee_queen_requests_total"
        lines = typed(name, "counter", "Requests, by the status that the client got and how the answer ended.")
        every = sorted(self.workers.items())
        for (model, worker), one in every:
            for (status, end), count in sorted(one.ends.items()):
                lines.append(f"{name}{labels(model=model, worker=worker, status=str(status), end=end)} {count}")
        for name, text, number in _SUMS:
            lines += typed(name, "counter", text)
            lines += [f"{name}{labels(model=m, worker=w)} {number(one)}" for (m, w), one in every]
        name = "rbee_queen_tokens_total"
        lines += typed(name, "counter", "Tokens, as workers tell in their heartbeats.")
        for (model, worker), one in every:
            for kind, count in (("prompt", one.prompt), ("completion", one.tokens)):
                lines.append(f"{name}{labels(model=model, worker=worker, kind=kind)} {count}")
        return lines

    def _of_models(self) -> list[str]:
        lines = []
        for name, text, pick in _HISTOGRAMS:
            lines += typed(name, "histogram", text)
            for model, one in sorted(self.models.items()):
                lines += pick(one).lines(name, labels(model=model)[1:-1])
        return lines


_SUMS: tuple[tuple[str, str, Callable[[OfWorker], str]], ...] = (
    (
        "rbee_queen_worker_seconds_total",
        "Seconds of all answers, from the request's arrival to their end.",
        lambda one: f"{one.seconds:.6f}",
    ),
    (
        "rbee_queen_worker_first_byte_seconds_total",
        "Seconds until the first byte, which of a stream is the first token, of all answers.",
        lambda one: f"{one.first_byte:.6f}",
    ),
    ("rbee_queen_worker_first_bytes_total", "Answers that had a first byte.", lambda one: str(one.first_bytes)),
    ("rbee_queen_worker_queue_seconds_total", "Seconds of waiting for a slot.", lambda one: f"{one.queue:.6f}"),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[OfModel], Histogram]], ...] = (
    ("rbee_queen_request_seconds", "From the request's arrival to the end of its answer.", lambda one: one.duration),
    (
        "rbee_queen_first_byte_seconds",
        "From the worker's slot to its first byte: of a stream, the first token.",
        lambda one: one.first_byte,
    ),
    ("rbee_queen_queue_seconds", "What requests waited for a slot.", lambda one: one.queue),
    ("rbee_queen_overhead_seconds", "The queen's own time before a request went out.", lambda one: one.overhead),
)


def value(name: str, kind: str, text: str, number: float, **said: str) -> list[str]:
    """A metric that has one series."""
    return [*typed(name, kind, text), f"{name}{labels(**said)} {number}"]


def series(name: str, kind: str, text: str, label: str, numbers: Mapping[str, float]) -> list[str]:
    """A metric with one label, by its values."""
    lines = typed(name, kind, text)
    return lines + [f"{name}{labels(**{label: key})} {number}" for key, number in sorted(numbers.items())]


def labels(**said: str) -> str:
    """`{model="x",worker="y"}`; nothing when there are none."""
    if not said:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(text)}"' for key, text in said.items()) + "}"


def typed(name: str, kind: str, text: str) -> list[str]:
    """The lines before a metric's series."""
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
