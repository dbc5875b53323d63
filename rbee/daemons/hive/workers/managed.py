# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker as its hive holds it. Changed only by the task that lives its life, and by the supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Literal

from rbee.adapters import process
from rbee.adapters.trees import Tree, cpu_between
from rbee.contracts.configs import WorkerConfig
from rbee.core.records import HealthStatus, WorkerRecord
from rbee.daemons.hive import ports
from rbee.daemons.hive.workers.asking import Mailbox
from rbee.daemons.hive.workers.files import ProcessFile, WorkerFolder
from rbee.daemons.hive.workers.health import Report

ALIVE = frozenset({"starting", "ready", "busy", "stopping"})
#: Seconds between two looks from which a processor's load can be told.
_APART = 0.9


@dataclass(slots=True)
class Measured:
    """What worker and engine hold and use, as last measured. `at` is of the loop's clock."""

    at: float = 0.0
    tree: Tree | None = None
    cpu_percent: float | None = None
    vram_mb: int | None = None
    _base: tuple[float, Tree] | None = None

    def take(self, tree: Tree, now: float, vram: Mapping[int, int] | None) -> None:
        """`vram`: MB by pid; None when it was not asked for."""
        if self._base is None:
            self._base = (now, tree)
        elif now - self._base[0] >= _APART:
            self.cpu_percent = round(100 * cpu_between(self._base[1], tree) / (now - self._base[0]), 1)
            self._base = (now, tree)
        self.at, self.tree = now, tree
        if vram is not None:
            self.vram_mb = sum(mb for pid, mb in vram.items() if pid in tree.pids)


@dataclass(slots=True)
class Checked:
    """How it answered the looks. Times are RFC 3339, empty before the first; `why` is why it is not healthy."""

    health: HealthStatus = "unknown"
    why: str | None = None
    at: str = ""
    answered_at: str = ""
    report: Report | None = None


@dataclass(slots=True)
class Managed:
    """`state` is what `process.json` says too. `settled` is set while it is not starting."""

    config: WorkerConfig
    folder: WorkerFolder
    state: ProcessFile
    stopping: bool = False
    task: asyncio.Task[None] | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    #: Whether its process is ended only to be unloaded.
    unloading: bool = False
    mailbox: Mailbox = field(default_factory=Mailbox)
    #: Held by who takes it away for good.
    forgetting: asyncio.Lock = field(default_factory=asyncio.Lock)
    progress: float | None = None
    #: Most bytes that worker and engine were seen to hold since this process was started.
    peak: int = 0
    measured: Measured = field(default_factory=Measured)
    checked: Checked = field(default_factory=Checked)

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
        """Whether it has a process, or will have one again by itself: then its port, threads and model are taken."""
        return self.state.status in ALIVE or (self.state.status == "dead" and self.task is not None)

    @property
    def pausing(self) -> bool:
        """Whether its process is being ended and nobody wants it gone: it is unloaded, or started anew."""
        return self.state.status == "stopping" and not self.stopping

    @property
    def next(self) -> Literal["unloaded", "starting"] | None:
        """What it will be when its process has ended; None when that is not being ended, or nothing follows."""
        if not self.pausing:
            return None
        return "unloaded" if self.unloading else "starting"

    @property
    def runs(self) -> bool:
        """Whether that very process lives, with these settings, whoever may have the pid."""
        return self.identity is not None and process.is_ours(self.identity, str(self.folder.config_file))

    def move_to(self, port: int) -> None:
        """Give it another port."""
        host = self.config.listen.rpartition(":")[0]
        url_host = self.config.url.rpartition(":")[0]
        self.config = replace(self.config, listen=f"{host}:{port}", url=f"{url_host}:{port}")
        self.state = replace(self.state, port=port)

    def begin(self, identity: process.Identity, started_at: str) -> None:
        """It has a new process: what was measured of the one before is no more."""
        self.state = replace(
            self.state, pid=identity.pid, start_time=identity.start_time, started_at=started_at, status="starting"
        )
        self.peak, self.progress, self.unloading = 0, None, False
        self.measured, self.checked = Measured(), Checked()

    def measure(self, tree: Tree, now: float, vram: Mapping[int, int] | None) -> None:
        self.measured.take(tree, now, vram)
        self.peak = max(self.peak, tree.memory.resident)

    def record(self) -> WorkerRecord:
        """As the wire has it."""
        config, state, checked = self.config, self.state, self.checked
        alive = state.status in ALIVE
        tree = self.measured.tree if alive else None
        said = checked.report or Report(status="unknown")
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
            reason=state.reason or checked.why,
            next=self.next,
            started_at=state.started_at,
            slots=said.slots or state.slots,
            context_length=said.context_length or state.context_length,
            memory_mb=round(tree.memory.resident / 1e6, 1) if tree else None,
            vram_mb=self.measured.vram_mb if alive else None,
            cpu_percent=self.measured.cpu_percent if alive else None,
            predicted_memory_mb=round(state.predicted / 1e6, 1) if state.predicted else None,
            queen_url=config.queen_url,
            health_url=f"{config.url}/health",
            health_status=checked.health if alive else "unknown",
            last_health_check=checked.at,
            last_seen=checked.answered_at,
            uptime_seconds=_seconds_since(state.started_at) if alive else 0,
            restarts=state.restarts,
            last_end=state.last_end,
            slots_busy=said.slots_busy if alive else 0,
            requests_handled=said.requests_handled,
            tokens_generated=said.tokens_generated,
            avg_tokens_per_sec=said.avg_tokens_per_sec,
            errors=said.errors,
            idle_timeout=config.idle_timeout,
            mark=state.mark,
        )


def _seconds_since(moment: str) -> int:
    try:
        began = datetime.fromisoformat(moment.replace("Z", "+00:00"))
        return max(0, int((datetime.now(timezone.utc) - began).total_seconds()))
    except (ValueError, TypeError):
        return 0


def free_of_strangers(worker: Managed) -> bool:
    """Whether the worker's port could be bound now."""
    return ports.is_free(worker.config.listen.rpartition(":")[0].strip("[]"), worker.state.port)
