# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hive sees of its machine, for those who ask (`/capabilities`) and for the heartbeat."""

from __future__ import annotations

import asyncio

import rbee
from rbee.adapters import system
from rbee.adapters.catalog import ModelCatalog, WorkerBinaryCatalog
from rbee.adapters.paths import Paths
from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import HiveConfig, config_digest
from rbee.contracts.heartbeat import DeviceMonitor, MonitorData
from rbee.daemons.hive.devices import Devices
from rbee.daemons.hive.supervisor import Supervisor


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
        self._started_at = system.now()
        #: Known once the hive listens.
        self.url = ""

    async def capabilities(self, queen_url: str | None) -> Capabilities:
        devices = await self._devices.list()
        return Capabilities(
            hive_id=self._config.hive_id,
            fleet=self._config.fleet,
            version=rbee.__version__,
            release=self._config.release,
            config_digest=config_digest(self._config),
            started_at=self._started_at,
            url=self.url,
            system=await asyncio.to_thread(system.info, self._paths.models),
            devices=devices,
            models=tuple(await asyncio.to_thread(self._models.list)),
            workers=await self._supervisor.records(),
            worker_binaries=tuple(await asyncio.to_thread(self._binaries.list)),
            queen_url=queen_url,
        )

    async def monitor(self) -> MonitorData:
        """Load of the machine; GB are 10^9 bytes, VRAM as the driver counts it."""
        total, available = await asyncio.to_thread(system.memory)
        devices = (await self._devices.detect()).devices
        return MonitorData(
            cpu_usage_percent=system.cpu_percent(),
            ram_used_gb=round((total - available) / 1e9, 2),
            ram_total_gb=round(total / 1e9, 2),
            uptime_seconds=system.uptime(),
            devices=tuple(
                DeviceMonitor(
                    device_id=d.id,
                    vram_used_gb=round((d.vram_used_mb or 0) / 1024, 2),
                    vram_total_gb=round(d.vram_total_mb / 1024, 2),
                    temperature_celsius=d.temperature_celsius,
                )
                for d in devices
                if d.vram_total_mb is not None
            ),
        )
