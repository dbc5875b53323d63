# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that were dropped, or that only their hive vouched for, are asked until they answer."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from rbee.adapters.trouble import words
from rbee.contracts import codec, defaults
from rbee.daemons.queen.known.registry import PROBED, Registry, Worker

log = logging.getLogger(__name__)


#: Between two questions to one that loads, or that somebody holds.
_LOADS = 0.5


class Prober:
    """One task for each worker in doubt. It ends when the worker answers, or is known no more."""

    def __init__(self, registry: Registry, http: aiohttp.ClientSession) -> None:
        self._registry = registry
        self._http = http
        self._tasks: dict[Worker, asyncio.Task[None]] = {}

    def probe(self, worker: Worker) -> None:
        """Starts to ask, unless it is being asked already."""
        if worker not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._probe(worker))
            self._tasks[worker] = task
            task.add_done_callback(lambda _: self._tasks.pop(worker, None))

    async def _probe(self, worker: Worker) -> None:
        """Until it answers that it is more than starting: its heartbeats may go to another queen, or the one before."""
        wait = defaults.BACKOFF_FIRST
        while self._doubtful(worker):
            try:
                status = await self._ask(worker.beat.url)
            except (aiohttp.ClientError, asyncio.TimeoutError, TimeoutError, OSError, ValueError) as e:
                if worker.unreachable == PROBED:
                    worker.unreachable = f"does not answer: {words(e)}"
                await asyncio.sleep(wait)
                wait = min(wait * 2, defaults.BACKOFF_MAX)
                continue
            if worker.unreachable is not None:
                log.info("worker %s answers again: %s", worker.worker_id, status)
            self._registry.restore(worker, status)
            if worker.status == "starting" or worker.unreachable is not None:
                await asyncio.sleep(_LOADS)

    def _doubtful(self, worker: Worker) -> bool:
        """One that is held is let go by who holds it, not by its answer."""
        known = self._registry.workers.get(worker.worker_id) is worker
        return known and not worker.held and (worker.unreachable is not None or worker.status == "starting")

    async def _ask(self, url: str) -> str:
        """The status that the worker's `/health` tells: `ready`, or what stands in its 503."""
        timeout = aiohttp.ClientTimeout(total=defaults.CONNECT_TIMEOUT)
        async with self._http.get(f"{url.rstrip('/')}/health", timeout=timeout) as answer:
            body = await answer.read()
            if answer.status == 200:
                return "ready"
            try:
                said = codec.decode(dict[str, object], body).get("status")
            except codec.CodecError:
                said = None
            return said if said in ("starting", "busy", "stopping", "dead", "failed") else "starting"

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
