# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on the machine: SystemStats, ProcessList."""

from __future__ import annotations

import asyncio

from rbee.adapters import processes
from rbee.contracts.operations import system as ops
from rbee.daemons.hive.machine.sight import Sight
from rbee.daemons.hive.workers.owners import Workers, owners
from rbee.daemons.jobs import Handler, JobContext


class SystemOps:
    """The machine, made into jobs."""

    def __init__(self, sight: Sight, workers: Workers) -> None:
        self._sight = sight
        self._workers = workers

    def handlers(self) -> dict[str, Handler]:
        return {"SystemStats": self.stats, "ProcessList": self.processes}

    async def stats(self, ctx: JobContext, request: ops.SystemStats) -> ops.SystemStatsResponse:
        seen = await self._sight.stats()
        ctx.narrate(
            "system_stats_result",
            f"CPU {seen.cpu_usage_percent:g} % of {seen.cpu_cores} cores, memory {seen.ram_used_gb:g} of "
            f"{seen.ram_total_gb:g} GB, load {seen.load_average[0]:g}, disk {seen.disk_free_gb:g} GB free.",
            cpu_usage_percent=seen.cpu_usage_percent,
            ram_used_gb=seen.ram_used_gb,
            ram_total_gb=seen.ram_total_gb,
            disk_free_gb=seen.disk_free_gb,
        )
        return seen

    async def processes(self, ctx: JobContext, request: ops.ProcessList) -> ops.ProcessListResponse:
        """Takes a moment: CPU is measured between two looks."""
        ctx.narrate("process_list_start", "Looking twice at the processes.", filter=request.filter)
        whose = await owners(self._workers)
        found = await asyncio.to_thread(processes.table, request.filter, request.limit)
        shown = len(found.processes)
        text = f"{found.total} process{'' if found.total == 1 else 'es'}"
        text += f", the largest {shown} shown." if shown < found.total else "."
        ctx.narrate("process_list_result", text, count=shown, total=found.total)
        return ops.ProcessListResponse(
            processes=tuple(
                ops.ProcessInfo(
                    pid=p.pid,
                    name=p.name,
                    cpu_percent=p.cpu_percent,
                    memory_mb=p.memory // 2**20,
                    status=p.status,
                    user=p.user,
                    worker_id=whose.get(p.pid),
                )
                for p in found.processes
            ),
            total=found.total,
        )
