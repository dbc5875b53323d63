# SPDX-License-Identifier: GPL-3.0-or-later
"""A hive of little memory: starts and unloads mock workers as a real one does, and tells the queen of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from rbee.contracts import codec
from rbee.contracts.configs import KnownWorker
from rbee.contracts.heartbeat import CapabilityChanges, HiveHeartbeat, MonitorData, WorkerChange
from rbee.contracts.operations.workers import (
    WorkerSpawn,
    WorkerSpawnResponse,
    WorkerUnload,
    WorkerUnloadResponse,
)
from rbee.core.errors import Conflict, Insufficient, NotFound, RbeeError
from rbee.core.records import Mark, WorkerRecord
from rbee.core.spec import WorkerOptions
from rbee.daemons.jobs import Handler, JobContext
from tests.support.mock_engine import MockEngine, Script
from tests.support.ports import free_port
from tests.support.queen import FakeHive, beat, record

MARK = Mark(fleet="test", spec_digest="d1")


def known(worker_id: str, model: str, **changes: Any) -> KnownWorker:
    """A worker that plan has placed on the hive."""
    said: dict[str, Any] = {
        "worker_id": worker_id,
        "spec_name": worker_id.rpartition("-")[0] or worker_id,
        "model": model,
        "hive_id": "h1",
        "worker_type": "cpu",
        "engine": "mock",
        "options": WorkerOptions(parallel=2),
        "mark": MARK,
        "on_demand": True,
    }
    return KnownWorker(**{**said, **changes})


@dataclass
class SmallHive:
    """`sizes`: MB by model. `gate` is waited for before a started worker is ready; `breaks`: why a worker fails."""

    memory_mb: float = 1000.0
    sizes: dict[str, float] = field(default_factory=dict)
    breaks: dict[str, str] = field(default_factory=dict)
    hive_id: str = "h1"
    #: WorkerSpawn and WorkerUnload as they came.
    asked: list[WorkerSpawn | WorkerUnload] = field(default_factory=list)
    started: Counter[str] = field(default_factory=Counter)
    engines: dict[str, MockEngine] = field(default_factory=dict)
    #: Ids of workers that say they serve somebody when they are to be unloaded.
    busy: set[str] = field(default_factory=set)
    #: What engines do with requests that say nothing of it.
    script: Script | None = None
    #: Workers that load, and how many did at once at most.
    loading: set[str] = field(default_factory=set)
    most_loading: int = 0

    def __post_init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        handlers: dict[str, Handler] = {"WorkerSpawn": self._spawn, "WorkerUnload": self._unload}
        self.fake = FakeHive(hive_id=self.hive_id, handlers=handlers)
        self.records: dict[str, WorkerRecord] = {}
        self._starts = itertools.count(1)

    @contextlib.asynccontextmanager
    async def run(self, root: Path) -> AsyncIterator[SmallHive]:
        async with self.fake.run(root), aiohttp.ClientSession() as self._http:
            try:
                yield self
            finally:
                for engine in self.engines.values():
                    await engine.stop()

    def _tell_records(self) -> None:
        self.fake.records[:] = self.records.values()

    @property
    def spawned(self) -> list[str]:
        return [a.worker_id or "" for a in self.asked if isinstance(a, WorkerSpawn)]

    @property
    def unloaded(self) -> list[str]:
        return [a.worker_id for a in self.asked if isinstance(a, WorkerUnload)]

    async def _spawn(self, context: JobContext, request: WorkerSpawn) -> WorkerSpawnResponse:
        self.asked.append(request)
        worker_id = request.worker_id or f"made-up-{next(self._starts)}"
        there = self.records.get(worker_id)
        if there is not None and there.status != "unloaded":
            if not request.mark or request.mark != there.mark:
                raise Conflict(f"Worker {worker_id!r} runs already.", code="worker_exists")
        else:
            self._admit(context, request)
            await self._start(worker_id, request)
        context.narrate("worker_spawn_health_check", "Waiting.", worker_id=worker_id, progress=0.5)
        while worker_id in self.loading:
            await asyncio.sleep(0.01)
        if worker_id in self.breaks:
            raise RbeeError(f"Worker {worker_id} failed: {self.breaks[worker_id]}", code="worker_failed")
        at = self.records[worker_id]
        return WorkerSpawnResponse(worker_id=worker_id, port=at.port, pid=at.pid, status=at.status, url=at.url)

    def _admit(self, context: JobContext, request: WorkerSpawn) -> None:
        needs = self.sizes.get(request.model, 100.0)
        free = self.memory_mb - sum(r.memory_mb or 0 for r in self.records.values() if r.status != "unloaded")
        context.narrate("worker_spawn_memory", "Memory.", predicted_mb=needs, available_mb=free)
        if needs > free:
            text = (
                f"Not enough memory for {request.model!r}: it needs about {needs:.0f} MB, and {free:.0f} MB are there."
            )
            raise Insufficient(text, code="insufficient_memory")

    async def _start(self, worker_id: str, request: WorkerSpawn) -> None:
        self.loading.add(worker_id)
        number, port = next(self._starts), free_port()
        self.records[worker_id] = record(
            worker_id,
            port,
            model=request.model,
            pid=number,
            status="starting",
            slots=request.options.parallel or 2,
            memory_mb=self.sizes.get(request.model, 100.0),
            started_at=f"2026-01-01T00:00:{number:02d}Z",
            mark=request.mark,
            idle_timeout=request.idle_timeout,
        )
        self._tell_records()
        self.most_loading = max(self.most_loading, len(self.loading))
        await self.says(worker_id, "starting", progress=0.25)
        self._task = asyncio.ensure_future(self._get_ready(worker_id))

    async def _get_ready(self, worker_id: str) -> None:
        await self.gate.wait()
        if worker_id in self.breaks:
            del self.records[worker_id]
            self._tell_records()
            await self.hive_says("failed", worker_id, reason=self.breaks[worker_id])
        else:
            self.started[worker_id] += 1
            self.engines[worker_id] = engine = MockEngine(self.script, port=self.records[worker_id].port)
            await engine.start()
            self.records[worker_id] = replace(self.records[worker_id], status="ready")
            self._tell_records()
            await self.says(worker_id, "ready")
            await self.hive_says("added", worker_id)
        self.loading.discard(worker_id)

    async def _unload(self, context: JobContext, request: WorkerUnload) -> WorkerUnloadResponse:
        self.asked.append(request)
        at = self.records.get(request.worker_id)
        if at is None:
            raise NotFound("There is no such worker.", code="worker_not_found")
        if request.worker_id in self.busy:
            raise Conflict("It serves 1 request.", code="worker_busy")
        await self.engines.pop(request.worker_id).stop()
        self.records[request.worker_id] = replace(at, status="unloaded", pid=0, memory_mb=None)
        self._tell_records()
        await self.hive_says("removed", request.worker_id)
        return WorkerUnloadResponse(worker_id=request.worker_id, message="Unloaded.")

    async def idle(self, worker_id: str) -> None:
        """Its hive unloads it because nobody asked it."""
        await self._unload(None, WorkerUnload(worker_id=worker_id))  # type: ignore[arg-type]
        del self.asked[-1]

    async def says(self, worker_id: str, status: str, **changes: Any) -> None:
        """A worker's heartbeat."""
        at = self.records[worker_id]
        said = beat(
            worker_id,
            at.port,
            hive_id=self.hive_id,
            model=at.model,
            status=status,
            slots=at.slots,
            started_at=at.started_at,
            **changes,
        )
        await self._post("worker-heartbeat", said)

    async def hive_says(self, action: Any, worker_id: str, reason: str | None = None) -> None:
        """The hive's heartbeat, with one change."""
        change = WorkerChange(action=action, worker_id=worker_id, reason=reason)
        monitor = MonitorData(cpu_usage_percent=1.0, ram_used_gb=1.0, ram_total_gb=2.0, uptime_seconds=1)
        said = HiveHeartbeat(
            hive_id=self.hive_id,
            timestamp="2026-01-01T00:00:00Z",
            monitor_data=monitor,
            capability_changes=CapabilityChanges(workers=(change,)),
        )
        await self._post("hive-heartbeat", said)

    async def _post(self, path: str, said: Any) -> None:
        """To the queen that discovered it; one that is away misses it."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with self._http.post(f"{self.fake.asked[-1]}/v1/{path}", data=codec.encode(said)) as answer:
                await answer.read()
