# SPDX-License-Identifier: GPL-3.0-or-later
"""All workers of a hive. Lives on one event loop; whoever calls it must be on that loop too."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from rbee.adapters import process
from rbee.adapters.tasks import end_tasks
from rbee.contracts import defaults
from rbee.contracts.configs import WorkerConfig
from rbee.contracts.heartbeat import WorkerChange
from rbee.core.errors import Conflict, RbeeError
from rbee.core.lifecycle import Limits
from rbee.core.records import Mark
from rbee.core.slug import slug
from rbee.daemons.hive import ports
from rbee.daemons.hive.workers.files import ProcessFile, WorkerFolder, folders, running
from rbee.daemons.hive.workers.life import Life, OnChange
from rbee.daemons.hive.workers.managed import ALIVE, Managed
from rbee.daemons.hive.workers.roster import Roster
from rbee.daemons.hive.workers.sizing import Needs, share_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A worker to be started; `config` lacks address and threads, which the supervisor gives."""

    config: WorkerConfig
    needs: Needs
    port: int | None = None
    mark: Mark | None = None


class Supervisor(Roster):
    """Starts, adopts, watches and stops workers. `on_change` is told of each that comes, fails or goes."""

    def __init__(
        self,
        root: Path,
        host: str,
        port_range: tuple[int, int],
        cores: Callable[[], int],
        on_change: OnChange,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        self._root = root
        self._host = host
        self._ports = port_range
        self._cores = cores
        self._on_change = on_change
        self.limits = limits or Limits()
        self._session: aiohttp.ClientSession | None = None
        self.closing = False
        #: Told of the model, and where it is, when a worker of it is begun.
        self.on_begin: Callable[[str, str], None] = lambda model, path: None
        #: Where a model is by its id, when it is there.
        self.find_model: Callable[[str], str | None] = lambda model: None
        #: Whether `start` starts again what died while no hive was there.
        self.revive = True

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "start() comes first"
        return self._session

    async def start(self, headers: dict[str, str]) -> None:
        """Take up the workers of the hive before this one: those that run are adopted, those that died meanwhile
        are started again, those that had failed stay failed."""
        self._session = aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(force_close=True))
        lives = await asyncio.to_thread(running, self._root)
        for folder in await asyncio.to_thread(folders, self._root):
            found = await asyncio.to_thread(folder.load)
            if found is None:
                log.warning("forgetting a worker without readable settings: %s", folder.path)
                await asyncio.to_thread(folder.remove)
                continue
            config, state = found
            if (who := lives.pop(folder.path, None)) is not None:
                # The hive may have been killed before it noted this one.
                state = replace(state, pid=who.pid, start_time=who.start_time)
            self._adopt(folder, config, state)
        for who in lives.values():
            # Nobody could stop it later: it would keep its port and its memory for ever.
            log.warning("ending a worker without a folder or readable settings (pid %d)", who.pid)
            await process.end(who, defaults.ENGINE_STOP_TIMEOUT)

    def _adopt(self, folder: WorkerFolder, config: WorkerConfig, state: ProcessFile) -> None:
        worker = Managed(config=config, folder=folder, state=state)
        self._workers[worker.id] = worker
        if worker.runs:
            log.info("adopted worker %s (pid %d)", worker.id, state.pid)
        elif state.status in ("failed", "unloaded"):
            worker.state = replace(state, pid=0, start_time=0) if state.status == "unloaded" else state
            worker.settled.set()
            return
        elif not self.revive:
            reason = "Its process ended while no hive was running; the daemon starts it again."
            worker.state = replace(state, pid=0, start_time=0, status="dead", reason=reason)
            worker.settled.set()
            return
        elif state.status == "dead":
            worker.state = replace(state, start_time=0)
        else:
            reason = "Its process ended while the hive was not running."
            worker.state = replace(
                state, start_time=0, status="starting", reason=reason, last_end=reason, restarts=state.restarts + 1
            )
            log.warning("worker %s: %s Starting it again", worker.id, reason)
        self._live(worker)

    async def stop(self) -> None:
        """Stop watching. The workers are left running."""
        self.closing = True
        await end_tasks(*(w.task for w in self._workers.values() if w.task is not None))
        if self._session is not None:
            await self._session.close()

    # What is done.

    def begin(self, order: Order) -> Managed:
        """Reserve threads and a port, and start the worker; `settled` tells when it is ready or has failed.

        Nothing is awaited in here, so that two at once never get the same port or the same cores. A dead or failed
        worker of that id is replaced. Raises Conflict, Insufficient, InvalidRequest.
        """
        worker_id = order.config.worker_id or self._new_id(order.config.model)
        former = self._workers.get(worker_id)
        if former is not None and (former.holds or former.stopping):
            raise Conflict(f"Worker {worker_id!r} runs already (pid {former.state.pid}).", code="worker_exists")
        threads = order.config.options.threads
        if order.config.worker_type == "cpu":
            threads = share_threads(threads, self._cores(), self.threads_given())
        port = ports.pick(self._host, self._ports, self.ports_taken(), order.port)
        config = replace(
            order.config,
            worker_id=worker_id,
            listen=ports.join(self._host, port),
            url=f"http://{ports.join(ports.reachable_host(self._host), port)}",
            options=replace(order.config.options, threads=threads),
        )
        state = ProcessFile(
            port=port,
            threads=threads or 0,
            predicted=order.needs.memory,
            slots=order.needs.slots,
            context_length=order.needs.context_length,
            threads_asked=order.config.options.threads is not None,
            port_chosen=order.port is None,
            mark=order.mark,
        )
        folder = WorkerFolder.of(self._root, worker_id)
        worker = Managed(config=config, folder=folder, state=state)
        self._workers[worker_id] = worker
        self.on_begin(config.model, config.model_path)
        self._live(worker, former)
        return worker

    def model_path(self, config: WorkerConfig) -> str:
        """Where it was, or where its model is by now: one downloaded anew may be called otherwise."""
        return (
            config.model_path
            if Path(config.model_path).exists()
            else self.find_model(config.model) or config.model_path
        )

    async def configure(self, worker: Managed, idle_timeout: float | None) -> None:
        """Change what a worker's process knows nothing of. Raises RbeeError `disk_error`."""
        try:
            await asyncio.to_thread(worker.folder.save_config, replace(worker.config, idle_timeout=idle_timeout))
        except OSError as e:
            raise RbeeError(
                f"The settings of worker {worker.id!r} cannot be written: {e.strerror}.", code="disk_error"
            ) from None
        worker.config = replace(worker.config, idle_timeout=idle_timeout)

    async def end(self, worker: Managed, on_step: Callable[[process.Step], None]) -> None:
        """Stop a worker for good: SIGTERM, a bounded drain, SIGKILL to its group; then forget it."""
        worker.stopping = True
        identity = worker.identity
        if worker.state.status in ALIVE:
            worker.state = replace(worker.state, status="stopping")
        if identity is not None and worker.runs:
            await process.end(identity, self.limits.drain, on_step)
            process.exit_status(identity)
        if not await self._forget(worker):
            return
        self._on_change(
            WorkerChange(action="removed", worker_id=worker.id, model=worker.config.model, device=worker.config.device)
        )

    async def _forget(self, worker: Managed) -> bool:
        """False when another has done it meanwhile: its folder may be a later worker's by now."""
        async with worker.forgetting:
            if self._workers.get(worker.id) is not worker:
                return False
            if worker.task is not None:
                await end_tasks(worker.task)
                # Cancelled between starting a process and noting it: that one goes too.
                identity = worker.identity
                if identity is not None and worker.runs:
                    await process.end(identity, 0)
                    process.exit_status(identity)
            await asyncio.to_thread(worker.folder.remove)
            del self._workers[worker.id]
        worker.settled.set()
        return True

    # For lives.

    def other_port(self, worker: Managed) -> int:
        return ports.pick(self._host, self._ports, self.ports_taken() | {worker.state.port})

    def changed(self, change: WorkerChange) -> None:
        self._on_change(change)

    def _live(self, worker: Managed, former: Managed | None = None) -> None:
        async def live() -> None:
            if former is not None:
                burying = asyncio.ensure_future(self._bury(former))
                try:
                    await asyncio.shield(burying)
                except asyncio.CancelledError:
                    await burying  # half of it would leave a process that nobody knows
                    raise
            await Life(worker, self).run()
            worker.task = None

        # In a context of its own: it outlives the job that began it, and its log lines are not that job's.
        worker.task = contextvars.Context().run(asyncio.create_task, live(), name=f"worker-{worker.id}")

    async def _bury(self, former: Managed) -> None:
        """A failed worker whose process still stands (it answers 503) goes when its successor comes."""
        former.stopping = True
        identity = former.identity
        if identity is not None and former.runs:
            await process.end(identity, defaults.ENGINE_STOP_TIMEOUT)
            process.exit_status(identity)
        if former.task is not None:
            await end_tasks(former.task)
        await asyncio.to_thread(former.folder.remove)

    def _new_id(self, model: str) -> str:
        while True:
            made = f"{slug(model)}-{secrets.token_hex(2)}"
            if made not in self._workers:
                return made
