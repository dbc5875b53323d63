# SPDX-License-Identifier: GPL-3.0-or-later
"""The hive itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rbee.contracts.operations.base import operation
from rbee.contracts.operations.system import SystemStatsResponse
from rbee.contracts.operations.workers import HiveId
from rbee.core.doc import Doc
from rbee.core.records import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveStatusResponse:
    """A hive's health and what it holds. MB are 2^20 bytes, GB 10^9; `reasons` says why it is not healthy."""

    hive_id: str
    hostname: str
    url: str
    version: str
    status: Literal["healthy", "degraded", "unhealthy"]
    reasons: tuple[str, ...]
    started_at: str
    uptime_seconds: int
    cpu_cores: int
    memory_total_mb: int
    memory_available_mb: int
    disk_total_gb: float
    disk_available_gb: float
    workers_running: int
    workers_starting: int
    workers_stopping: int
    workers_failed: int
    workers_total: int
    models_available: int
    models_downloading: int
    models_failed: int
    models_total_gb: float
    devices: tuple[Device, ...]
    system_stats: SystemStatsResponse


@operation(family="hive", command="status", response=HiveStatusResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class HiveStatus:
    """Show whether a hive is healthy, why not, and what it holds."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveCheckStep:
    """One thing that was tried; `message` says what came of it."""

    name: str
    ok: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveCheckResponse:
    """All went well; a check that did not is a job that failed, with code `check_failed`."""

    hive_id: str
    message: str
    checks: tuple[HiveCheckStep, ...] = ()


@operation(family="hive", command="check", response=HiveCheckResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class HiveCheck:
    """Let a hive try what it needs to work: its jobs, their file, the disk, the catalogs, devices, ports."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveSummary:
    """A hive as the queen knows it; `last_seen` is RFC 3339 or empty."""

    hive_id: str
    url: str
    status: Literal["online", "stale", "unreachable", "unknown"]
    last_seen: str = ""
    error: str | None = None
    devices: tuple[Device, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveListResponse:
    hives: tuple[HiveSummary, ...]


@operation(family="hive", command="list", response=HiveListResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class HiveList:
    """List the hives that the queen knows."""

    status: Annotated[str | None, Doc("Only those with this status.")] = None


#: The hive's name in rbee.yaml.
Name = Annotated[str, Doc("The hive's name.", min_length=1, example="workstation")]


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveInstallResponse:
    """`release` is what is installed; `installed` False: it was there already."""

    hive_id: str
    release: str
    installed: bool


@operation(family="hive", command="install", response=HiveInstallResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class HiveInstall:
    """Install rbee, as the queen runs it, on the machine of a hive that she knows; nothing is started."""

    hive_id: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveStartResponse:
    hive_id: str
    url: str
    message: str


@operation(family="hive", command="start", response=HiveStartResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class HiveStart:
    """Start a hive's daemon over SSH and wait until the queen has discovered it."""

    hive_id: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveStopResponse:
    hive_id: str
    workers_stopped: int
    message: str


@operation(family="hive", command="stop", response=HiveStopResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class HiveStop:
    """Stop a hive's daemon over SSH; its workers go on serving unless they are stopped too."""

    hive_id: Name
    workers: Annotated[bool, Doc("Stop its workers first, each one drained.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveUninstallResponse:
    hive_id: str
    message: str


@operation(family="hive", command="uninstall", response=HiveUninstallResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class HiveUninstall:
    """Remove from a hive's machine what apply put there: releases, settings, token. Models and strangers stay."""

    hive_id: Name
