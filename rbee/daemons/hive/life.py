# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of one worker, from its first process to its last: start, wait until ready, watch, start again."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import aiohttp

from rbee.adapters import process, system
from rbee.contracts import defaults
from rbee.contracts.heartbeat import WorkerChange
from rbee.core.errors import RbeeError
from rbee.core.records import WorkerStatus
from rbee.daemons.hive import health
from rbee.daemons.hive.managed import Managed, free_of_strangers

log = logging.getLogger(__name__)

#: So many ends within so many seconds, and it is given up.
MAX_DEATHS, WITHIN = 3, 60.0
#: Between looks at a worker that is well.
LOOK_EVERY = 5.0
#: While it loads.
LOOK_FIRST, LOOK_SLOWEST = 0.05, 1.0
#: Ports tried when others bind them first.
PORT_TRIES = 3


class Surroundings(Protocol):
    """What a life needs of its supervisor."""

    @property
    def session(self) -> aiohttp.ClientSession: ...

    def other_port(self, worker: Managed) -> int: ...

    def changed(self, change: WorkerChange) -> None: ...


class Life:
    """Runs as one task for each worker, its only owner. Cancelling it leaves the process running."""

    def __init__(self, worker: Managed, around: Surroundings) -> None:
        self.worker = worker
        self.around = around
        self._port_tries = 0

    async def run(self) -> None:
        """Ends when the worker is stopped or given up; never raises but for cancelling."""
        try:
            while await self._once():
                pass
        except (OSError, RbeeError) as e:
            await self._give_up(f"It could not be started: {e}")
        except Exception as e:
            log.exception("worker %s", self.worker.id)
            await self._give_up(f"Its hive failed: {type(e).__name__}: {e}")

    async def _once(self) -> bool:
        """One process, from start to end; whether there shall be another."""
        worker = self.worker
        identity = worker.identity
        if identity is None or not process.alive(identity):
            identity = await self._launch()
        ended = asyncio.create_task(process.ended(identity))
        try:
            if not await self._until_ready(ended):
                return False
            await self._watch(ended)
        finally:
            ended.cancel()
        code = process.exit_status(identity)
        process.kill_group(identity)
        return not worker.stopping and await self._after_end(code)

    async def _launch(self) -> process.Identity:
        worker = self.worker
        folder, config = worker.folder, replace(worker.config, state_dir=str(worker.folder.path))
        worker.config = config
        argv = [sys.executable, "-m", "rbee.cli.daemons", "worker", "--config", str(folder.config_file)]
        # The GPU's number as NVML counts, whatever order CUDA would choose.
        env = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

        def start() -> process.Identity:
            folder.save_config(config)
            folder.bound_log()
            return process.spawn_detached(argv, log=folder.log, env=env)

        starting = asyncio.ensure_future(asyncio.to_thread(start))
        try:
            identity = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread starts it all the same: whoever cancelled must be able to find it.
            self._note(await starting)
            raise
        self._note(identity)
        await self._save()
        return identity

    def _note(self, identity: process.Identity) -> None:
        worker = self.worker
        worker.state = replace(
            worker.state, pid=identity.pid, start_time=identity.start_time, started_at=system.now(), status="starting"
        )

    async def _until_ready(self, ended: asyncio.Task[None]) -> bool:
        """False when it told that it failed, or took too long: then its process is gone too."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + defaults.WORKER_START_TIMEOUT, LOOK_FIRST
        while not ended.done():
            seen = await self._ask_itself()
            if seen is not None and not ended.done():
                self.worker.progress = seen.progress
                if seen.status in ("ready", "busy"):
                    await self._become_ready(seen)
                    return True
                if seen.status == "failed":
                    await self._end_process()
                    await self._give_up(seen.reason or "It failed and does not say why.")
                    return False
            if loop.time() > deadline:
                await self._end_process()
                await self._give_up(f"It was not ready after {defaults.WORKER_START_TIMEOUT:.0f} seconds.")
                return False
            await asyncio.wait({ended}, timeout=pause)
            pause = min(LOOK_SLOWEST, pause * 1.5)
        return True

    async def _ask_itself(self) -> health.Health | None:
        """None also while another program answers on its port: then the worker cannot listen, and will end."""
        session, url = self.around.session, self.worker.config.url
        seen = await health.ask(session, url)
        if seen is None or seen.status not in ("ready", "busy", "failed"):
            return seen
        return seen if await health.is_pid(session, url, self.worker.state.pid) else None

    async def _become_ready(self, seen: health.Health) -> None:
        worker = self.worker
        status: WorkerStatus = "busy" if seen.status == "busy" else "ready"
        worker.state = replace(worker.state, status=status, reason=None, was_ready=True)
        await self._save()
        worker.settled.set()
        self._tell("added")

    async def _watch(self, ended: asyncio.Task[None]) -> None:
        """Until the process ends. A worker that has given up on its engine stays up and is `failed`."""
        worker = self.worker
        while not ended.done():
            await asyncio.wait({ended}, timeout=LOOK_EVERY)
            if ended.done() or worker.stopping:
                continue
            await asyncio.to_thread(worker.folder.bound_log)
            seen = await health.ask(self.around.session, worker.config.url)
            if seen is None or seen.status == worker.state.status or seen.status == "unknown" or ended.done():
                continue
            failed = seen.status == "failed"
            worker.state = replace(
                worker.state,
                status=seen.status,  # type: ignore[arg-type]  # checked by health.parse
                reason=(seen.reason or "It failed and does not say why.") if failed else None,
            )
            if failed:
                await self._save()
                self._tell("failed")

    async def _after_end(self, code: int | None) -> bool:
        """The process ended by itself: decide whether to start it again."""
        worker, loop = self.worker, asyncio.get_running_loop()
        reason = _why(code, worker.folder.last_words())
        if not worker.state.was_ready:
            if worker.port_chosen and self._port_tries < PORT_TRIES and not free_of_strangers(worker):
                self._port_tries += 1
                worker.move_to(self.around.other_port(worker))
                return True
            await self._give_up(reason)
            return False
        worker.deaths = [t for t in worker.deaths if loop.time() - t < WITHIN] + [loop.time()]
        if worker.state.status == "failed":
            await self._give_up(worker.state.reason or reason)
            return False
        if len(worker.deaths) > MAX_DEATHS:
            await self._give_up(f"It ended {len(worker.deaths)} times in {WITHIN:.0f} seconds; the last time: {reason}")
            return False
        log.warning("worker %s: %s; starting it again", worker.id, reason)
        worker.state = replace(worker.state, status="dead", reason=reason)
        worker.settled.clear()
        await self._save()
        self._tell("failed")
        await asyncio.sleep(min(defaults.BACKOFF_MAX, defaults.BACKOFF_FIRST * 2 ** len(worker.deaths)))
        return not worker.stopping

    async def _end_process(self) -> None:
        if (identity := self.worker.identity) is not None:
            await process.end(identity, defaults.ENGINE_STOP_TIMEOUT)
            process.exit_status(identity)

    async def _give_up(self, reason: str) -> None:
        worker = self.worker
        if worker.stopping:
            return
        worker.state = replace(worker.state, status="failed", reason=reason)
        await self._save()
        worker.settled.set()
        self._tell("failed")

    async def _save(self) -> None:
        """A full disk is no reason to give up a worker that runs: the next hive finds it by its settings file."""
        if self.worker.stopping:
            return
        try:
            await asyncio.to_thread(self.worker.folder.save_process, self.worker.state)
        except OSError as e:
            log.warning("worker %s: its state cannot be written: %s", self.worker.id, e)

    def _tell(self, action: str) -> None:
        worker = self.worker
        self.around.changed(
            WorkerChange(
                action="failed" if action == "failed" else "added",
                worker_id=worker.id,
                model=worker.config.model,
                device=worker.config.device,
                reason=worker.state.reason,
            )
        )


def _why(code: int | None, last_words: str) -> str:
    said = f"Its process {'was ' if code is not None and code < 0 else ''}{process.describe_exit(code)}"
    return f"{said}: {last_words}" if last_words and code not in (0, -9, -15) else f"{said}."


OnChange = Callable[[WorkerChange], None]
