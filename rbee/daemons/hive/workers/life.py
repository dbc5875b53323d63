# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of one worker, from its first process to its last: start, wait until ready, watch, start again."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

from rbee.adapters import process, system
from rbee.adapters.exit_reasons import OomWitness
from rbee.contracts import defaults
from rbee.contracts.configs import WorkerConfig
from rbee.contracts.heartbeat import WorkerChange
from rbee.core import lifecycle
from rbee.core.errors import Conflict, RbeeError
from rbee.core.lifecycle import Verdict
from rbee.core.records import WorkerStatus
from rbee.daemons.hive.workers import health
from rbee.daemons.hive.workers.asking import Ask, nobody
from rbee.daemons.hive.workers.ending import reason_of_end
from rbee.daemons.hive.workers.files import ProcessFile
from rbee.daemons.hive.workers.managed import Managed, free_of_strangers
from rbee.daemons.hive.workers.watching import Sight, Watch

log = logging.getLogger(__name__)

#: Between looks at a worker that loads.
LOOK_FIRST, LOOK_SLOWEST = 0.05, 1.0
#: Ports tried when others bind them first.
PORT_TRIES = 3
#: From SIGTERM to SIGKILL of one that shall not finish its requests: time to tell the queen that it goes.
CUT = 1.0


class Surroundings(Sight, Protocol):
    """What a life needs of its supervisor."""

    def other_port(self, worker: Managed) -> int: ...

    def changed(self, change: WorkerChange) -> None: ...

    def model_path(self, config: WorkerConfig) -> str:
        """Where the worker's model is now. Blocks."""
        ...


