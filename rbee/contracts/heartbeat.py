# SPDX-License-Identifier: GPL-3.0-or-later
"""What workers and hives tell the queen, unasked, once it has discovered them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rbee.core.doc import Doc
from rbee.core.records import WorkerStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHeartbeat:
    """`POST /v1/worker-heartbeat`, straight from the worker. `url` is one that the queen can reach."""

    worker_id: str
    hive_id: str
    model: str
    engine: str
    worker_type: str
    device: str
    url: str
    status: WorkerStatus
    slots: int = 1
    slots_busy: int = 0
    requests_handled: int = 0
    tokens_generated: int = 0
    avg_tokens_per_sec: float = 0.0
    errors: int = 0
    context_length: int | None = None
    paths: Annotated[tuple[str, ...], Doc("OpenAI paths that it serves; empty: it does not say.")] = ()
    capabilities: Annotated[tuple[str, ...], Doc("What it can beyond its paths: tools, vision.")] = ()
    progress: Annotated[float | None, Doc("While it starts: how much of the model is in memory, 0 to 1.")] = None
    prompt_tokens: int = 0
    started_at: Annotated[str, Doc("RFC 3339; of two workers with one id the newer wins.")] = ""
    reason: Annotated[str | None, Doc("Why it is failed or dead, for a person.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMonitor:
    device_id: str
    vram_used_gb: float
    vram_total_gb: float
    temperature_celsius: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorData:
    cpu_usage_percent: float
    ram_used_gb: float
    ram_total_gb: float
    uptime_seconds: int
    devices: tuple[DeviceMonitor, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    action: Literal["added", "removed"]
    model_id: str
    size_gb: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerChange:
    """`failed` carries the reason that `rbee status` shows."""

    action: Literal["added", "removed", "failed"]
    worker_id: str
    model: str = ""
    device: str = ""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityChanges:
    models: tuple[ModelChange, ...] = ()
    workers: tuple[WorkerChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveHeartbeat:
    """`POST /v1/hive-heartbeat`, every 30 s and at once on a capability change."""

    hive_id: str
    timestamp: str
    monitor_data: MonitorData
    capability_changes: CapabilityChanges | None = None
