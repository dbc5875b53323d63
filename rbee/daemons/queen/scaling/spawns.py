# SPDX-License-Identifier: GPL-3.0-or-later
"""Spawns that go through this queen, whoever asked for them: how far each is, and what its hive found lacking."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from typing import Any

from rbee.contracts.operations.workers import WorkerSpawn
from rbee.daemons.jobs import Handler, JobContext


class Spawn:
    """One that is under way. `admitted` is set once its hive has granted it memory, threads and a port."""

    __slots__ = ("admitted", "available_mb", "began", "hive_id", "model", "predicted_mb", "progress", "worker_id")

    def __init__(self, request: WorkerSpawn, began: float) -> None:
        self.worker_id = request.worker_id or ""
        self.model = request.model
        self.hive_id = request.hive_id
        self.began = began
        self.progress: float | None = None
        self.predicted_mb: float | None = None
        self.available_mb: float | None = None
        self.admitted = asyncio.Event()

    def heard(self, event: dict[str, Any]) -> None:
        """One event of its job, as its hive told it."""
        name = event.get("event")
        if name == "worker_spawn_memory":
            self.predicted_mb = _number(event.get("predicted_mb"))
            self.available_mb = _number(event.get("available_mb"))
        elif name == "worker_spawn_health_check":
            self.progress = _number(event.get("progress"))
            self.admitted.set()

    @property
    def lacking_mb(self) -> float | None:
        """Memory that it needs and that is not there; None when its hive did not say."""
        if self.predicted_mb is None or self.available_mb is None:
            return None
        return max(0.0, self.predicted_mb - self.available_mb)


class Spawns:
    """All that are under way. Lives on the queen's loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._all: dict[str, list[Spawn]] = {}

    def watched(self, handler: Handler) -> Handler:
        """The handler of WorkerSpawn, listened to."""

        @functools.wraps(handler)
        async def run(context: JobContext, request: WorkerSpawn) -> Any:
            spawn = self.of_worker(request.worker_id or "")
            if spawn is not None:  # of the starter, which opened and closes it
                return await handler(context.tapped(spawn.heard), request)
            spawn = self.open(request)
            try:
                return await handler(context.tapped(spawn.heard), request)
            finally:
                self.close(spawn)

        return run

    def open(self, request: WorkerSpawn) -> Spawn:
        spawn = Spawn(request, self._clock())
        self._all.setdefault(spawn.model, []).append(spawn)
        return spawn

    def close(self, spawn: Spawn) -> None:
        left = [s for s in self._all.get(spawn.model, ()) if s is not spawn]
        if left:
            self._all[spawn.model] = left
        else:
            self._all.pop(spawn.model, None)

    def of_model(self, model: str) -> Iterable[Spawn]:
        return self._all.get(model, ())

    def of_worker(self, worker_id: str) -> Spawn | None:
        """The first of that worker; there is one at most that its hive takes."""
        if not worker_id:
            return None
        return next((s for of in self._all.values() for s in of if s.worker_id == worker_id), None)


def _number(said: Any) -> float | None:
    return float(said) if isinstance(said, (int, float)) and not isinstance(said, bool) else None
