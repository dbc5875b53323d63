# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on devices: DeviceList, DeviceGet, DeviceStats."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from rbee.adapters import processes, system
from rbee.adapters.gpu import Use
from rbee.contracts.narration import Level
from rbee.contracts.operations import devices as ops
from rbee.core.errors import NotFound
from rbee.core.records import Device
from rbee.daemons.hive.machine.devices import Devices
from rbee.daemons.hive.workers.owners import Workers, owners
from rbee.daemons.jobs import Handler, JobContext


class DeviceOps:
    """The devices, made into jobs."""

    def __init__(self, devices: Devices, workers: Workers) -> None:
        self._devices = devices
        self._workers = workers

    def handlers(self) -> dict[str, Handler]:
        return {"DeviceList": self.list, "DeviceGet": self.get, "DeviceStats": self.stats}

    async def list(self, ctx: JobContext, request: ops.DeviceList) -> ops.DeviceListResponse:
        devices = await self._devices.list()
        seen = await self._devices.detect()
        for backend, reason in seen.reasons.items():
            broken = backend in seen.broken
            text = f"{backend}: {reason}" if broken else f"No {backend} devices: {reason}"
            level: Level = "warning" if broken else "debug"
            ctx.narrate("device_list_none", text, level, backend=backend, reason=reason)
        for device in devices:
            ctx.narrate("device_list_entry", f"{device.id}: {device.name}{_memory(device)}", device=device.id)
        ctx.narrate("device_list_result", f"{len(devices)} device{_s(devices)}.", count=len(devices))
        return ops.DeviceListResponse(devices=devices, reasons=seen.reasons)

    async def get(self, ctx: JobContext, request: ops.DeviceGet) -> ops.DeviceGetResponse:
        device = choose(await self._devices.list(), request.device_id, request.device_type)
        ctx.narrate("device_get_result", f"{device.id}: {device.name}{_memory(device)}", device=device.id)
        return ops.DeviceGetResponse(device=device)

    async def stats(self, ctx: JobContext, request: ops.DeviceStats) -> ops.DeviceStatsResponse:
        devices: Sequence[Device] = await self._devices.list()
        if request.device_id is not None:
            devices = [choose(devices, request.device_id, request.device_type)]
        elif request.device_type is not None:
            devices = [d for d in devices if d.device_type == request.device_type]
        uses = await self._devices.uses()
        whose = await owners(self._workers)
        names = await asyncio.to_thread(processes.names, {use.pid for use in uses} | set(whose))
        memory = await asyncio.to_thread(system.memory)
        resident = await asyncio.to_thread(processes.resident, whose)
        told = []
        for device in devices:
            if device.device_type == "cpu":
                mine = [Use(device="cpu", pid=pid, vram_mb=size // 2**20) for pid, size in resident.items()]
                mine = [use for use in mine if whose[use.pid] in device.workers]
                status = _status(device, mine, names, whose, memory)
            else:
                status = _status(device, [u for u in uses if u.device == device.id], names, whose)
            told.append(status)
            ctx.narrate(
                "device_stats_entry",
                f"{device.id}: {_said(status)}",
                device=device.id,
                utilization_percent=status.utilization_percent,
                vram_used_mb=status.vram_used_mb,
                temperature_celsius=status.temperature_celsius,
            )
        ctx.narrate("device_stats_result", f"{len(told)} device{_s(told)}.", count=len(told))
        return ops.DeviceStatsResponse(devices=tuple(told))


def choose(devices: Sequence[Device], index: int, kind: str | None) -> Device:
    """The device of that index and type; without a type the GPU of that index, where there is none the CPU. Raises
    NotFound naming what is there."""
    having = [d for d in devices if d.device_id == index and kind in (None, d.device_type)]
    if not having:
        wanted = "cpu" if (kind, index) == ("cpu", 0) else f"{kind or 'device'} {index}"
        raise NotFound(
            f"There is no {wanted} on this hive.",
            code="device_not_found",
            mend=f"It has: {', '.join(d.id for d in devices)}.",
        )
    return next((d for d in having if d.device_type != "cpu"), having[0])


def _status(
    device: Device,
    uses: Sequence[Use],
    names: Mapping[int, str],
    whose: Mapping[int, str],
    memory: tuple[int, int] | None = None,
) -> ops.DeviceStatus:
    """How a device is; `memory`, in all and available, stands for that of the CPU."""
    total, used = device.vram_total_mb, device.vram_used_mb
    if memory is not None:
        total, used = memory[0] // 2**20, (memory[0] - memory[1]) // 2**20
    return ops.DeviceStatus(
        id=device.id,
        device_id=device.device_id,
        device_type=device.device_type,
        utilization_percent=device.utilization_percent,
        vram_used_mb=used,
        vram_total_mb=total,
        vram_utilization_percent=None if used is None or not total else round(100 * used / total, 1),
        temperature_celsius=device.temperature_celsius,
        power_usage_watts=device.power_usage_watts,
        fan_speed_percent=device.fan_speed_percent,
        workers=device.workers,
        processes=tuple(
            ops.DeviceProcess(
                pid=use.pid, name=names.get(use.pid, ""), vram_mb=use.vram_mb, worker_id=whose.get(use.pid)
            )
            for use in sorted(uses, key=lambda use: (-(use.vram_mb or 0), use.pid))
        ),
    )


def _said(status: ops.DeviceStatus) -> str:
    said = [
        f"{status.utilization_percent:g} % busy" if status.utilization_percent is not None else "",
        f"{status.vram_used_mb} of {status.vram_total_mb} MB used" if status.vram_used_mb is not None else "",
        f"{status.temperature_celsius:g} °C" if status.temperature_celsius is not None else "",
        f"{status.power_usage_watts:g} W" if status.power_usage_watts is not None else "",
        f"workers: {', '.join(status.workers)}" if status.workers else "",
    ]
    return ", ".join(filter(None, said)) or "it tells nothing"


def _memory(device: Device) -> str:
    if device.vram_total_mb is None:
        return f", {device.cores} cores" if device.cores else ""
    free = f", {device.vram_free_mb} free" if device.vram_free_mb is not None else ""
    return f", {device.vram_total_mb} MB{free}"


def _s(things: Sequence[object]) -> str:
    return "" if len(things) == 1 else "s"
