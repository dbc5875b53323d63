# SPDX-License-Identifier: GPL-3.0-or-later
"""The operation HiveCheck: what a hive needs to work is tried, and what came of it told, one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rbee.adapters import system
from rbee.adapters.catalog import ModelCatalog, WorkerBinaryCatalog
from rbee.adapters.paths import Paths
from rbee.contracts.jobs import Job
from rbee.contracts.operations.hives import HiveCheck, HiveCheckResponse, HiveCheckStep
from rbee.core.errors import RbeeError
from rbee.daemons.hive import ports
from rbee.daemons.hive.machine.devices import Devices
from rbee.daemons.jobs import Handler, JobContext

#: Reads a job back from the file that jobs are kept in; None when there is no such job.
KeptJob = Callable[[str], Awaitable[Job | None]]


class CheckOps:
    """`kept_job` is None where there is no file of jobs: a command without a daemon."""

    def __init__(
        self,
        hive_id: str,
        paths: Paths,
        devices: Devices,
        models: ModelCatalog,
        binaries: WorkerBinaryCatalog,
        host: str,
        worker_ports: tuple[int, int],
        kept_job: Callable[[], KeptJob | None],
    ) -> None:
        self._hive_id = hive_id
        self._paths = paths
        self._devices = devices
        self._models = models
        self._binaries = binaries
        self._host = host
        self._ports = worker_ports
        self._kept_job = kept_job

    def handlers(self) -> dict[str, Handler]:
        return {"HiveCheck": self.check}

    async def check(self, ctx: JobContext, request: HiveCheck) -> HiveCheckResponse:
        """Every check is made, also after one that failed. Raises RbeeError `check_failed` naming those."""
        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "jobs": lambda: self._jobs(ctx.job_id),
            "disk": self._disk,
            "catalogs": self._catalogs,
            "devices": self._look,
            "ports": self._port,
        }
        ctx.narrate("hive_check_start", f"Checking hive {self._hive_id}.", hive_id=self._hive_id, steps=len(checks))
        done = []
        for number, (name, made) in enumerate(checks.items(), start=1):
            step = await _try(name, made)
            done.append(step)
            ctx.narrate(
                "hive_check_step",
                f"{name}: {step.message}",
                "info" if step.ok else "error",
                check=name,
                ok=step.ok,
                step=number,
                steps=len(checks),
            )
        failed = [step for step in done if not step.ok]
        if failed:
            why = "; ".join(f"{step.name}: {step.message}" for step in failed)
            ctx.narrate("hive_check_failed", why, "error", failed=len(failed))
            raise RbeeError(f"{len(failed)} of {len(done)} checks failed. {why}", code="check_failed")
        message = "Jobs, disk, catalogs, devices and ports work."
        ctx.narrate("hive_check_complete", message, hive_id=self._hive_id)
        return HiveCheckResponse(hive_id=self._hive_id, message=message, checks=tuple(done))

    async def _jobs(self, job_id: str) -> str:
        kept = self._kept_job()
        if kept is None:
            return "this command keeps no jobs; it runs and tells."
        job = await kept(job_id)
        if job is None:
            raise RbeeError("this very job is not in the file of jobs.")
        return f"this job runs, tells, and is written down ({job.state})."

    async def _disk(self) -> str:
        for what, folder in (("models", self._paths.models), ("state", self._paths.state)):
            wrong = await asyncio.to_thread(system.try_writing, folder)
            if wrong is not None:
                raise RbeeError(f"the folder for {what} ({folder}) cannot be written to: {wrong}.")
        _, free = await asyncio.to_thread(system.disk, self._paths.models)
        return f"written, read back and removed; {free / 1e9:.1f} GB are free for models."

    async def _catalogs(self) -> str:
        models = await asyncio.to_thread(self._models.list)
        binaries = await asyncio.to_thread(self._binaries.list)
        broken = [b.id for b in binaries if b.status == "failed"]
        if broken:
            raise RbeeError(f"engines that cannot be used: {', '.join(broken)}.")
        return f"{len(models)} models and {len(binaries)} engines can be read."

    async def _look(self) -> str:
        seen = await self._devices.detect()
        if seen.broken:
            raise RbeeError("; ".join(f"{name}: {seen.reasons[name]}" for name in sorted(seen.broken)))
        return f"{', '.join(device.id for device in seen.devices)}."

    async def _port(self) -> str:
        return f"a worker could have {await asyncio.to_thread(ports.pick, self._host, self._ports, ())}."


async def _try(name: str, made: Callable[[], Awaitable[str]]) -> HiveCheckStep:
    try:
        return HiveCheckStep(name=name, ok=True, message=await made())
    except (RbeeError, OSError) as e:
        return HiveCheckStep(name=name, ok=False, message=str(e))
