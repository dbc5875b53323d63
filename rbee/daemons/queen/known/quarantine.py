# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that took a request and sent nothing: out of routing at once, asked again, started anew when they are hung.

A worker's `/health` says nothing about that: it tells what the worker believes of its engine. So it is asked for one
token, as a client would ask. One that gives it was only slow and is back; one that does not is hung, and its hive is
asked to start it anew. A hive that cannot is asked again, and the worker too: its own supervisor may heal it first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from rbee.adapters.secrets import Token
from rbee.adapters.trouble import words
from rbee.contracts import codec, defaults
from rbee.contracts.configs import QueenConfig
from rbee.contracts.operations.workers import WorkerRestart
from rbee.core.errors import RbeeError
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.known.worker import Worker

log = logging.getLogger(__name__)

#: How the reason begins of a worker in it.
QUARANTINED = "quarantined"
#: Starts the worker anew on its hive and waits until that is done. Raises RbeeError.
Restart = Callable[[WorkerRestart], Awaitable[object]]
#: What is asked of a worker in doubt, by path: as little as can be asked.
_LITTLE: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
    "/v1/embeddings": {"input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["a"]},
}
_TROUBLE = (aiohttp.ClientError, asyncio.TimeoutError, TimeoutError, OSError, ValueError)


class Quarantine:
    """One task for each worker in it."""

    def __init__(
        self,
        registry: Registry,
        http: aiohttp.ClientSession,
        token: Token | None,
        restart: Restart,
        config: QueenConfig,
    ) -> None:
        self._registry = registry
        self._http = http
        self._token = token
        self._restart = restart
        self.configure(config)
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        #: Since her start: workers that were put in, and those of them that were started anew.
        self.doubted = 0
        self.restarted = 0

    def configure(self, config: QueenConfig) -> None:
        """One token is not given longer than the beginning of any stream."""
        limit = config.limits.first_byte_timeout
        self._patience = defaults.SUSPECT_PATIENCE if limit is None else min(defaults.SUSPECT_PATIENCE, limit)

    def doubt(self, worker: Worker, why: str) -> None:
        """It took a request and sent nothing (`why` says for how long): no more requests until it is known to answer.

        Does not block. Nothing when it is in here already, or is known no more.
        """
        if worker in self._tasks or worker.held or self._registry.workers.get(worker.worker_id) is not worker:
            return
        self.doubted += 1
        self._registry.hold(worker, f"{QUARANTINED}: {why}")
        log.warning("worker %s is quarantined: %s", worker.worker_id, why)
        task = asyncio.get_running_loop().create_task(self._heal(worker, why), name=f"quarantine {worker.worker_id}")
        self._tasks[worker] = task
        task.add_done_callback(lambda _: self._tasks.pop(worker, None))

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _known(self, worker: Worker) -> bool:
        return self._registry.workers.get(worker.worker_id) is worker

    async def _heal(self, worker: Worker, why: str) -> None:
        """Until it answers, or is known no more (a new process has its id, or none)."""
        wait, wanted = defaults.BACKOFF_FIRST, True
        while self._known(worker):
            if await self._answers(worker):
                log.info("worker %s answers again", worker.worker_id)
                self._registry.release(worker)
                return
            if wanted and self._known(worker):
                wanted = not await self._restarted(worker, why)
            await asyncio.sleep(wait)
            wait = min(wait * 2, defaults.BACKOFF_MAX)

    async def _restarted(self, worker: Worker, why: str) -> bool:
        beat = worker.beat
        worker.unreachable = f"{QUARANTINED}, being started anew: {why}"
        request = WorkerRestart(
            hive_id=beat.hive_id, worker_id=beat.worker_id, drain=False, reason=f"hung: {why}"[:200]
        )
        try:
            await self._restart(request)
        except RbeeError as e:
            log.warning("worker %s could not be started anew: %s", worker.worker_id, e)
            worker.unreachable = f"{QUARANTINED}: {why}; its hive could not start it anew: {e.message}"
            return False
        self.restarted += 1
        return True

    async def _answers(self, worker: Worker) -> bool:
        """Whether it gives one token. One that serves none of the paths that can be asked so is asked how it is."""
        beat = worker.beat
        path = next((p for p in _LITTLE if p in beat.paths), None if beat.paths else "/v1/completions")
        url = beat.url.rstrip("/")
        timeout = aiohttp.ClientTimeout(total=self._patience, connect=defaults.CONNECT_TIMEOUT)
        headers = self._token.header if self._token is not None and worker.trusted else {}
        try:
            if path is None:
                async with self._http.get(f"{url}/health", timeout=timeout) as answer:
                    return answer.status == 200
            body = codec.encode({"model": beat.model, **_LITTLE[path]})
            headers = {**headers, "Content-Type": "application/json"}
            async with self._http.post(
                f"{url}{path}", data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                await answer.read()
                return answer.status < 500
        except _TROUBLE as e:
            log.debug("worker %s in quarantine: %s", worker.worker_id, words(e))
            return False
