# SPDX-License-Identifier: GPL-3.0-or-later
"""Which processes of the machine are workers of this hive, or their engines."""

from __future__ import annotations

import asyncio
from typing import Protocol

from rbee.adapters import processes
from rbee.core.records import WorkerRecord
from rbee.daemons.hive.workers.managed import ALIVE


class Workers(Protocol):
    """Who knows the workers: the supervisor."""

    async def records(self) -> tuple[WorkerRecord, ...]: ...


async def owners(workers: Workers) -> dict[int, str]:
    """Pid to worker, of every process in the tree of one that runs."""
    roots = {w.pid: w.worker_id for w in await workers.records() if w.pid and w.status in ALIVE}
    return await asyncio.to_thread(processes.owners, roots)
