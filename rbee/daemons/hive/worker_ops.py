# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on worker processes: WorkerSpawn, WorkerProcessList, WorkerProcessGet, WorkerProcessDelete."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rbee.adapters import gguf, process, system
from rbee.adapters.catalog import ModelCatalog, WorkerBinaryCatalog
from rbee.contracts.configs import HiveConfig, WorkerConfig
from rbee.contracts.operations import workers as ops
from rbee.core.errors import Conflict, RbeeError
from rbee.core.records import ModelRecord
from rbee.daemons.access import is_loopback, split_address
from rbee.daemons.hive import admission
from rbee.daemons.hive.devices import Devices
from rbee.daemons.hive.heartbeat import Heartbeat
from rbee.daemons.hive.managed import Managed
from rbee.daemons.hive.supervisor import Order, Supervisor
from rbee.daemons.jobs import Handler, JobContext

#: Between two `worker_spawn_health_check` events.
TELL_EVERY = 2.0


class WorkerOps:
    """The supervisor, made into jobs."""

    def __init__(
        self,
        config: HiveConfig,
        token_file: Path | None,
        supervisor: Supervisor,
        models: ModelCatalog,
        binaries: WorkerBinaryCatalog,
        devices: Devices,
        heartbeat: Heartbeat,
    ) -> None:
        self._config = config
        self._token_file = token_file
        self._supervisor = supervisor
        self._models = models
        self._binaries = binaries
        self._devices = devices
        self._heartbeat = heartbeat

    def handlers(self) -> dict[str, Handler]:
        return {
            "WorkerSpawn": self.spawn,
            "WorkerProcessList": self.list,
            "WorkerProcessGet": self.get,
            "WorkerProcessDelete": self.delete,
        }

    async def spawn(self, ctx: JobContext, request: ops.WorkerSpawn) -> ops.WorkerSpawnResponse:
        """Start a worker and wait until it is ready. One that runs already as asked for is returned as it is."""
        device = "cpu" if request.worker == "cpu" else f"{request.worker}:{request.device}"
        ctx.narrate(
            "worker_spawn_start",
            f"Starting a worker for {request.model} on {device}.",
            model=request.model,
            device=device,
            worker_id=request.worker_id,
        )
        try:
            return await self._spawn(ctx, request)
        except RbeeError as e:
            ctx.narrate("worker_spawn_error", e.message, "error", worker_id=request.worker_id, code=e.code)
            raise

    async def _spawn(self, ctx: JobContext, request: ops.WorkerSpawn) -> ops.WorkerSpawnResponse:
        worker = self._running_as_asked(request)
        started = worker is None
        if worker is None:
            order = await self._order(request)
            # Another job may have been quicker meanwhile; from here to `begin` nobody can.
            worker = self._running_as_asked(request)
            started = worker is None
            worker = worker or self._supervisor.begin(order)
        try:
            await self._until_settled(ctx, worker)
        except asyncio.CancelledError:
            # A cancelled job leaves nothing behind; a hive that ends leaves the worker to the next one.
            if started and not self._supervisor.closing:
                await asyncio.shield(self._supervisor.end(worker, lambda step: None))
            raise
        if worker.stopping:
            raise RbeeError(f"Worker {worker.id} was stopped while it started.", code="worker_stopped")
        if worker.state.status == "failed":
            reason = worker.state.reason or "It does not say why."
            if not worker.state.pid:
                await self._supervisor.end(worker, lambda step: None)
            raise RbeeError(f"Worker {worker.id} failed: {reason}", code="worker_failed")
        await asyncio.to_thread(self._models.touch, worker.config.model, system.now())
        ctx.narrate(
            "worker_spawn_complete",
            f"Worker {worker.id} is ready (pid {worker.state.pid}, port {worker.state.port}).",
            worker_id=worker.id,
            pid=worker.state.pid,
            port=worker.state.port,
            url=worker.config.url,
        )
        return ops.WorkerSpawnResponse(
            worker_id=worker.id,
            port=worker.state.port,
            pid=worker.state.pid,
            status=worker.state.status,
            url=worker.config.url,
        )

    def _running_as_asked(self, request: ops.WorkerSpawn) -> Managed | None:
        """Raises Conflict when a worker of that id runs, but is another."""
        worker = self._supervisor.find(request.worker_id) if request.worker_id else None
        if worker is None or not worker.holds:
            return None
        wanted = request.mark.spec_digest if request.mark else ""
        if worker.stopping or not wanted or wanted != worker.spec_digest:
            raise Conflict(
                f"Worker {worker.id!r} runs already (pid {worker.state.pid}) with other settings.",
                code="worker_exists",
                mend="Stop it first, or give the new one another id.",
            )
        return worker

    async def _order(self, request: ops.WorkerSpawn) -> Order:
        """All that can be refused is refused here, before anything is started."""
        records = await asyncio.to_thread(self._models.list)
        model = admission.model_ready(request.model, records)
        detected = await self._devices.detect()
        device = admission.choose_device(request, detected.devices)
        info = await asyncio.to_thread(system.info, Path(model.path))
        entries = await asyncio.to_thread(self._binaries.entries)
        engine = admission.choose_engine(request, model, entries, info.cpu_flags, info.arch)
        header = await asyncio.to_thread(_header, model)
        needs = admission.needs_of(request, model, header)
        sizes = await self._supervisor.sizes()
        # Nothing is awaited from here to the start, so that two at once are not granted the same memory.
        available = info.memory_available - self._supervisor.spoken_for(device.id, sizes)
        admission.check_memory(model, needs, device, max(0, available))
        assert engine.provider is not None
        queen_url, queen_trusted = self._queen_of(request)
        config = WorkerConfig(
            worker_id=request.worker_id or "",
            hive_id=self._config.hive_id,
            fleet=self._config.fleet,
            model=model.id,
            model_path=model.path,
            provider=engine.provider,
            engine_python=engine.artifact.python,
            worker_type=request.worker,
            device=device.id,
            listen="",
            url="",
            queen_url=queen_url,
            queen_trusted=queen_trusted,
            token_file=str(self._token_file) if self._token_file else None,
            options=request.options,
            heartbeat_interval=self._config.heartbeat_interval,
        )
        return Order(config=config, needs=needs, port=request.port, mark=request.mark)

    def _queen_of(self, request: ops.WorkerSpawn) -> tuple[str | None, bool]:
        """Where the worker sends its heartbeats, and whether that address may be shown the fleet's token: on an open
        listener any user of this machine may have named it."""
        known, found = self._config.queen_url, self._heartbeat
        url = request.queen_url or known or found.queen_url
        guarded = not is_loopback(split_address(self._config.listen)[0])
        return url, guarded or url == known or (url == found.queen_url and found.trusted)

    async def _until_settled(self, ctx: JobContext, worker: Managed) -> None:
        began = asyncio.get_running_loop().time()
        while True:
            ctx.narrate(
                "worker_spawn_health_check",
                f"Waiting for worker {worker.id} to be ready.",
                worker_id=worker.id,
                pid=worker.state.pid,
                seconds=round(asyncio.get_running_loop().time() - began, 1),
                progress=worker.progress,
            )
            try:
                await asyncio.wait_for(worker.settled.wait(), TELL_EVERY)
            except asyncio.TimeoutError:
                continue
            return

    async def list(self, ctx: JobContext, request: ops.WorkerProcessList) -> ops.WorkerProcessListResponse:
        ctx.narrate("worker_proc_list_start", "Listing the workers of this hive.")
        found = await self._supervisor.records()
        for w in found:
            ctx.narrate(
                "worker_proc_list_entry",
                f"{w.worker_id}: {w.model} on {w.device}, pid {w.pid}, port {w.port}, {w.status}",
                worker_id=w.worker_id,
                pid=w.pid,
                port=w.port,
                status=w.status,
            )
        if not found:
            ctx.narrate("worker_proc_list_empty", "No workers.")
        ctx.narrate(
            "worker_proc_list_result", f"{len(found)} worker{'' if len(found) == 1 else 's'}.", count=len(found)
        )
        return ops.WorkerProcessListResponse(workers=found)

    async def get(self, ctx: JobContext, request: ops.WorkerProcessGet) -> ops.WorkerProcessGetResponse:
        worker = self._supervisor.by_pid(request.pid)
        await self._supervisor.measure()
        return ops.WorkerProcessGetResponse(worker=worker.record())

    async def delete(self, ctx: JobContext, request: ops.WorkerProcessDelete) -> ops.WorkerProcessDeleteResponse:
        """Only a process that this hive started: told by pid and start time, never by a pid alone."""
        worker = self._supervisor.by_pid(request.pid)
        ctx.narrate("worker_proc_del_start", f"Stopping worker {worker.id}.", worker_id=worker.id, pid=request.pid)

        def told(step: process.Step) -> None:
            text = "Asked it to end; it may finish its requests." if step == "sigterm" else "It did not go: killed."
            ctx.narrate(f"worker_proc_del_{step}", text, worker_id=worker.id, pid=request.pid)

        await asyncio.shield(self._supervisor.end(worker, told))
        ctx.narrate("worker_proc_del_ok", f"Worker {worker.id} is gone.", worker_id=worker.id, pid=request.pid)
        return ops.WorkerProcessDeleteResponse(message=f"Worker {worker.id} is gone.", pid=request.pid)


def _header(model: ModelRecord) -> gguf.GgufHeader | None:
    """The header of a GGUF, which must be whole. Raises RbeeError `invalid_model`."""
    return gguf.check_whole(Path(model.path)) if model.format == "gguf" else None
