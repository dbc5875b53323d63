# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on the hive itself: HiveStatus. And what all of a hive's operations share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import rbee
from rbee.adapters import system
from rbee.adapters.catalog import ModelCatalog, WorkerBinaryCatalog
from rbee.adapters.paths import Paths
from rbee.contracts.operations.hives import HiveStatus, HiveStatusResponse
from rbee.core.errors import InvalidRequest
from rbee.daemons.hive.heartbeat import Heartbeat
from rbee.daemons.hive.machine.condition import Facts, judge
from rbee.daemons.hive.machine.devices import Devices
from rbee.daemons.hive.machine.sight import Sight
from rbee.daemons.hive.workers.owners import Workers
from rbee.daemons.jobs import Handler, JobContext

T = TypeVar("T")


class HiveOps:
    """`hive_id` is this hive's; the others are what it holds."""

    def __init__(
        self,
        hive_id: str,
        paths: Paths,
        sight: Sight,
        devices: Devices,
        workers: Workers,
        models: ModelCatalog,
        binaries: WorkerBinaryCatalog,
        heartbeat: Heartbeat,
    ) -> None:
        self._hive_id = hive_id
        self._paths = paths
        self._sight = sight
        self._devices = devices
        self._workers = workers
        self._models = models
        self._binaries = binaries
        self._heartbeat = heartbeat

    def handlers(self) -> dict[str, Handler]:
        return {"HiveStatus": self.status}

    async def status(self, ctx: JobContext, request: HiveStatus) -> HiveStatusResponse:
        facts = await self._facts()
        condition = judge(facts)
        for reason in condition.reasons:
            ctx.narrate("hive_status_reason", reason, "warning", reason=reason)
        info = await asyncio.to_thread(system.info, self._paths.models)
        workers = Counter(worker.status for worker in facts.workers)
        models = Counter(model.status for model in facts.models)
        ctx.narrate(
            "hive_status_result",
            f"Hive {self._hive_id} is {condition.status}: {len(facts.workers)} workers, {len(facts.models)} models.",
            status=condition.status,
            reasons=len(condition.reasons),
        )
        return HiveStatusResponse(
            hive_id=self._hive_id,
            hostname=info.hostname,
            url=self._sight.url,
            version=rbee.__version__,
            status=condition.status,
            reasons=condition.reasons,
            started_at=self._sight.started_at,
            uptime_seconds=self._sight.uptime(),
            cpu_cores=info.cpu_cores,
            memory_total_mb=facts.memory_total // 2**20,
            memory_available_mb=facts.memory_available // 2**20,
            disk_total_gb=round(facts.disk_total / 1e9, 2),
            disk_available_gb=round(facts.disk_free / 1e9, 2),
            workers_running=workers["ready"] + workers["busy"],
            workers_starting=workers["starting"],
            workers_stopping=workers["stopping"],
            workers_failed=workers["failed"] + workers["dead"],
            workers_total=len(facts.workers),
            models_available=models["available"],
            models_downloading=models["downloading"],
            models_failed=models["failed"],
            models_total_gb=round(sum(m.size_bytes for m in facts.models if m.status == "available") / 1e9, 2),
            devices=await self._devices.list(),
            system_stats=await self._sight.stats(),
        )

    async def _facts(self) -> Facts:
        seen = await self._devices.detect()
        unreadable: dict[str, str] = {}

        def listed(what: str, read: Callable[[], list[T]]) -> list[T]:
            try:
                return read()
            except OSError as e:
                unreadable[what] = e.strerror or str(e)
                return []

        models = await asyncio.to_thread(listed, "models", self._models.list)
        binaries = await asyncio.to_thread(listed, "engines", self._binaries.list)
        disk_total, disk_free = await asyncio.to_thread(system.disk, self._paths.models)
        memory_total, memory_available = await asyncio.to_thread(system.memory)
        return Facts(
            disk_total=disk_total,
            disk_free=disk_free,
            disk_error=await asyncio.to_thread(system.try_writing, self._paths.models),
            memory_total=memory_total,
            memory_available=memory_available,
            workers=await self._workers.records(),
            models=models,
            binaries=binaries,
            unreadable=unreadable,
            broken={name: seen.reasons[name] for name in seen.broken},
            queen_url=self._heartbeat.queen_url,
            queen_failing_since=self._heartbeat.failing_since,
        )


def only_for(hive_id: str, *families: Mapping[str, Handler]) -> dict[str, Handler]:
    """The handlers of all families, each refusing what was meant for another hive: a wrong address must not hit this
    machine. Raises ValueError for an operation that two of them serve."""

    def guarded(handler: Handler) -> Handler:
        async def run(ctx: JobContext, request: Any) -> Any:
            asked = getattr(request, "hive_id", "")
            if asked and asked != hive_id:
                raise InvalidRequest(
                    f"This is hive {hive_id!r}, not {asked!r}.", mend="Ask the queen, or leave hive_id out."
                )
            return await handler(ctx, request)

        return run

    found: dict[str, Handler] = {}
    for name, handler in (one for family in families for one in family.items()):
        if name in found:
            raise ValueError(f"{name} has two handlers")
        found[name] = guarded(handler)
    return found
