# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on worker processes: WorkerSpawn, WorkerSpawnBatch, WorkerProcessList, WorkerProcessGet,
WorkerProcessDelete, WorkerUnload, WorkerRestart, WorkerLogs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Final

from rbee.adapters import process
from rbee.contracts.narration import Level
from rbee.contracts.operations import workers as ops
from rbee.core.errors import InvalidRequest, NotFound, RbeeError
from rbee.core.logs_window import Line, since_of
from rbee.core.problems import did_you_mean
from rbee.core.records import WorkerRecord
from rbee.daemons.hive.workers.asked_for import AskedFor
from rbee.daemons.hive.workers.managed import Managed
from rbee.daemons.hive.workers.spawn import Spawner
from rbee.daemons.hive.workers.spawn_batch import spawn_batch
from rbee.daemons.hive.workers.supervisor import Supervisor
from rbee.daemons.hive.workers.worker_logs import LogReader, pause
from rbee.daemons.jobs import Handler, JobContext

#: Lines that are told before others may do something.
_AT_ONCE: Final = 100
_LEVELS: Final[dict[str, Level]] = {"debug": "debug", "info": "info", "warning": "warning"}


class WorkerOps:
    """The supervisor, made into jobs."""

    def __init__(self, hive_id: str, supervisor: Supervisor, spawner: Spawner) -> None:
        self._hive_id = hive_id
        self._supervisor = supervisor
        self._spawner = spawner
        self._asked_for = AskedFor(supervisor, spawner)

    def handlers(self) -> dict[str, Handler]:
        return {
            "WorkerSpawn": self.spawn,
            "WorkerSpawnBatch": self.spawn_batch,
            "WorkerProcessList": self.list,
            "WorkerProcessGet": self.get,
            "WorkerProcessDelete": self.delete,
            "WorkerUnload": self.unload,
            "WorkerRestart": self.restart,
            "WorkerLogs": self.logs,
        }

    async def spawn(self, ctx: JobContext, request: ops.WorkerSpawn) -> ops.WorkerSpawnResponse:
        """Start a worker and wait until it is ready. One that runs already as asked for is returned as it is."""
        return await self._spawner.finish(ctx, await self._spawner.begin(ctx, request))

    async def spawn_batch(self, ctx: JobContext, request: ops.WorkerSpawnBatch) -> ops.WorkerSpawnBatchResponse:
        return await spawn_batch(self._spawner, self._hive_id, ctx, request)

    async def list(self, ctx: JobContext, request: ops.WorkerProcessList) -> ops.WorkerProcessListResponse:
        ctx.narrate("worker_proc_list_start", "Listing the workers of this hive.")
        found = await self._supervisor.records()
        for w in found:
            _tell(ctx, "worker_proc_list_entry", w)
        if not found:
            ctx.narrate("worker_proc_list_empty", "No workers.")
        ctx.narrate(
            "worker_proc_list_result", f"{len(found)} worker{'' if len(found) == 1 else 's'}.", count=len(found)
        )
        return ops.WorkerProcessListResponse(workers=found)

    async def get(self, ctx: JobContext, request: ops.WorkerProcessGet) -> ops.WorkerProcessGetResponse:
        worker = self._meant(request)
        await self._supervisor.measure()
        found = worker.record()
        _tell(ctx, "worker_proc_get_result", found)
        return ops.WorkerProcessGetResponse(worker=found)

    async def delete(self, ctx: JobContext, request: ops.WorkerProcessDelete) -> ops.WorkerProcessDeleteResponse:
        """Only a process that this hive started: told by pid and start time, never by a pid alone. One that has no
        process is forgotten."""
        worker = self._meant(request)
        pid = worker.state.pid
        ctx.narrate("worker_proc_del_start", f"Stopping worker {worker.id}.", worker_id=worker.id, pid=pid)

        def told(step: process.Step) -> None:
            text = "Asked it to end; it may finish its requests." if step == "sigterm" else "It did not go: killed."
            ctx.narrate(f"worker_proc_del_{step}", text, worker_id=worker.id, pid=pid)

        # Its largest size so far is what the next one of its kind is expected to take.
        await self._spawner.remember(worker)
        await asyncio.shield(self._supervisor.end(worker, told))
        ctx.narrate("worker_proc_del_ok", f"Worker {worker.id} is gone.", worker_id=worker.id, pid=pid)
        return ops.WorkerProcessDeleteResponse(message=f"Worker {worker.id} is gone.", pid=pid)

    async def unload(self, ctx: JobContext, request: ops.WorkerUnload) -> ops.WorkerUnloadResponse:
        worker = self._named(request.worker_id)
        # Its largest size so far is what the next one of its kind is expected to take.
        await self._spawner.remember(worker)
        return await self._asked_for.unload(ctx, worker, if_idle=request.if_idle, reason=request.reason)

    async def restart(self, ctx: JobContext, request: ops.WorkerRestart) -> ops.WorkerRestartResponse:
        worker = self._named(request.worker_id)
        return await self._asked_for.restart(ctx, worker, drain=request.drain, reason=request.reason)

    def _meant(self, request: ops.WorkerProcessGet | ops.WorkerProcessDelete) -> Managed:
        """The worker of that pid, which must have that id where both are said."""
        if request.pid is None:
            if request.worker_id is None:
                raise InvalidRequest("It says no `pid` and no `worker_id`.", mend="Say which worker is meant.")
            return self._named(request.worker_id)
        worker = self._supervisor.by_pid(request.pid)
        if request.worker_id not in (None, worker.id):
            raise NotFound(
                f"Worker {request.worker_id!r} does not have pid {request.pid}: {worker.id!r} has.",
                code="worker_not_found",
            )
        return worker

    def _named(self, worker_id: str) -> Managed:
        worker = self._supervisor.find(worker_id)
        if worker is None:
            known = sorted(w.id for w in self._supervisor.all())
            raise NotFound(
                f"There is no worker {worker_id[:120]!r} on this hive.",
                code="worker_not_found",
                mend=did_you_mean(worker_id[:120], known) or "It has none.",
            )
        return worker

    async def logs(self, ctx: JobContext, request: ops.WorkerLogs) -> ops.WorkerLogsResponse:
        """Of a failed or dead worker too; with `follow` until the worker is removed or the job is cancelled."""
        worker = self._named(request.worker_id)
        since = since_of(request.since, datetime.now(timezone.utc))
        reader = LogReader(worker.folder.log)
        try:
            last = await asyncio.to_thread(reader.tail, request.tail, since, whole=request.follow)
            count = await _tell_lines(ctx, worker.id, last)
            if request.follow:
                count += await self._follow(ctx, worker, reader)
        except OSError as e:
            raise RbeeError(f"The log of worker {worker.id} cannot be read: {e}.", code="log_unreadable") from None
        finally:
            await asyncio.shield(asyncio.to_thread(reader.close))
        return ops.WorkerLogsResponse(worker_id=worker.id, lines=count)

    async def _follow(self, ctx: JobContext, worker: Managed, reader: LogReader) -> int:
        count = 0
        while True:
            # Looked at before reading, so that the last words of one that goes are still read.
            gone = self._supervisor.find(worker.id) is not worker
            found = await asyncio.to_thread(reader.more)
            if found.skipped:
                many = f"{found.skipped:,} bytes" if found.skipped > 0 else "Some lines"
                text = f"{many} were left out: the worker writes faster than this reads."
                ctx.narrate("worker_logs_skipped", text, "warning", worker_id=worker.id, bytes=max(0, found.skipped))
            count += await _tell_lines(ctx, worker.id, found.lines)
            if gone and not found.behind:
                break
            await pause(found)
        count += await _tell_lines(ctx, worker.id, reader.last())
        ctx.narrate("worker_logs_end", f"Worker {worker.id} is gone.", worker_id=worker.id)
        return count


def _tell(ctx: JobContext, name: str, w: WorkerRecord) -> None:
    text = f"{w.worker_id}: {w.model} on {w.device}, pid {w.pid}, port {w.port}, {w.status}"
    ctx.narrate(name, text, worker_id=w.worker_id, pid=w.pid, port=w.port, status=w.status)


async def _tell_lines(ctx: JobContext, worker_id: str, lines: Iterable[Line]) -> int:
    """How many they are. `line` is as it was written; the message is what it says."""
    count = 0
    for count, line in enumerate(lines, 1):
        level = _LEVELS.get(line.level or "info", "error")
        more = {"more": True} if line.more else {}
        ctx.narrate("worker_logs_line", line.said, level, worker_id=worker_id, line=line.text, time=line.time, **more)
        if count % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return count
