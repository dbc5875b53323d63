# SPDX-License-Identifier: GPL-3.0-or-later
"""What the processes of all workers hold and use: one look at the process table for whoever asks at that time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from rbee.adapters.trees import trees
from rbee.daemons.hive.workers.managed import ALIVE, Managed

log = logging.getLogger(__name__)

#: Seconds for which a look is good enough.
FRESH = 0.3
VramByPid = Callable[[], Awaitable[Mapping[int, int]]]


async def no_vram() -> Mapping[int, int]:
    """Of a machine without GPUs."""
    return {}


class Vitals:
    """`workers` are those that there are at a time; what is measured is put down with each of them."""

    def __init__(self, workers: Callable[[], Collection[Managed]]) -> None:
        self._workers = workers
        self._looking = asyncio.Lock()
        #: MB by pid, as the drivers tell. The hive puts its devices' in.
        self.vram_by_pid: VramByPid = no_vram

    async def take(self) -> None:
        """Measure every worker that has a process; none of them twice within a moment."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            having = {w.state.pid: w for w in self._workers() if w.state.status in ALIVE and w.state.pid}
            if all(w.measured.tree is not None and now - w.measured.at < FRESH for w in having.values()):
                return
            found = await asyncio.to_thread(trees, frozenset(having))
            on_gpus = any(w.config.worker_type != "cpu" for w in having.values())
            vram = await self._vram() if on_gpus else None
            now = asyncio.get_running_loop().time()
            for pid, tree in found.items():
                # It may have another process by now.
                if having[pid].state.pid == pid:
                    having[pid].measure(tree, now, vram if having[pid].config.worker_type != "cpu" else None)

    async def _vram(self) -> Mapping[int, int] | None:
        try:
            return await self.vram_by_pid()
        except Exception as e:  # a driver's fault must not end the care for a worker
            log.warning("VRAM by process cannot be told: %s", e)
            return None
