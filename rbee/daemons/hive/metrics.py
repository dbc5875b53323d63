# SPDX-License-Identifier: GPL-3.0-or-later
"""`/metrics` of a hive, in Prometheus' text form. Labels are of fixed sets only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rbee.core.records import ModelRecord, WorkerRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WORKER_STATUSES = ("starting", "ready", "busy", "stopping", "dead", "failed")
_MODEL_STATUSES = ("available", "downloading", "failed")


def render(
    *,
    workers: Iterable[WorkerRecord],
    models: Iterable[ModelRecord],
    memory: tuple[int, int],
    jobs_running: int,
    heartbeats_sent: int,
) -> str:
    """`memory`: bytes in all and available."""
    by_worker: Counter[str] = Counter(w.status for w in workers)
    held = list(models)
    by_model: Counter[str] = Counter(m.status for m in held)
    return "".join(
        (
            _family("rbee_hive_workers", "gauge", "Workers by status.", _by("status", _WORKER_STATUSES, by_worker)),
            _family("rbee_hive_models", "gauge", "Models by status.", _by("status", _MODEL_STATUSES, by_model)),
            _family("rbee_hive_models_bytes", "gauge", "Bytes of all models.", {"": sum(m.size_bytes for m in held)}),
            _family("rbee_hive_memory_total_bytes", "gauge", "Memory of the machine.", {"": memory[0]}),
            _family("rbee_hive_memory_available_bytes", "gauge", "Memory that is available.", {"": memory[1]}),
            _family("rbee_hive_jobs_running", "gauge", "Jobs that run now.", {"": jobs_running}),
            _family("rbee_hive_heartbeats_total", "counter", "Heartbeats a queen took.", {"": heartbeats_sent}),
        )
    )


def _by(label: str, values: Iterable[str], counts: Counter[str]) -> dict[str, int]:
    return {f'{{{label}="{value}"}}': counts[value] for value in values}


def _family(name: str, kind: str, text: str, samples: dict[str, int]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(f"{name}{k} {v}" for k, v in samples.items())]
    return "\n".join(lines) + "\n"
