# SPDX-License-Identifier: GPL-3.0-or-later
"""The looks at a worker that lives: is it well, what does it hold, has it anything to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

import aiohttp

from rbee.adapters import system
from rbee.adapters.exit_reasons import OomWitness
from rbee.core import lifecycle
from rbee.core.lifecycle import Limits, Verdict
from rbee.core.records import WorkerStatus
from rbee.daemons.hive.workers import health
from rbee.daemons.hive.workers.managed import Managed


class Sight(Protocol):
    """What a watch needs of the supervisor."""

    @property
    def session(self) -> aiohttp.ClientSession: ...

    @property
    def limits(self) -> Limits: ...

    async def measure(self) -> None: ...


class Watch:
    """Of one process, from when it is ready (or found running) to its end or a verdict. `failed` is awaited when
    the worker says that it has given up on its engine; then the verdict is to start it anew."""

    def __init__(
        self, worker: Managed, around: Sight, witness: OomWitness, failed: Callable[[], Awaitable[None]]
    ) -> None:
        self.worker = worker
        self.around = around
        self.witness = witness
        self._failed = failed
        self._course = lifecycle.Course.begun(asyncio.get_running_loop().time())

    async def until(self, ended: asyncio.Task[None]) -> Verdict | None:
        """Looks until the process has ended, or must end."""
        while True:
            verdict = await self._look(ended)
            if ended.done() or verdict is not None:
                return verdict
            await asyncio.wait({ended}, timeout=self._pause())
            if ended.done():
                return None

    def _pause(self) -> float:
        """Until the next tick, which all workers have in common: so that one look at the processes does for all."""
        every = self.around.limits.look_every
        return every - asyncio.get_running_loop().time() % every

    async def _look(self, ended: asyncio.Task[None]) -> Verdict | None:
        worker, limits = self.worker, self.around.limits
        await asyncio.to_thread(self._tend)
        await self.around.measure()
        found = await health.report(self.around.session, worker.config.url, worker.state.pid, limits.answer_within)
        if ended.done() or worker.stopping:
            return None
        said = found if isinstance(found, health.Report) else None
        self._check(found)
        if said is not None and said.status != "unknown":
            await self._follow(said)
        if worker.state.status == "failed":
            return Verdict(
                kind="given_up", reason=f"gave up: {(worker.state.reason or 'it does not say why').rstrip('.')}"
            )
        self._course, verdict = lifecycle.look(
            self._course,
            lifecycle.Look(
                answered=said is not None,
                slots_busy=said.slots_busy if said else 0,
                requests=said.requests_handled if said else 0,
                resident=worker.measured.tree.memory.resident if worker.measured.tree else None,
            ),
            asyncio.get_running_loop().time(),
            limits,
            memory_limit_mb=worker.config.options.memory_limit_mb,
            idle_timeout=worker.config.idle_timeout if worker.state.status == "ready" else None,
        )
        return verdict

    def _tend(self) -> None:
        """Bound its log; write its settings again when somebody has deleted them: without them nobody could stop it
        after the next start of the hive."""
        worker = self.worker
        worker.folder.bound_log()
        self.witness.refresh()
        try:
            if not worker.folder.config_file.exists() and not worker.stopping:
                worker.folder.save_config(worker.config)
                worker.folder.save_process(worker.state)
        except OSError:
            return

    def _check(self, found: health.Report | str) -> None:
        checked = self.worker.checked
        checked.at = system.now()
        if isinstance(found, str):
            checked.health, checked.why = "unhealthy", found
            return
        well = found.status in ("ready", "busy")
        checked.health = "healthy" if well else "unhealthy" if found.status == "failed" else "unknown"
        checked.why, checked.answered_at, checked.report = None, checked.at, found

    async def _follow(self, said: health.Report) -> None:
        """Its status is what it says, and a death of its engine is told while it starts that again."""
        worker, failed = self.worker, said.status == "failed"
        status: WorkerStatus = said.status  # type: ignore[assignment]  # of health.SAID
        reason = (said.reason or "It failed and does not say why.") if failed else said.reason
        if (status, reason) == (worker.state.status, worker.state.reason):
            return
        was, worker.state = worker.state.status, replace(worker.state, status=status, reason=reason)
        if failed and was != "failed":
            await self._failed()