class Life:
    """Runs as one task for each worker, its only owner. Cancelling it leaves the process running."""

    def __init__(self, worker: Managed, around: Surroundings) -> None:
        self.worker = worker
        self.around = around
        self._port_tries = 0

    async def run(self) -> None:
        """Ends when the worker is stopped, unloaded or given up; never raises but for cancelling."""
        worker = self.worker
        try:
            if worker.state.status == "unloaded":
                await self._unload(worker.state.reason or "was unloaded")
                return
            # The hive before this one ended while it waited.
            going_on = worker.state.status != "dead" or await self._pause()
            while going_on:
                going_on = await self._once()
        except (OSError, RbeeError) as e:
            await self._give_up(f"It could not be started: {e}")
        except Exception as e:
            log.exception("worker %s", worker.id)
            await self._give_up(f"Its hive failed: {type(e).__name__}: {e}")
        finally:
            worker.mailbox.answer()

    async def _once(self) -> bool:
        """One process, from start to end; whether there shall be another."""
        worker, mailbox = self.worker, self.worker.mailbox
        identity = worker.identity
        found = identity is not None and process.alive(identity)
        if identity is None or not found:
            try:
                identity = await self._launch()
            except (Conflict, OSError) as e:
                return await self._after_end(f"It could not be started: {str(e).rstrip('.')}.")
        witness = await asyncio.to_thread(OomWitness, identity.pid)
        ended = asyncio.create_task(process.ended(identity))
        verdict: Verdict | None = None
        try:
            if found and worker.state.status in ("ready", "busy", "failed"):
                worker.settled.set()
            elif (unfit := await mailbox.unless_asked(self._until_ready(ended))) is not None:
                return not worker.stopping and await self._after_end(unfit)
            if not ended.done():
                watch = Watch(worker, self.around, witness, self._say_failed)
                verdict = await mailbox.unless_asked(watch.until(ended))
        finally:
            ended.cancel()
        if mailbox.ask is not None:
            return await self._do(mailbox.ask)
        if verdict is not None and verdict.kind == "idle":
            await self._unload(verdict.reason)
            return False
        reason = await reason_of_end(worker, identity, witness, verdict, self.around.limits.drain)
        return not worker.stopping and await self._after_end(reason)

    async def _launch(self) -> process.Identity:
        """Raises Conflict when another program has taken its port meanwhile and it may have no other."""
        worker = self.worker
        if worker.state.was_ready and not await asyncio.to_thread(free_of_strangers, worker):
            if not worker.state.port_chosen:
                raise Conflict(f"Another program has taken its port {worker.state.port}.", code="port_taken")
            worker.move_to(self.around.other_port(worker))
        folder, path = worker.folder, await asyncio.to_thread(self.around.model_path, worker.config)
        worker.config = config = replace(worker.config, state_dir=str(folder.path), model_path=path)
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
        self.worker.begin(identity, system.now())

    async def _until_ready(self, ended: asyncio.Task[None]) -> str | None:
        """None when it is ready, or has ended. Else why it never will be, a sentence: then its process is gone too."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + defaults.WORKER_START_TIMEOUT, LOOK_FIRST
        while not ended.done():
            seen = await self._ask_itself()
            if seen is not None and not ended.done():
                self.worker.progress = seen.progress
                if seen.status in ("ready", "busy"):
                    await self._become_ready(seen)
                    return None
                if seen.status == "failed":
                    await self._end_process()
                    return seen.reason or "It failed and does not say why."
            if loop.time() > deadline:
                await self._end_process()
                return f"It was not ready after {defaults.WORKER_START_TIMEOUT:.0f} seconds."
            await asyncio.wait({ended}, timeout=pause)
            pause = min(LOOK_SLOWEST, pause * 1.5)
        return None

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

    async def _say_failed(self) -> None:
        await self._save()
        self._tell("failed")

    async def _after_end(self, reason: str) -> bool:
        """The process ended, and not because somebody wanted it gone: decide whether to start it again."""
        worker = self.worker
        if not worker.state.was_ready:
            if worker.state.port_chosen and self._port_tries < PORT_TRIES and not free_of_strangers(worker):
                self._port_tries += 1
                worker.move_to(self.around.other_port(worker))
                return True
            await self._give_up(reason)
            return False
        if worker.state.status == "failed":
            await self._give_up(worker.state.reason or reason)
            return False
        found = lifecycle.after_end(worker.state.ends, time.time(), self.around.limits)
        worker.state = replace(worker.state, ends=found.ends, last_end=reason)
        if found.wait is None:
            await self._give_up(lifecycle.too_often(found.ends, reason))
            return False
        again = f"{reason} It is started again in {lifecycle.duration(found.wait)}."
        log.warning("worker %s: %s", worker.id, again)
        worker.state = replace(worker.state, status="dead", reason=again)
        await self._save()
        self._tell("failed")
        return await self._pause()

    async def _pause(self) -> bool:
        """The wait before the next process; whether there shall be one."""
        worker = self.worker
        worker.settled.clear()
        await worker.mailbox.wait(lifecycle.wait_after(len(worker.state.ends), self.around.limits))
        if worker.mailbox.ask is not None:
            return await self._do(worker.mailbox.ask)
        worker.state = replace(worker.state, restarts=worker.state.restarts + 1)
        return not worker.stopping

    async def _do(self, ask: Ask) -> bool:
        """What was asked for; whether there shall be another process."""
        worker, identity = self.worker, self.worker.identity
        if ask.kind == "unload":
            await self._unload(ask.reason, ask.on_step)
            return False
        worker.settled.clear()
        worker.state = replace(worker.state, status="stopping", reason=ask.reason)
        log.info("worker %s: %s", worker.id, ask.reason)
        if identity is not None and worker.runs:
            await process.end(identity, self.around.limits.drain if ask.drain else CUT, ask.on_step)
            process.exit_status(identity)
        if worker.stopping:
            return False
        again = worker.state.restarts + 1
        worker.state = replace(
            worker.state, status="starting", reason=None, last_end=ask.reason, restarts=again, pid=0, start_time=0
        )
        worker.mailbox.answer()
        return True

    async def _unload(self, reason: str, on_step: Callable[[process.Step], None] = nobody) -> None:
        """Drain and end the process; keep the folder, and so what it takes to start it again when asked."""
        worker, identity = self.worker, self.worker.identity
        worker.settled.clear()
        # Said before it is done: a hive killed meanwhile must not start it again.
        saved = replace(worker.state, status="unloaded", reason=reason)
        await self._save(saved)
        if identity is not None and worker.runs:
            worker.unloading = True
            worker.state = replace(worker.state, status="stopping", reason=reason)
            log.info("worker %s %s; unloading it", worker.id, reason)
            await process.end(identity, self.around.limits.drain, on_step)
            process.exit_status(identity)
        if worker.stopping:
            return
        worker.state = replace(saved, pid=0, start_time=0)
        await self._save()
        worker.settled.set()
        self._tell("removed")

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

    async def _save(self, state: ProcessFile | None = None) -> None:
        """A full disk is no reason to give up a worker that runs: the next hive finds it by its settings file."""
        if self.worker.stopping:
            return
        try:
            await asyncio.to_thread(self.worker.folder.save_process, state or self.worker.state)
        except OSError as e:
            log.warning("worker %s: its state cannot be written: %s", self.worker.id, e)

    def _tell(self, action: Literal["added", "removed", "failed"]) -> None:
        worker = self.worker
        self.around.changed(
            WorkerChange(
                action=action,
                worker_id=worker.id,
                model=worker.config.model,
                device=worker.config.device,
                reason=worker.state.reason,
            )
        )


OnChange = Callable[[WorkerChange], None]
