# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers that a hive has, and what can be asked about them. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from rbee.adapters.trees import Memory
from rbee.core.errors import NotFound
from rbee.core.records import WorkerRecord
from rbee.daemons.hive.workers.managed import ALIVE, Managed
from rbee.daemons.hive.workers.vitals import Vitals


class Roster:
    """Lives on one event loop."""

    def __init__(self) -> None:
        self._workers: dict[str, Managed] = {}
        self.vitals = Vitals(self._workers.values)

    def all(self) -> tuple[Managed, ...]:
        """Every worker, failed and unloaded ones too."""
        return tuple(self._workers.values())

    def find(self, worker_id: str) -> Managed | None:
        return self._workers.get(worker_id)

    def by_pid(self, pid: int) -> Managed:
        """Raises NotFound for a pid of none of these workers, whoever else may have it."""
        having = [w for w in self._workers.values() if w.state.pid == pid and pid > 0]
        if not having:
            raise NotFound(f"No worker of this hive has pid {pid}.", code="worker_not_found")
        # A failed worker's pid may have been given to a later one.
        return next((w for w in having if w.state.status in ALIVE), having[0])

    async def records(self) -> tuple[WorkerRecord, ...]:
        """Every worker, failed and unloaded ones too, by id."""
        await self.measure()
        return tuple(w.record() for _, w in sorted(self._workers.items()))

    async def measure(self) -> None:
        """See what the processes hold and use now."""
        await self.vitals.take()

    async def sizes(self) -> dict[int, Memory]:
        """Memory of each worker with its engine, by pid."""
        await self.measure()
        having = [w for w in self._workers.values() if w.state.status in ALIVE and w.state.pid]
        return {w.state.pid: w.measured.tree.memory for w in having if w.measured.tree is not None}

    def using(self, model_id: str) -> list[Managed]:
        """Workers that have the model open or will open it again."""
        return [
            w
            for w in self._workers.values()
            if w.config.model == model_id and (w.holds or w.state.status == "unloaded")
        ]

    def on_device(self, device_id: str) -> tuple[str, ...]:
        return tuple(w.id for w in self._workers.values() if w.config.device == device_id and w.holds)

    def spoken_for(self, device_id: str, sizes: Mapping[int, Memory]) -> int:
        """Bytes that look available and are not.

        A worker that still loads will take what it was granted. And the weights that a running one has mapped count
        as available to the kernel, which could drop them, and would then read them again for every token; workers
        of one model share them.
        """
        starting, mapped = 0, dict[str, int]()
        for worker in self._workers.values():
            size = sizes.get(worker.state.pid, Memory(0, 0))
            if worker.config.device != device_id or worker.state.status not in ALIVE:
                continue
            if worker.state.status == "starting":
                starting += max(0, worker.state.predicted - size.resident)
            mapped[worker.config.model_path] = max(size.files, mapped.get(worker.config.model_path, 0))
        return starting + sum(mapped.values())

    def threads_given(self) -> dict[str, int]:
        return {w.id: w.state.threads for w in self._workers.values() if w.config.worker_type == "cpu" and w.holds}

    def ports_taken(self) -> set[int]:
        return {w.state.port for w in self._workers.values() if w.holds}
