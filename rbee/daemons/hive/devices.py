# SPDX-License-Identifier: GPL-3.0-or-later
"""The hive's devices: looked at when someone asks, not more often than drivers like."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from rbee.adapters import gpu, system
from rbee.core.records import Device

#: Seconds for which a look is good enough.
FRESH = 2.0
#: A look that took longer than `FRESH` (a tool that hangs) is good for so many times what it took, up to `STALE`
#: seconds: asking again would only hang again.
PATIENCE = 10
STALE = 60.0


class Devices:
    """`users` tells which workers use a device; `gpus` are this machine's."""

    def __init__(self, users: Callable[[str], tuple[str, ...]], gpus: gpu.Gpus | None = None) -> None:
        self._users = users
        self._gpus = gpu.Gpus() if gpus is None else gpus
        self._seen: gpu.Detected | None = None
        self._good_until = 0.0
        self._uses: tuple[gpu.Use, ...] = ()
        self._uses_until = 0.0
        self._looking = asyncio.Lock()

    async def detect(self) -> gpu.Detected:
        """Every device, and by backend why it has none."""
        async with self._looking:
            began = asyncio.get_running_loop().time()
            if self._seen is None or began > self._good_until:
                self._seen = await asyncio.to_thread(lambda: self._gpus.detect(system.cores()))
                self._good_until = _good_until(began)
            return self._seen

    async def list(self) -> tuple[Device, ...]:
        """Every device, with the workers that use it."""
        return tuple(self._used(device) for device in (await self.detect()).devices)

    def _used(self, device: Device) -> Device:
        users = self._users(device.id)
        busy = system.cpu_percent() if device.device_type == "cpu" else device.utilization_percent
        return replace(device, in_use=bool(users), workers=users, utilization_percent=busy)

    async def uses(self) -> tuple[gpu.Use, ...]:
        """Which processes have memory of which GPU."""
        seen = await self.detect()
        if all(device.device_type == "cpu" for device in seen.devices):
            return ()
        async with self._looking:
            began = asyncio.get_running_loop().time()
            if began > self._uses_until:
                self._uses = await asyncio.to_thread(self._gpus.uses, seen.devices)
                self._uses_until = _good_until(began)
            return self._uses

    async def vram_by_pid(self) -> dict[int, int]:
        """MB of GPU memory of each process that has any, summed over devices; as the drivers tell, at most `FRESH` old.

        By process, not by tree: a worker's is the sum over its engine's processes. Empty without a GPU; a process
        whose memory its driver does not tell is missing. Never raises.
        """
        found: dict[int, int] = {}
        for use in await self.uses():
            if use.vram_mb is not None:
                found[use.pid] = found.get(use.pid, 0) + use.vram_mb
        return found


def _good_until(began: float) -> float:
    now = asyncio.get_running_loop().time()
    took = now - began
    return now + (FRESH if took < FRESH else min(STALE, PATIENCE * took))
