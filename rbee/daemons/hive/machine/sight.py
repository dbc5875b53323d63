# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hive sees of its machine, for those who ask (`/capabilities`) and for the heartbeat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import rbee
from rbee.adapters import system
from rbee.adapters.catalog import ModelCatalog, WorkerBinaryCatalog
from rbee.adapters.paths import Paths
from rbee.contracts import codec
from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import HiveConfig, config_digest
from rbee.contracts.heartbeat import DeviceMonitor, MonitorData
from rbee.contracts.operations.system import SystemStatsResponse
from rbee.core.errors import Unavailable
from rbee.core.records import Device
from rbee.daemons.hive.machine.devices import Devices
from rbee.daemons.hive.workers.supervisor import Supervisor

T = TypeVar("T")


class Sight:
    """Reads; changes nothing."""

    def __init__(
        self,
        config: HiveConfig,
        paths: Paths,
        devices: Devices,
        models: ModelCatalog,
        binaries: WorkerBinaryCatalog,
        supervisor: Supervisor,
    ) -> None:
        self._config = config
        self._paths = paths
        self._devices = devices
        self._models = models
        self._binaries = binaries
        self._supervisor = supervisor
        self.started_at = system.now()
        self._began = time.monotonic()
        #: Known once the hive listens.
        self.url = ""

    async def capabilities(self, queen_url: str | None) -> Capabilities:
        """For the wire: `models` is JSON already. Raises Unavailable when a catalog cannot be read: nobody may take
        what is not known for what is not there."""
        devices = await self._devices.list()
        _, models = await asyncio.to_thread(_listed, "models", lambda: self._models.listed({}))
        return Capabilities(
            hive_id=self._config.hive_id,
            fleet=self._config.fleet,
            version=rbee.__version__,
            release=self._config.release,
            config_digest=config_digest(self._config),
            started_at=self.started_at,
            url=self.url,
            system=await asyncio.to_thread(system.info, self._paths.models),
            devices=devices,
            models=codec.embedded(memoryview(models)[len(b'{"models":') : -1]),
            workers=await self._supervisor.records(),
            worker_binaries=tuple(await asyncio.to_thread(_listed, "engines", self._binaries.list)),
            queen_url=queen_url,
        )

    def uptime(self) -> int:
        """Seconds since this hive started."""
        return int(time.monotonic() - self._began)

    async def monitor(self) -> MonitorData:
        """Load of the machine; GB are 10^9 bytes, VRAM as the driver counts it."""
        total, available = await asyncio.to_thread(system.memory)
        return MonitorData(
            cpu_usage_percent=system.cpu_percent(),
            ram_used_gb=_gb(total - available),
            ram_total_gb=_gb(total),
            uptime_seconds=system.uptime(),
            devices=_monitored(await self._devices.glance()),
        )

    async def stats(self) -> SystemStatsResponse:
        """The same and more, for those who ask."""
        total, available = await asyncio.to_thread(system.memory)
        swap_total, swap_used = await asyncio.to_thread(system.swap)
        disk_total, disk_free = await asyncio.to_thread(system.disk, self._paths.models)
        return SystemStatsResponse(
            cpu_usage_percent=system.cpu_percent(),
            cpu_cores=await asyncio.to_thread(system.cores),
            ram_used_gb=_gb(total - available),
            ram_total_gb=_gb(total),
            uptime_seconds=system.uptime(),
            load_average=system.load_average(),
            swap_used_gb=_gb(swap_used),
            swap_total_gb=_gb(swap_total),
            disk_free_gb=_gb(disk_free),
            disk_total_gb=_gb(disk_total),
            vram_per_device=_monitored((await self._devices.detect()).devices),
        )


def _listed(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError as e:
        raise Unavailable(f"The catalog of {what} cannot be read: {e}", code="catalog_unreadable") from e


def _gb(size: int) -> float:
    return round(size / 1e9, 2)


def _monitored(devices: tuple[Device, ...]) -> tuple[DeviceMonitor, ...]:
    return tuple(
        DeviceMonitor(
            device_id=d.id,
            vram_used_gb=round((d.vram_used_mb or 0) / 1024, 2),
            vram_total_gb=round(d.vram_total_mb / 1024, 2),
            temperature_celsius=d.temperature_celsius,
        )
        for d in devices
        if d.vram_total_mb is not None
    )
