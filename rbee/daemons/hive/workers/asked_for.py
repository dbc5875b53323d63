# SPDX-License-Identifier: GPL-3.0-or-later
"""WorkerUnload and WorkerRestart: a worker's process is ended because somebody asked for it, and the worker stays."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from rbee.adapters import process
from rbee.contracts.operations import workers as ops
from rbee.core.errors import Conflict, RbeeError
from rbee.daemons.hive.workers import health
from rbee.daemons.hive.workers.asking import Ask, nobody
from rbee.daemons.hive.workers.managed import Managed
from rbee.daemons.hive.workers.spawn import Spawner
from rbee.daemons.hive.workers.supervisor import Supervisor
from rbee.daemons.hive.workers.waking import as_it_was
from rbee.daemons.jobs import JobContext

_WORDS: dict[process.Step, str] = {
    "sigterm": "Asked it to end; it may finish its requests.",
    "sigkill": "It did not go: killed, with its engine.",
}


class AskedFor:
    """The hive's two operations. Of several that ask at once one does it, and all have the same answer."""

    def __init__(self, supervisor: Supervisor, spawner: Spawner) -> None:
        self._supervisor = supervisor
        self._spawner = spawner
        #: Held while one that has no process is begun anew.
        self._beginning = asyncio.Lock()

    async def unload(self, ctx: JobContext, worker: Managed, *, if_idle: bool, reason: str) -> ops.WorkerUnloadResponse:
        """Raises Conflict: `worker_busy`, `worker_starting`, `worker_failed`, `worker_stopping`."""
        ctx.narrate("worker_unload_start", f"Unloading worker {worker.id}.", worker_id=worker.id, pid=worker.state.pid)
        try:
            did = await self._unload(ctx, worker, if_idle, reason.rstrip("."))
        except RbeeError as e:
            ctx.narrate("worker_unload_error", e.message, "error", worker_id=worker.id, code=e.code)
            raise
        said = f"Worker {worker.id} is unloaded." if did else f"Worker {worker.id} was unloaded already."
        ctx.narrate("worker_unload_complete", said, worker_id=worker.id)
        return ops.WorkerUnloadResponse(worker_id=worker.id, message=said)

    async def _unload(self, ctx: JobContext, worker: Managed, if_idle: bool, reason: str) -> bool:
        """Whether there was anything to do."""
        did = await self._calm(worker)
        self._check(worker)
        if if_idle and worker.state.status != "unloaded":
            await self._check_idle(worker)
            did = await self._calm(worker) or did  # it took a moment
            self._check(worker)
        if worker.state.status == "unloaded":
            return did
        if worker.state.status == "starting":
            raise Conflict(
                f"Worker {worker.id!r} is still starting.",
                code="worker_starting",
                mend="Unload it when it is ready, or stop it.",
            )
        if worker.task is None or worker.state.status == "failed":
            raise Conflict(
                f"Worker {worker.id!r} is {worker.state.status}: it has nothing to unload.", code="worker_failed"
            )
        # A worker that hears SIGTERM takes no request more and finishes those that it has.
        await self._put(ctx, worker, Ask(kind="unload", reason=reason or "was unloaded by request"))
        self._check(worker)
        return True

    async def restart(self, ctx: JobContext, worker: Managed, *, drain: bool, reason: str) -> ops.WorkerRestartResponse:
        """Waits until it is ready. Raises RbeeError when it never will be; cancelled, it leaves the worker as it is.

        One that failed or was unloaded is started, when it still fits."""
        why = f" {reason.rstrip('.')}." if reason else ""
        ctx.narrate(
            "worker_restart_start",
            f"Starting worker {worker.id} anew.{why}",
            worker_id=worker.id,
            pid=worker.state.pid,
            drain=drain,
            reason=reason,
        )
        try:
            told = f"It was started anew by request:{why}" if why else "It was started anew by request."
            worker = await self._restart(ctx, worker, drain, told)
            await self._spawner.until_settled(ctx, worker, "worker_restart_health_check")
            self._check_ready(worker)
        except RbeeError as e:
            ctx.narrate("worker_restart_error", e.message, "error", worker_id=worker.id, code=e.code)
            raise
        state = worker.state
        ctx.narrate(
            "worker_restart_complete",
            f"Worker {worker.id} is ready again (pid {state.pid}, port {state.port}).",
            worker_id=worker.id,
            pid=state.pid,
            port=state.port,
            restarts=state.restarts,
        )
        return ops.WorkerRestartResponse(worker_id=worker.id, pid=state.pid, status=state.status)

    async def _restart(self, ctx: JobContext, worker: Managed, drain: bool, reason: str) -> Managed:
        """The worker with its new process, which may not be ready yet."""
        while _moves(worker):
            if worker.next == "starting" or (worker.mailbox.ask and worker.mailbox.ask.kind == "restart"):
                # Somebody else, or its hive, is at it. What was asked for is what comes of that.
                ctx.narrate("worker_restart_joined", "It is being started anew already.", worker_id=worker.id)
                await self._calm(worker)
                return worker
            await self._calm(worker)
        self._check(worker)
        if worker.task is None or not worker.holds:
            return await self._begin_anew(ctx, worker, reason)
        await self._put(ctx, worker, Ask(kind="restart", reason=reason, drain=drain))
        return worker

    async def _begin_anew(self, ctx: JobContext, worker: Managed, reason: str) -> Managed:
        """One without a life takes memory, cores and a port again: that is granted as to any other."""
        async with self._beginning:
            now = self._supervisor.find(worker.id)
            if now is not None and now is not worker:
                return now
            begun = await self._spawner.begin(ctx, as_it_was(worker))
            if begun.started:
                again = worker.state.restarts + 1
                begun.worker.state = replace(begun.worker.state, restarts=again, last_end=reason)
            return begun.worker

    async def _put(self, ctx: JobContext, worker: Managed, ask: Ask) -> None:
        """Ask its life, and wait until it has done so."""
        event, pid = f"worker_{ask.kind}", worker.state.pid
        ask.on_step = lambda step: ctx.narrate(f"{event}_{step}", _WORDS[step], worker_id=worker.id, pid=pid)
        worker.mailbox.put(ask)
        try:
            await ask.done.wait()
        finally:
            ask.on_step = nobody

    async def _calm(self, worker: Managed) -> bool:
        """Wait while its process is being ended, or others' asks are being done; whether there was any."""
        waited = False
        while _moves(worker):
            waited = True
            if worker.mailbox.ask is not None:
                await worker.mailbox.ask.done.wait()
            else:
                await worker.settled.wait()
        return waited

    async def _check_idle(self, worker: Managed) -> None:
        """Asked of the worker itself, now. One that does not answer is not idle: nobody knows what it does."""
        if worker.state.status not in ("ready", "busy"):
            return
        within = self._supervisor.limits.answer_within
        said = await health.report(self._supervisor.session, worker.config.url, worker.state.pid, within)
        if isinstance(said, str):
            raise Conflict(f"Worker {worker.id!r} does not say what it does: {said}", code="worker_busy")
        if said.slots_busy:
            raise Conflict(
                f"Worker {worker.id!r} serves {said.slots_busy} request{'' if said.slots_busy == 1 else 's'}.",
                code="worker_busy",
                mend="Wait, or unload it without `if_idle`: it finishes them first.",
            )

    def _check(self, worker: Managed) -> None:
        """Raises Conflict `worker_stopping`."""
        if worker.stopping or self._supervisor.find(worker.id) is not worker:
            raise Conflict(f"Worker {worker.id!r} is being stopped for good.", code="worker_stopping")

    def _check_ready(self, worker: Managed) -> None:
        if worker.stopping:
            raise RbeeError(f"Worker {worker.id} was stopped while it started.", code="worker_stopped")
        if worker.state.status == "failed":
            why = worker.state.reason or "It does not say why."
            raise RbeeError(f"Worker {worker.id} failed: {why}", code="worker_failed")


def _moves(worker: Managed) -> bool:
    """Whether its life is ending the process, or has been asked to. One that says by itself that it stops, because a
    stranger told it so, is not meant: that may take long, and can be asked to go faster."""
    return worker.mailbox.ask is not None or (worker.pausing and not worker.settled.is_set())
