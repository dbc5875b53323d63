# SPDX-License-Identifier: GPL-3.0-or-later
"""`/metrics` of a hive, in Prometheus' text form. Labels are of fixed sets, or of this machine's few devices: none
grows with models, workers or jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import rbee
from rbee.adapters.system import Usage
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.operations.downloads import DownloadInfo
from rbee.core.records import Device, ModelRecord, WorkerRecord
from rbee.daemons.hive.models.preload import Counts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WORKER_STATUSES = ("starting", "ready", "busy", "stopping", "dead", "failed", "unloaded")
_MODEL_STATUSES = ("available", "downloading", "failed")
_DOWNLOAD_STATUSES = ("queued", "downloading", "paused", "failed")
_LANES = sorted({o.lane for o in OPERATIONS.values() if "hive" in o.served_by})
_ENDS = ("completed", "failed", "cancelled")
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is told. `memory`: bytes in all and available; `lanes`: jobs that run and that wait, by lane; `ended`: by
    lane and state; `preloaded`: bytes by model."""

    workers: tuple[WorkerRecord, ...]
    restarts: int
    models: tuple[ModelRecord, ...]
    added_bytes: int
    downloads: tuple[DownloadInfo, ...]
    devices: tuple[Device, ...]
    memory: tuple[int, int]
    lanes: Mapping[str, tuple[int, int]]
    ended: Mapping[tuple[str, str], int]
    heartbeats_sent: int
    preloaded: Mapping[str, int]
    preload_budget: int
    preload: Counts
    usage: Usage


class Restarts:
    """A counter out of what each worker says of itself: it never falls, though workers go."""

    def __init__(self) -> None:
        self._gone = 0
        self._last: dict[str, int] = {}

    def seen(self, workers: Iterable[WorkerRecord]) -> int:
        """Of all workers that were ever seen."""
        now = {w.worker_id: w.restarts for w in workers}
        self._gone += sum(n for worker, n in self._last.items() if now.get(worker, -1) < n)
        self._last = now
        return self._gone + sum(now.values())


def render(seen: Seen) -> str:
    out = _Text()
    out.gauge("rbee_hive_info", "The hive's release.", [({"version": rbee.__version__}, 1)])
    _workers(out, seen)
    _models(out, seen)
    _jobs(out, seen)
    _machine(out, seen)
    _preload(out, seen)
    _process(out, seen.usage)
    return out.text()


def _workers(out: _Text, seen: Seen) -> None:
    by_status: Counter[str] = Counter(w.status for w in seen.workers)
    out.gauge("rbee_hive_workers", "Workers by status.", _by("status", _WORKER_STATUSES, by_status))
    out.counter("rbee_hive_worker_restarts_total", "Workers that were started again.", seen.restarts)


def _models(out: _Text, seen: Seen) -> None:
    by_status: Counter[str] = Counter(m.status for m in seen.models)
    downloads: Counter[str] = Counter(d.status for d in seen.downloads)
    speed = sum(d.speed_bytes_per_sec for d in seen.downloads)
    out.gauge("rbee_hive_models", "Models by status.", _by("status", _MODEL_STATUSES, by_status))
    out.gauge("rbee_hive_models_bytes", "Bytes of all models.", sum(m.size_bytes for m in seen.models))
    out.gauge("rbee_hive_downloads", "Downloads by status.", _by("status", _DOWNLOAD_STATUSES, downloads))
    out.gauge("rbee_hive_download_bytes_per_second", "Speed of all downloads together.", speed)
    out.counter("rbee_hive_models_added_bytes_total", "Bytes of models that came to this hive.", seen.added_bytes)


