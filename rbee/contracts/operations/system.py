# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that a hive runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rbee.contracts.heartbeat import DeviceMonitor
from rbee.contracts.operations.base import operation
from rbee.contracts.operations.workers import HiveId
from rbee.core.doc import Doc


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStatsResponse:
    """Load of the machine, within the limits set for this process. GB are 10^9 bytes."""

    cpu_usage_percent: float
    cpu_cores: int
    ram_used_gb: float
    ram_total_gb: float
    uptime_seconds: int
    load_average: Annotated[tuple[float, float, float], Doc("Over 1, 5 and 15 minutes.")]
    swap_used_gb: float = 0.0
    swap_total_gb: float = 0.0
    disk_free_gb: Annotated[float, Doc("Of the disk that models are on.")] = 0.0
    disk_total_gb: float = 0.0
    vram_per_device: tuple[DeviceMonitor, ...] = ()


@operation(family="system", command="stats", response=SystemStatsResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStats:
    """Show the load of a hive's machine."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """A process of the machine. Its command line is not told: it may hold secrets of others."""

    pid: int
    name: str
    cpu_percent: float
    memory_mb: int
    status: str
    user: str = ""
    worker_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessListResponse:
    """The largest first. `total` counts those that match, also beyond `limit`."""

    processes: tuple[ProcessInfo, ...]
    total: int


@operation(family="system", command="ps", response=ProcessListResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessList:
    """List the processes of a hive's machine, not only workers."""

    hive_id: HiveId = ""
    filter: Annotated[str | None, Doc("Only those whose name contains this.")] = None
    limit: Annotated[int, Doc("At most so many.", minimum=1, maximum=10000)] = 100
