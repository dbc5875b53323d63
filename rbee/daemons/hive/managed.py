# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker as its hive holds it. Changed only by the task that lives its life, and by the supervisor."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from rbee.adapters import process
from rbee.contracts.configs import WorkerConfig
from rbee.core.records import WorkerRecord
from rbee.daemons.hive import ports
from rbee.daemons.hive.files import ProcessFile, WorkerFolder

ALIVE = frozenset({"starting", "ready", "busy", "stopping"})


@dataclass(slots=True)
class Managed:
    """`state` is what `process.json` says too. `settled` is set while it is not starting."""

    config: WorkerConfig
    folder: WorkerFolder
    state: ProcessFile
    #: A port of the hive's choice may be exchanged for another; one that was asked for may not.
    port_chosen: bool = True
    stopping: bool = False
    task: asyncio.Task[None] | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    #: Ends of the process since it was first ready, on the loop's clock.
    deaths: list[float] = field(default_factory=list)
    progress: float | None = None
    #: Most bytes that worker and engine were seen to hold since this process was started.
    peak: int = 0

    @property
    def id(self) -> str:
        return self.config.worker_id

    @property
    def identity(self) -> process.Identity | None:
        return self.state.identity

    @property
    def spec_digest(self) -> str:
        return self.state.mark.spec_digest if self.state.mark else ""

    @property
    def holds(self) -> bool:
        """Whether it has a process, or will have one again: then its port, threads and model are taken."""
        return self.state.status in ALIVE or (self.state.status == "dead" and self.task is not None)

    def move_to(self, port: int) -> None:
        """Give it another port."""
        host = self.config.listen.rpartition(":")[0]
        url_host = self.config.url.rpartition(":")[0]
        self.config = replace(self.config, listen=f"{host}:{port}", url=f"{url_host}:{port}")
        self.state = replace(self.state, port=port)

    def record(self, memory: process.Memory | None) -> WorkerRecord:
        """As the wire has it; `memory` is of worker and engine, measured now."""
        config, state = self.config, self.state
        return WorkerRecord(
            worker_id=config.worker_id,
            model=config.model,
            engine=config.provider.name,
            worker_type=config.worker_type,
            device=config.device,
            port=state.port,
            url=config.url,
            pid=state.pid,
            status=state.status,
            reason=state.reason,
            started_at=state.started_at,
            slots=state.slots,
            context_length=state.context_length,
            memory_mb=round(memory.resident / 1e6, 1) if memory and state.status in ALIVE else None,
            mark=state.mark,
        )


def free_of_strangers(worker: Managed) -> bool:
    """Whether the worker's port could be bound now."""
    return ports.is_free(worker.config.listen.rpartition(":")[0].strip("[]"), worker.state.port)
