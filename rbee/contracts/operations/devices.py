# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices of a hive: what there is, how it is now, who uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from rbee.contracts.operations.base import operation
from rbee.contracts.operations.workers import HiveId
from rbee.core.doc import Doc
from rbee.core.records import Device, DeviceType

_TYPES = ("cpu", "cuda", "metal", "rocm", "vulkan")
Index = Annotated[int, Doc("Index of the device among those of its type.", minimum=0, example=0)]
Type = Annotated[str | None, Doc("Its type. Default: the GPU of that index, where there is none the CPU.", enum=_TYPES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceListResponse:
    """`reasons` says by backend (nvidia, amd, apple) why it has no devices, or not all."""

    devices: tuple[Device, ...]
    reasons: dict[str, str] = field(default_factory=dict)


@operation(family="device", command="list", response=DeviceListResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceList:
    """List the devices of a hive."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGetResponse:
    device: Device


@operation(family="device", command="get", response=DeviceGetResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGet:
    """Show one device."""

    hive_id: HiveId = ""
    device_id: Index
    device_type: Type = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProcess:
    """A process that has memory of the device. `worker_id` when it is a worker of this hive, or its engine."""

    pid: int
    name: str
    vram_mb: int | None = None
    worker_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """How a device is now; None for what it does not tell. Of the CPU, memory is the machine's."""

    id: str
    device_id: int
    device_type: DeviceType
    utilization_percent: float | None = None
    vram_used_mb: int | None = None
    vram_total_mb: int | None = None
    vram_utilization_percent: float | None = None
    temperature_celsius: float | None = None
    power_usage_watts: float | None = None
    fan_speed_percent: float | None = None
    workers: tuple[str, ...] = ()
    processes: tuple[DeviceProcess, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatsResponse:
    devices: tuple[DeviceStatus, ...]


@operation(family="device", command="stats", response=DeviceStatsResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStats:
    """Show how the devices are now: memory, load, temperature, power, and which processes use them."""

    hive_id: HiveId = ""
    device_id: Annotated[int | None, Doc("Index of one device; default: all of them.", minimum=0)] = None
    device_type: Type = None
