# SPDX-License-Identifier: GPL-3.0-or-later
"""One life of the engine: the child process, what it says, whether it is ready, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil

import rbee.adapters.guard
from rbee.adapters.engines.reasons import how_it_ended, mend_for, reason_in
from rbee.adapters.exit_reasons import OomWitness
from rbee.adapters.splice import Splice, Upstream, UpstreamError
from rbee.core.errors import RbeeError

log = logging.getLogger(__name__)

#: Exit status by which a launcher of ours says that trying again is of no use.
UNLOADABLE = 3
_LINE = 4096
_POLL = 0.05
#: Seconds for an answer at the ready path while it loads.
_ASK = 30.0


class EngineFailed(RbeeError):
    """The engine did not start, or ended. `final`: it would do so again."""

    code = "engine_failed"

    def __init__(self, message: str, *, final: bool = False, mend: str = "") -> None:
        super().__init__(message, mend=mend)
        self.final = final


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start the engine. `announces`: it prints a JSON line with its address (our own launchers do)."""

    name: str
    model: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    announces: bool = False
    key: str = ""
    ready_path: str = "/health"
    stop: Literal["term", "kill"] = "kill"


class Engine:
    """A running engine. Made by `Engine.start`; `upstream` answers once `wait_ready` has returned."""

    def __init__(self, launch: Launch, process: asyncio.subprocess.Process) -> None:
        self.launch = launch
        self.upstream = Upstream("127.0.0.1", launch.port, reuse=False)
        #: What the launcher said of the model: context_length, slots, tools.
        self.facts: dict[str, Any] = {}
        self._cpu_seconds = 0.0
        self._process = process
        self._witness = OomWitness(process.pid)
        self._said: deque[str] = deque(maxlen=60)
        self._announced = asyncio.Event()
        self._readers = [
            asyncio.create_task(self._drain(process.stdout, self._heard)),
            asyncio.create_task(self._drain(process.stderr, self._complained)),
        ]
        self._end = asyncio.create_task(self._wait())

    @classmethod
    async def start(cls, launch: Launch) -> Engine:
        """Starts the child in a process group of its own, tied to this process's life by the guard.

        Raises EngineFailed when it cannot even be started.
        """
        guard = (sys.executable, "-I", "-S", str(Path(rbee.adapters.guard.__file__)), str(os.getpid()), "--")
        environment = {**os.environ, **launch.environment, "RBEE_ENGINE_KEY": launch.key}
        try:
            process = await asyncio.create_subprocess_exec(
                *guard,
                *launch.argv,
                stdin=asyncio.subprocess.PIPE,  # its end tells a watching guard that we are gone
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as e:
            raise EngineFailed(f"{launch.name} cannot be started: {e}.") from None
        return cls(launch, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What every request to the engine carries."""
        return (("Authorization", f"Bearer {self.launch.key}"),) if self.launch.key else ()

    async def wait_ready(self, splice: Splice, timeout: float) -> None:
        """Returns when the engine answers at its ready path. Raises EngineFailed: it ended, or took too long."""
        ready = asyncio.create_task(self._ready(splice))
        try:
            done, _ = await asyncio.wait({ready, self._end}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if ready in done:
                ready.result()
                return
            if self._end in done:
                raise await self.failure()
            raise EngineFailed(
                f"{self.launch.name} was not ready after {timeout:g} seconds{self._last_words()}.",
                mend="The disk may be slow or the machine out of memory; `rbee logs` has the engine's own words.",
            )
        finally:
            ready.cancel()

    async def ended(self) -> int:
        """Waits for the end; the exit status, negative for a signal."""
        return await asyncio.shield(self._end)

    async def ends_within(self, seconds: float) -> bool:
        """Waits for the end, at most so long; whether it came."""
        done, _ = await asyncio.wait({self._end}, timeout=seconds)
        return bool(done)

    async def answers(self, splice: Splice, timeout: float) -> bool:
        """Whether it says in time, by its ready path, that it is well."""
        try:
            async with await splice.open(
                self.upstream,
                method="GET",
                target=self.launch.ready_path,
                headers=self.headers,
                connect_timeout=timeout,
                first_byte_timeout=timeout,
            ) as answer:
                self._witness.refresh()
                return answer.status == 200
        except UpstreamError:
            return False

    def cpu_seconds(self) -> float:
        """Processor time that it has used so far; what was last known once it is gone."""
        with contextlib.suppress(psutil.Error):
            used = psutil.Process(self.pid).cpu_times()
            self._cpu_seconds = used.user + used.system
        return self._cpu_seconds

    async def failure(self) -> EngineFailed:
        """Why it ended, from its exit status and its last words. Waits for the end."""
        status = await self.ended()
        if status == UNLOADABLE:
            words = reason_in(self._said) or "it did not say why"
            what = f"{self.launch.name} could not load {self.launch.model}: {words}."
            return EngineFailed(what, final=True, mend=mend_for(words))
        killed = status == -signal.SIGKILL and await asyncio.to_thread(self._witness.saw)
        how = how_it_ended(status, out_of_memory=killed)
        mend = mend_for("out of memory") if killed else ""
        return EngineFailed(f"{self.launch.name} ended ({how}){self._last_words()}.", mend=mend)

    async def stop(self, timeout: float) -> None:
        """Ends the process group: SIGKILL at once, or SIGTERM first where the provider says so."""
        if self.launch.stop == "term" and not self._end.done():
            self._signal(signal.SIGTERM)
            await asyncio.wait({self._end}, timeout=timeout)
        await self.kill(timeout)

    async def kill(self, timeout: float) -> None:
        """SIGKILL to the process group, at once; waits for the end."""
        self._signal(signal.SIGKILL)
        await asyncio.wait({self._end}, timeout=timeout)

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                pass

    async def _ready(self, splice: Splice) -> None:
        if self.launch.announces:
            await self._announced.wait()
        # While it loads it may be slow: whoever waits bounds the time of all of it.
        while not await self.answers(splice, _ASK):  # noqa: ASYNC110 - no event tells that it listens
            await asyncio.sleep(_POLL)

    async def _wait(self) -> int:
        status = await self._process.wait()
        # The last words may still be in the pipes; a grandchild that holds them open must not keep us.
        await asyncio.wait(self._readers, timeout=1.0)
        for reader in self._readers:
            reader.cancel()
        return status

    async def _drain(self, stream: asyncio.StreamReader | None, tell: Any) -> None:
        """Reads for ever, so that the engine never waits for us; lines are cut at 4 KiB."""
        assert stream is not None
        rest = b""
        while data := await stream.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                tell(line[:_LINE].decode("utf-8", "replace"))
            rest = rest[:_LINE]
        if rest:
            tell(rest.decode("utf-8", "replace"))

    def _heard(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            self._complained(line)
        elif event["event"] == "listening":
            where = urlsplit(str(event.get("address")))
            self.upstream = Upstream(where.hostname or "127.0.0.1", where.port or self.launch.port, reuse=False)
            self.facts = event
            self._announced.set()
        elif event["event"] == "failed":
            self._said.append(f"RuntimeError: {event.get('reason')}")

    def _complained(self, line: str) -> None:
        if line.strip():
            self._said.append(line)
            log.info("engine: %s", line)

    def _last_words(self) -> str:
        words = reason_in(self._said)
        return f": {words}" if words else ""
