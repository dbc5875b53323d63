# SPDX-License-Identifier: GPL-3.0-or-later
"""`GET /metrics` of a worker, as Prometheus reads it. Pure."""

from __future__ import annotations

from rbee.contracts.configs import WorkerConfig
from rbee.daemons.worker.state import WorkerState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATUSES = ("starting", "ready", "busy", "stopping", "failed")


def render(config: WorkerConfig, state: WorkerState) -> str:
    """Every metric with its help and type; the labels tell which worker it is."""
    labels = _labels(worker_id=config.worker_id, model=config.model, engine=config.provider.name, device=config.device)
    lines: list[str] = []

    def metric(name: str, kind: str, text: str, value: float) -> None:
        full = f"rbee_worker_{name}"
        lines.extend((f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full}{{{labels}}} {value!r}"))

    metric("requests_total", "counter", "Requests that ended, well or not.", state.requests)
    metric("errors_total", "counter", "Requests that the worker or its engine failed.", state.errors)
    metric("cancelled_total", "counter", "Streams whose client left first.", state.cancelled)
    metric(
        "prompt_tokens_total",
        "counter",
        "Prompt tokens of finished requests, cached ones included.",
        state.prompt_tokens,
    )
    metric("generated_tokens_total", "counter", "Tokens generated for finished requests.", state.tokens)
    metric("generation_seconds_total", "counter", "Seconds of generation, summed over requests.", state.generating)
    metric("engine_starts_total", "counter", "Times the engine became ready.", state.engine_starts)
    metric("requests_active", "gauge", "Requests here now, waiting ones included.", state.active)
    metric("slots", "gauge", "Requests that the engine serves at once.", state.slots)
    metric("slots_busy", "gauge", "Slots with a request.", state.slots_busy)
    lines += ["# HELP rbee_worker_status 1 for the status that it has.", "# TYPE rbee_worker_status gauge"]
    lines += [f'rbee_worker_status{{{labels},status="{s}"}} {int(s == state.status)}' for s in _STATUSES]
    return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
