# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's numbers, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.known.worker import Worker

_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BOUNDS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str) -> list[str]:
        lines, so_far = [f"# TYPE {name} histogram"], 0
        for bound, count in zip((*(str(b) for b in _BOUNDS), "+Inf"), self.counts, strict=True):
            so_far += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {so_far}')
        return [*lines, f"{name}_sum {self.total:.6f}", f"{name}_count {so_far}"]


class Metrics:
    def __init__(self) -> None:
        #: (model, worker, status, end) to count; `worker` is empty when none was asked.
        self.requests: Counter[tuple[str, str, int, str]] = Counter()
        self.retries = 0
        self.active = 0
        self.first_byte = Histogram()
        self.duration = Histogram()

    def done(
        self,
        asked: Asked | None,
        request_id: str,
        path: str,
        worker: Worker | None,
        status: int,
        end: str,
        seconds: float,
        first_byte_seconds: float | None,
        bytes_out: int,
    ) -> None:
        """A request is over: see `front.seen.Seen`."""
        if worker is None:
            self.requests[asked.models[0] if asked is not None else "", "", status, end] += 1
            return
        self.requests[worker.beat.model, worker.worker_id, status, end] += 1
        self.duration.add(seconds)
        if first_byte_seconds is not None:
            self.first_byte.add(first_byte_seconds)

    @property
    def total(self) -> int:
        return sum(self.requests.values())

    def text(self, registry: Registry) -> str:
        """Everything, for `GET /metrics`."""
        lines = ["# TYPE rbee_queen_requests_total counter"]
        lines += [
            f'rbee_queen_requests_total{{model="{_label(m)}",worker="{_label(w)}",status="{s}",end="{e}"}} {n}'
            for (m, w, s, e), n in sorted(self.requests.items())
        ]
        lines += ["# TYPE rbee_queen_requests_active gauge", f"rbee_queen_requests_active {self.active}"]
        lines += ["# TYPE rbee_queen_retries_total counter", f"rbee_queen_retries_total {self.retries}"]
        lines.append("# TYPE rbee_queen_worker_in_flight gauge")
        states: Counter[str] = Counter()
        for worker in registry.workers.values():
            labels = f'worker="{_label(worker.worker_id)}",model="{_label(worker.beat.model)}"'
            lines.append(f"rbee_queen_worker_in_flight{{{labels}}} {worker.in_flight}")
            states[worker.status if registry.why_not(worker) is None or not worker.unreachable else "unreachable"] += 1
        lines.append("# TYPE rbee_queen_workers gauge")
        lines += [f'rbee_queen_workers{{status="{state}"}} {n}' for state, n in sorted(states.items())]
        lines += self.first_byte.lines("rbee_queen_first_byte_seconds")
        lines += self.duration.lines("rbee_queen_request_seconds")
        return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