def _jobs(out: _Text, seen: Seen) -> None:
    now, ended = [], []
    for lane in _LANES:
        running, waiting = seen.lanes.get(lane, (0, 0))
        now += [({"lane": lane, "state": "running"}, running), ({"lane": lane, "state": "queued"}, waiting)]
        ended += [({"lane": lane, "state": state}, seen.ended.get((lane, state), 0)) for state in _ENDS]
    out.gauge("rbee_hive_jobs", "Jobs that run or wait now.", now)
    out.counter("rbee_hive_jobs_ended_total", "Jobs that ended.", ended)
    out.gauge("rbee_hive_jobs_running", "Jobs that run now.", sum(running for running, _ in seen.lanes.values()))
    out.counter("rbee_hive_heartbeats_total", "Heartbeats a queen took.", seen.heartbeats_sent)


def _machine(out: _Text, seen: Seen) -> None:
    def told(value: Callable[[Device], float | None], factor: float = 1) -> list[tuple[Labels, float]]:
        found = ((d.id, value(d)) for d in seen.devices)
        return [({"device": device}, v * factor) for device, v in found if v is not None]

    out.gauge("rbee_hive_memory_total_bytes", "Memory of the machine.", seen.memory[0])
    out.gauge("rbee_hive_memory_available_bytes", "Memory that is available.", seen.memory[1])
    mb = 2**20
    out.gauge("rbee_hive_device_vram_total_bytes", "Memory of a GPU.", told(lambda d: d.vram_total_mb, mb))
    out.gauge("rbee_hive_device_vram_used_bytes", "Memory of a GPU in use.", told(lambda d: d.vram_used_mb, mb))
    out.gauge("rbee_hive_device_temperature_celsius", "Heat of a device.", told(lambda d: d.temperature_celsius))
    out.gauge("rbee_hive_device_power_watts", "Power a device draws.", told(lambda d: d.power_usage_watts))
    out.gauge("rbee_hive_device_utilization_ratio", "Load, 0 to 1.", told(lambda d: d.utilization_percent, 0.01))
    out.gauge("rbee_hive_device_workers", "Workers that use a device.", told(lambda d: len(d.workers)))


def _preload(out: _Text, seen: Seen) -> None:
    out.gauge("rbee_hive_preload_models", "Preloaded models that are in memory.", len(seen.preloaded))
    out.gauge("rbee_hive_preload_bytes", "Bytes of these.", sum(seen.preloaded.values()))
    out.gauge("rbee_hive_preload_budget_bytes", "Bytes that preloaded models may take.", seen.preload_budget)
    starts: list[tuple[Labels, float]] = [
        ({"found": "hit"}, seen.preload.hits),
        ({"found": "miss"}, seen.preload.misses),
    ]
    out.counter("rbee_hive_preload_starts_total", "Worker starts whose model was in memory, or was not.", starts)
    out.counter("rbee_hive_preload_evictions_total", "Preloaded models that were let go.", seen.preload.evictions)


def _process(out: _Text, usage: Usage) -> None:
    """Under the names that every Prometheus client gives them. Locked models are not in it: keepers have these."""
    out.counter("process_cpu_seconds_total", "CPU time of this process.", usage.cpu_seconds)
    out.gauge("process_resident_memory_bytes", "Memory of this process.", usage.resident)
    out.gauge("process_start_time_seconds", "When this process started, since the epoch.", usage.started_at)
    if usage.open_files is not None:
        out.gauge("process_open_fds", "Files and sockets this process has open.", usage.open_files)


def _by(label: str, values: Iterable[str], counts: Counter[str]) -> list[tuple[Labels, float]]:
    return [({label: value}, counts[value]) for value in values]


class _Text:
    """Families one after the other. A family without a sample (no GPU here) is left out."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def gauge(self, name: str, text: str, samples: float | Iterable[tuple[Labels, float]]) -> None:
        self._family("gauge", name, text, samples)

    def counter(self, name: str, text: str, samples: float | Iterable[tuple[Labels, float]]) -> None:
        self._family("counter", name, text, samples)

    def _family(self, kind: str, name: str, text: str, samples: float | Iterable[tuple[Labels, float]]) -> None:
        found = [({}, samples)] if isinstance(samples, (int, float)) else list(samples)
        if found:
            self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            self._lines += [f"{name}{_labels(labels)} {value}" for labels, value in found]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _labels(labels: Labels) -> str:
    said = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{said}}}" if said else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
