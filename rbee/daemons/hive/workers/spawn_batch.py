# SPDX-License-Identifier: GPL-3.0-or-later
"""Several workers in one job: admitted one after the other, started at once, each with an outcome of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from rbee.contracts.narration import Level
from rbee.contracts.operations.workers import (
    WorkerSpawn,
    WorkerSpawnBatch,
    WorkerSpawnBatchResponse,
    WorkerSpawned,
    WorkerSpawnResponse,
)
from rbee.core.errors import InvalidRequest, RbeeError
from rbee.daemons.hive.workers.spawn import Begun, Spawner
from rbee.daemons.jobs import JobContext

log = logging.getLogger(__name__)


class _Child:
    """Tells for one of them: every event has its `index`, counted from 0, and its `worker_id` as soon as it has one."""

    def __init__(self, ctx: JobContext, index: int) -> None:
        self._ctx = ctx
        self._index = index

    def narrate(self, name: str, message: str, level: Level = "info", **fields: Any) -> None:
        self._ctx.narrate(name, message, level, index=self._index, **fields)


async def spawn_batch(
    spawner: Spawner, hive_id: str, ctx: JobContext, request: WorkerSpawnBatch
) -> WorkerSpawnBatchResponse:
    """Memory, cores and ports are granted in the order asked for; loading goes on side by side.

    Cancelled, it ends every worker that it has started, ready ones too; those that ran before stay.
    """
    count = len(request.workers)
    ctx.narrate("worker_spawn_batch_start", f"Starting {count} workers.", count=count)
    begun: list[Begun] = []
    ends: list[asyncio.Task[WorkerSpawned]] = []
    try:
        for index, one in enumerate(request.workers):
            child = _Child(ctx, index)
            try:
                if one.hive_id not in ("", hive_id):
                    raise InvalidRequest(f"This is hive {hive_id!r}, not {one.hive_id!r}.")
                begun.append(await spawner.begin(child, one))
            except Exception as e:  # one that cannot be started does not keep the others
                ends.append(asyncio.create_task(_failed(one, e)))
            else:
                ends.append(asyncio.create_task(_finish(spawner, child, one, begun[-1])))
        done = tuple(await asyncio.gather(*ends))
    except asyncio.CancelledError:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        await asyncio.gather(*(spawner.undo(b.worker) for b in begun if b.started))
        raise
    started = sum(one.ok for one in done)
    ctx.narrate(
        "worker_spawn_batch_result",
        f"{started} of {count} workers are ready.",
        "info" if started == count else "warning",
        started=started,
        failed=count - started,
    )
    return WorkerSpawnBatchResponse(workers=done, started=started, failed=count - started)


async def _finish(spawner: Spawner, child: _Child, one: WorkerSpawn, begun: Begun) -> WorkerSpawned:
    try:
        found: WorkerSpawnResponse = await spawner.finish(child, begun)
    except Exception as e:
        return await _failed(one, e, begun.worker.id)
    return WorkerSpawned(
        model=one.model, worker_id=found.worker_id, ok=True, port=found.port, pid=found.pid, url=found.url
    )


async def _failed(one: WorkerSpawn, error: Exception, worker_id: str = "") -> WorkerSpawned:
    code = "internal"
    if isinstance(error, RbeeError):
        code = error.code
    else:
        log.error("a worker of a batch", exc_info=error)
    return WorkerSpawned(
        model=one.model, worker_id=worker_id or one.worker_id or "", ok=False, error=str(error), code=code
    )
