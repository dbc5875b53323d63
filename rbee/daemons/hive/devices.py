# SPDX-License-Identifier: GPL-3.0-or-later
"""The hive's devices: looked at when someone asks, not more often than drivers like, and the DeviceList operation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from rbee.adapters import gpu, system
from rbee.contracts.operations.devices import DeviceList, DeviceListResponse
from rbee.core.records import Device
from rbee.daemons.jobs import Handler, JobContext

#: Seconds for which a look is good enough.
FRESH = 2.0


class Devices:
    """`users` tells which workers use a device."""

    def __init__(self, users: Callable[[str], tuple[str, ...]]) -> None:
        self._users = users
        self._seen: gpu.Detected | None = None
        self._seen_at = 0.0
        self._looking = asyncio.Lock()

    async def detect(self) -> gpu.Detected:
        """Every device, and by backend why it has none."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if self._seen is None or now - self._seen_at > FRESH:
                self._seen = await asyncio.to_thread(lambda: gpu.detect(system.cores()))
                self._seen_at = now
            return self._seen

    async def list(self) -> tuple[Device, ...]:
        """Every device, with the workers that use it."""
        return tuple(
            replace(device, in_use=bool(users), workers=users)
            for device in (await self.detect()).devices
            for users in (self._users(device.id),)
        )

    async def vram_by_pid(self) -> dict[int, int]:
        """MB of GPU memory of each process that has any, summed over devices; as the drivers tell, at most `FRESH` old.

        By process, not by tree: a worker's is the sum over its engine's processes. Empty without a GPU; a process
        whose memory its driver does not tell is missing. Never raises.
        """
        return {}

    def handlers(self) -> dict[str, Handler]:
        return {"DeviceList": self._list_job}

    async def _list_job(self, ctx: JobContext, request: DeviceList) -> DeviceListResponse:
        devices = await self.list()
        for backend, reason in (await self.detect()).reasons.items():
            ctx.narrate("device_list_none", f"No {backend} devices: {reason}", "debug", backend=backend, reason=reason)
        ctx.narrate("device_list_result", f"{len(devices)} devices.", count=len(devices))
        return DeviceListResponse(devices=devices)
