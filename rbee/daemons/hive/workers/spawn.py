# SPDX-License-Identifier: GPL-3.0-or-later
"""One worker from its request until it is ready: everything that can be refused is refused before it is started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rbee.adapters import system
from rbee.adapters.catalog import ModelCatalog
from rbee.contracts.narration import Level
from rbee.contracts.operations.workers import WorkerSpawn, WorkerSpawnResponse
from rbee.core.errors import Conflict, RbeeError
from rbee.core.lifecycle import duration
from rbee.daemons.hive.workers import admission, remembered, sizing
from rbee.daemons.hive.workers.managed import Managed
from rbee.daemons.hive.workers.remembered import Remembered
from rbee.daemons.hive.workers.spawn_plan import Plan, Planner, case_of, files_of
from rbee.daemons.hive.workers.supervisor import Order, Supervisor
from rbee.daemons.hive.workers.waking import as_before

log = logging.getLogger(__name__)

#: Between two `worker_spawn_health_check` events.
TELL_EVERY = 2.0


class Teller(Protocol):
    """A job's context, or the part of it that one of several workers has."""

    def narrate(self, name: str, message: str, level: Level = "info", **fields: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Begun:
    """`started` by this very request; else it ran already as asked for."""

    worker: Managed
    started: bool


class Spawner:
    """Makes workers of requests. Lives on the hive's loop."""

    def __init__(self, planner: Planner, supervisor: Supervisor, models: ModelCatalog, memory: Remembered) -> None:
        self._planner = planner
        self._supervisor = supervisor
        self._models = models
        self._memory = memory
        #: Bytes that do not look available and that a worker of a model needs no memory for.
        self.locked: Callable[[str], int] = lambda model: 0

    async def begin(self, tell: Teller, request: WorkerSpawn) -> Begun:
        """Check the request and start its worker. Raises RbeeError, which was told; then nothing was started."""
        request = as_before(request, self._supervisor.find(request.worker_id or ""))
        device = admission.device_id(request)
        tell.narrate(
            "worker_spawn_start",
            f"Starting a worker for {request.model} on {device}.",
            model=request.model,
            device=device,
            worker_id=request.worker_id,
        )
        try:
            return await self._begin(tell, request)
        except RbeeError as e:
            tell.narrate("worker_spawn_error", e.message, "error", worker_id=request.worker_id, code=e.code)
            raise

    async def finish(self, tell: Teller, begun: Begun) -> WorkerSpawnResponse:
        """Wait until the worker is ready. Raises RbeeError, which was told. Cancelled, it ends what was started."""
        worker = begun.worker
        try:
            await self.until_settled(tell, worker)
            await self._check_settled(worker)
            await asyncio.to_thread(self._models.touch, worker.config.model, system.now())
            if begun.started:
                await self._measured(tell, worker)
        except asyncio.CancelledError:
            if begun.started:
                await self.undo(worker)
            raise
        except RbeeError as e:
            tell.narrate("worker_spawn_error", e.message, "error", worker_id=worker.id, code=e.code)
            raise
        state = worker.state
        tell.narrate(
            "worker_spawn_complete",
            f"Worker {worker.id} is ready (pid {state.pid}, port {state.port}).",
            worker_id=worker.id,
            pid=state.pid,
            port=state.port,
            url=worker.config.url,
        )
        return WorkerSpawnResponse(
            worker_id=worker.id, port=state.port, pid=state.pid, status=state.status, url=worker.config.url
        )

    async def undo(self, worker: Managed) -> None:
        """A cancelled job leaves nothing behind; a hive that ends leaves the worker to the next one."""
        if not self._supervisor.closing and self._supervisor.find(worker.id) is worker:
            await asyncio.shield(self._supervisor.end(worker, lambda step: None))

    async def remember(self, worker: Managed) -> int | None:
        """Measure what a worker holds, for those after it. Bytes; None when it is not known well enough.

        Never raises: to measure is no reason to fail.
        """
        try:
            return await self._remember(worker)
        except Exception:
            log.exception("what worker %s holds cannot be measured", worker.id)
            return None

    async def _remember(self, worker: Managed) -> int | None:
        if not worker.state.was_ready or not worker.runs:
            return None
        await self._supervisor.measure()
        tree = worker.measured.tree
        model = await asyncio.to_thread(self._models.get, worker.config.model)
        if tree is None or model is None:
            return None
        if worker.config.worker_type == "cpu":
            resident, files = tree.memory.resident, files_of(model)
            held = await asyncio.to_thread(remembered.held, tree.pids, resident, files, model.size_bytes)
            found = None if held is None else max(held, worker.peak)
        else:
            found = (worker.measured.vram_mb or 0) * 2**20 or None
        if found is not None:
            case = case_of(model, worker.config, worker.state.slots, worker.state.context_length)
            await asyncio.to_thread(self._memory.note, case, found)
        return found

    async def _begin(self, tell: Teller, request: WorkerSpawn) -> Begun:
        if request.worker_id is not None:
            admission.check_worker_id(request.worker_id, [w.id for w in self._supervisor.all()])
        if (worker := self._running_as_asked(request)) is not None and worker.pausing:
            # It is being unloaded, or ended to be started anew.
            await worker.settled.wait()
            worker = self._running_as_asked(request)
        if worker is not None:
            return await self._as_it_is(tell, worker, request)
        plan = await self._planner.plan(request)
        for note in sizing.notes_of(request, plan.needs):
            tell.narrate("worker_spawn_note", note, "warning", model=plan.model.id, worker_id=request.worker_id)
        sizes = await self._supervisor.sizes()
        # Nothing is awaited from here to the start, so that two at once are granted neither the same memory nor the
        # same id; another job may have been quicker until now.
        if (worker := self._running_as_asked(request)) is not None:
            return await self._as_it_is(tell, worker, request)
        there = plan.memory + self.locked(plan.model.id)
        free = there - self._supervisor.spoken_for(plan.device.id, sizes)
        self._check_memory(tell, request, plan, free)
        try:
            order = Order(config=plan.config, needs=plan.needs, port=request.port, mark=request.mark)
            return Begun(self._supervisor.begin(order), True)
        except Conflict as e:
            raise self._taken(request.port) if e.code == "port_taken" else e from None

    async def _as_it_is(self, tell: Teller, worker: Managed, request: WorkerSpawn) -> Begun:
        """One that runs as asked for takes what asks for no new process: how long it may be idle."""
        wanted = request.idle_timeout or None
        if wanted != worker.config.idle_timeout:
            how = f"after {duration(wanted)} without a request" if wanted else "never"
            tell.narrate("worker_spawn_note", f"It will be unloaded {how}.", worker_id=worker.id)
            await self._supervisor.configure(worker, wanted)
        return Begun(worker, False)

    def _check_memory(self, tell: Teller, request: WorkerSpawn, plan: Plan, free: int) -> None:
        """Tell what is needed and what is there. Raises Insufficient."""
        users = (self._supervisor.find(name) for name in self._supervisor.on_device(plan.device.id))
        starting = sum(w.state.predicted for w in users if w is not None and w.state.status == "starting")
        needs, available = plan.needs, sizing.available_on(plan.device, free, starting)
        there = "nobody knows how much is" if available is None else f"{available / 1e6:,.0f} MB are"
        how = "as measured before" if needs.basis == "measured" else "by formula"
        tell.narrate(
            "worker_spawn_memory",
            f"It will need about {needs.memory / 1e6:,.0f} MB on {plan.device.id} ({how}); {there} available.",
            worker_id=request.worker_id,
            model=plan.model.id,
            device=plan.device.id,
            predicted_mb=round(needs.memory / 1e6, 1),
            available_mb=None if available is None else round(available / 1e6, 1),
            basis=needs.basis,
        )
        sizing.check_memory(plan.model, needs, plan.device, available)

    def _taken(self, port: int | None) -> Conflict:
        """Who has the port that was asked for."""
        held = [w for w in self._supervisor.all() if w.state.port == port and w.holds]
        who = f"worker {held[0].id!r}" if held else "another program"
        return Conflict(
            f"Port {port} is taken by {who}.", code="port_taken", mend="Leave it out, or give another.", param="port"
        )

    def _running_as_asked(self, request: WorkerSpawn) -> Managed | None:
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

    async def until_settled(self, tell: Teller, worker: Managed, event: str = "worker_spawn_health_check") -> None:
        """Tells every moment that it is waited for."""
        began = asyncio.get_running_loop().time()
        while True:
            tell.narrate(
                event,
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

    async def _check_settled(self, worker: Managed) -> None:
        """Raises RbeeError when it is settled and not ready."""
        if worker.stopping:
            raise RbeeError(f"Worker {worker.id} was stopped while it started.", code="worker_stopped")
        if worker.state.status == "failed":
            reason = worker.state.reason or "It does not say why."
            if not worker.state.pid:
                await self._supervisor.end(worker, lambda step: None)
            raise RbeeError(f"Worker {worker.id} failed: {reason}", code="worker_failed")

    async def _measured(self, tell: Teller, worker: Managed) -> None:
        found = await self.remember(worker)
        if found is not None:
            tell.narrate(
                "worker_spawn_measured",
                f"Worker {worker.id} takes {found / 1e6:,.0f} MB.",
                "debug",
                worker_id=worker.id,
                measured_mb=round(found / 1e6, 1),
                predicted_mb=round(worker.state.predicted / 1e6, 1),
            )
