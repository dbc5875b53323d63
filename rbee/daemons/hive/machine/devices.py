# SPDX-License-Identifier: GPL-3.0-or-later
"""The hive's devices: looked at when someone asks, not more often than drivers like."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast

from rbee.adapters import gpu, system
from rbee.core.records import Device

#: Seconds for which a look is good enough.
FRESH = 2.0
#: A look that took longer than `FRESH` (a tool that hangs) is good for so many times what it took, up to `STALE`
#: seconds: asking again would only hang again.
PATIENCE = 10
STALE = 60.0
#: Seconds in which all backends together have answered, unless one is stuck in its driver.
LIMIT = 30.0
T = TypeVar("T")


class Looker(Protocol):
    """Who looks at the devices (`rbee.adapters.gpu.Gpus`); blocks."""

    def detect(self, cores: int, *, glance: bool = False) -> gpu.Detected: ...

    def uses(self, devices: tuple[Device, ...]) -> tuple[gpu.Use, ...]: ...


class Devices:
    """`users` tells which workers use a device; `gpus` are this machine's, who answer within `limit` seconds."""

    def __init__(
        self, users: Callable[[str], tuple[str, ...]], gpus: Looker | None = None, limit: float = LIMIT
    ) -> None:
        self._users = users
        self._gpus = gpu.Gpus() if gpus is None else gpus
        self._limit = limit
        self._waiting: asyncio.Future[Any] | None = None
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
                seen = await self._in_time(lambda: self._gpus.detect(system.cores()))
                self._seen = self._unanswered() if seen is None else seen
                self._good_until = _good_until(began)
            return self._seen

    def _unanswered(self) -> gpu.Detected:
        """What was there stays: a driver that does not answer has not taken its cards away."""
        devices = self._seen.devices if self._seen is not None else (gpu.cpu.device(system.cores()),)
        return gpu.Detected(devices, {"gpu": f"no answer within {self._limit:g} s"}, frozenset({"gpu"}))

    async def _in_time(self, look: Callable[[], T]) -> T | None:
        """None when the drivers do not answer; then nobody is sent after the one who waits for them."""
        if self._waiting is not None and not self._waiting.done():
            return None
        answer = _apart(look)
        done, _ = await asyncio.wait({answer}, timeout=self._limit)
        self._waiting = None if done else answer
        return answer.result() if done else None

    async def glance(self) -> tuple[Device, ...]:
        """The devices with their memory and heat, for a heartbeat: with little effort, if they were seen before."""
        known = self._seen
        if known is None or asyncio.get_running_loop().time() <= self._good_until:
            return (await self.detect()).devices
        async with self._looking:
            seen = await self._in_time(lambda: self._gpus.detect(system.cores(), glance=True))
            return known.devices if seen is None else seen.devices

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
                self._uses = await self._in_time(lambda: self._gpus.uses(seen.devices)) or ()
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


def _apart(look: Callable[[], T]) -> asyncio.Future[T]:
    """Done in a thread of its own, which keeps no process from ending: a call into a driver may never come back."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(found: T | None, error: Exception | None) -> None:
        if not answer.done():
            answer.set_exception(error) if error is not None else answer.set_result(cast(T, found))

    def run() -> None:
        found, error = None, None
        try:
            found = look()
        except Exception as e:
            error = e
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, found, error)

    threading.Thread(target=run, name="rbee-devices", daemon=True).start()
    return answer


def _good_until(began: float) -> float:
    now = asyncio.get_running_loop().time()
    took = now - began
    return now + (FRESH if took < FRESH else min(STALE, PATIENCE * took))
