# SPDX-License-Identifier: GPL-3.0-or-later
"""HiveInstall, HiveStart, HiveStop, HiveUninstall: a hive's daemon on its machine, over SSH, as her settings say.

SSH blocks, so it has threads of its own; a cancelled job closes its connection. The hive of the queen's own machine
lives inside her process and is none that could be stopped or installed by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rbee.adapters import machines
from rbee.adapters.paths import Paths
from rbee.adapters.secrets import Token
from rbee.contracts import defaults
from rbee.contracts.configs import HiveConfig, KnownHive
from rbee.contracts.operations import hives as ops
from rbee.core.errors import Conflict, RbeeError, Unreachable
from rbee.core.facts import MachineFacts
from rbee.daemons.jobs import Handler, JobContext
from rbee.daemons.queen.known.hives import Hive, Hives
from rbee.daemons.queen.work.worker_stop import Stopped, WorkerStopper
from rbee.fleet import one_hive
from rbee.fleet.ports import Shell
from rbee.fleet.settings import join_address, split_address

T = TypeVar("T")
#: Steps of a transfer that are told.
_TENTHS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What the queen is for those that she installs and starts: her fleet, release, token, and address."""

    fleet: str
    release: str
    paths: Paths
    token: Token | None
    queen_url_for: Callable[[str], str | None]


class HiveLifecycle:
    """Handlers. `open_shell` reaches a machine; it is given the hive's name and how."""

    def __init__(
        self,
        hives: Hives,
        stopper: WorkerStopper,
        home: Home,
        *,
        open_shell: Callable[..., Shell] = machines.open_shell,
    ) -> None:
        self._hives = hives
        self._stopper = stopper
        self._home = home
        self._open_shell = open_shell

    def handlers(self) -> dict[str, Handler]:
        return {
            "HiveInstall": self.install,
            "HiveStart": self.start,
            "HiveStop": self.stop,
            "HiveUninstall": self.uninstall,
        }

    async def install(self, ctx: JobContext, request: ops.HiveInstall) -> ops.HiveInstallResponse:
        """Only what is missing is sent. Raises Unreachable, Insufficient, RbeeError."""
        hive = self.remote(request.hive_id)
        name = hive.known.hive_id
        ctx.narrate("hive_install_start", f"Installing rbee on the machine of {name}.", hive_id=name)

        def work(shell: Shell) -> tuple[str, bool]:
            facts = one_hive.observe(shell, name)
            bundler, installer = machines.installing(self._home.paths)
            return one_hive.install(shell, facts, self._home.fleet, bundler, installer, _progress(ctx, name))

        release, installed = await self._there(hive, work)
        text = f"rbee {release} is installed on {name}." if installed else f"{name} has rbee {release} already."
        ctx.narrate("hive_install_complete", text, hive_id=name, release=release, installed=installed)
        return ops.HiveInstallResponse(hive_id=name, release=release, installed=installed)

    async def start(self, ctx: JobContext, request: ops.HiveStart) -> ops.HiveStartResponse:
        """Raises RbeeError `no_release`, `start_failed`, `not_discovered`; Unreachable."""
        hive = self.remote(request.hive_id)
        name, url = hive.known.hive_id, hive.known.url
        ctx.narrate("hive_start", f"Starting the hive {name}.", hive_id=name)

        def work(shell: Shell) -> list[str]:
            facts, home = one_hive.observe(shell, name), self._home
            token = home.token.reveal() if home.token is not None else ""
            config = partial(self._config, hive.known)
            return one_hive.start(shell, facts, home.fleet, prefer=home.release, token=token, config=config)

        for note in await self._there(hive, work):
            ctx.narrate("hive_start_note", note, "warning", hive_id=name)
        ctx.narrate("hive_start_wait", f"It runs; waiting until it is discovered at {url}.", hive_id=name)
        if not await self._hives.heard(hive, defaults.DAEMON_START_TIMEOUT):
            raise RbeeError(
                f"The hive {name} runs, but cannot be reached at {url}: {hive.error or 'no answer yet'}",
                code="not_discovered",
                mend="Its port must be open to this machine (a firewall?); `listen:` in rbee.yaml says where it is.",
            )
        message = f"The hive {name} runs at {url}."
        ctx.narrate("hive_start_complete", message, hive_id=name, url=url)
        return ops.HiveStartResponse(hive_id=name, url=url, message=message)

    async def stop(self, ctx: JobContext, request: ops.HiveStop) -> ops.HiveStopResponse:
        """Raises RbeeError `workers_left` when `workers` is asked for and one of them does not end: then the hive
        goes on, to look after it. Unreachable."""
        hive = self.remote(request.hive_id)
        name = hive.known.hive_id
        stopped = await self._stop_workers(ctx, hive) if request.workers else 0
        await self.stop_daemon(ctx, hive)
        what = f"{_many(stopped)} and the hive {name} are stopped." if stopped else f"The hive {name} is stopped."
        return ops.HiveStopResponse(hive_id=name, workers_stopped=stopped, message=what)

    async def uninstall(self, ctx: JobContext, request: ops.HiveUninstall) -> ops.HiveUninstallResponse:
        """Its workers run in the release that goes, so they are stopped first, as far as its daemon is there."""
        hive = self.remote(request.hive_id)
        name = hive.known.hive_id

        def look(shell: Shell) -> MachineFacts:
            return one_hive.observe(shell, name)

        facts = await self._there(hive, look)
        alive = facts.hive is not None and facts.hive.alive
        if alive:
            await self._stop_workers(ctx, hive)
        elif any(w.alive for w in facts.workers):
            raise Conflict(
                f"Workers of {name} run on without their hive.", code="workers_left", mend="Start the hive first."
            )
        if one_hive.releases(facts, self._home.fleet):
            await self.stop_daemon(ctx, hive)
        ctx.narrate("hive_uninstall_start", f"Removing rbee from the machine of {name}.", hive_id=name)
        await self._there(hive, lambda shell: one_hive.uninstall(shell, facts, self._home.fleet))
        message = f"rbee is removed from the machine of {name}; models and engines stay."
        ctx.narrate("hive_uninstall_complete", message, hive_id=name)
        return ops.HiveUninstallResponse(hive_id=name, message=message)

    async def stop_daemon(self, ctx: JobContext, hive: Hive) -> None:
        """By its supervisor, so that it does not come back; workers that are left go on. Raises RbeeError."""
        name = hive.known.hive_id
        ctx.narrate("hive_stop_start", f"Stopping the hive {name}.", hive_id=name)

        def work(shell: Shell) -> None:
            one_hive.stop(shell, one_hive.observe(shell, name), self._home.fleet)

        await self._there(hive, work)
        hive.wake.set()  # so that it is seen to be gone
        ctx.narrate("hive_stop_complete", f"The hive {name} is stopped.", hive_id=name)

    async def _stop_workers(self, ctx: JobContext, hive: Hive) -> int:
        found: Stopped = await self._stopper.stop_all(ctx, hive.known.hive_id)
        if found.failed:
            raise Conflict(f"Not all of its workers ended: {'; '.join(found.failed)}.", code="workers_left")
        return found.stopped

    def remote(self, hive_id: str) -> Hive:
        """Raises NotFound, Conflict `local_hive`, RbeeError `no_ssh`."""
        hive = self._hives.get(hive_id)
        known = hive.known
        if known.hive_id == self._hives.local:
            raise Conflict(
                f"The hive {known.hive_id!r} lives inside the queen's own process: it starts and stops with her.",
                code="local_hive",
                mend="Stop her with `rbee queen stop`, start her with `rbee apply`.",
            )
        if known.ssh is None:
            raise RbeeError(
                f"The queen's settings do not say how the machine of hive {known.hive_id!r} is reached.",
                code="no_ssh",
                mend="Give it `ssh:` in rbee.yaml and apply.",
            )
        return hive

    async def _there(self, hive: Hive, work: Callable[[Shell], T]) -> T:
        """`work` done with that machine's shell, in a thread."""
        opened: list[Shell] = []

        def run() -> T:
            shell = self._open_shell(hive.known.hive_id, hive.known.ssh)
            opened.append(shell)
            try:
                return work(shell)
            finally:
                shell.close()

        try:
            return await asyncio.to_thread(run)
        except asyncio.CancelledError:
            for shell in opened:  # what the thread waits for ends with its connection
                asyncio.get_running_loop().run_in_executor(None, shell.close)
            raise
        except OSError as e:
            raise Unreachable(f"{hive.known.hive_id}: {e.strerror or e}") from None

    def _config(self, known: KnownHive, facts: MachineFacts, release: str) -> HiveConfig:
        """For a hive that lost its settings: where the queen looks for it, with her token and her address."""
        place = known.url.removeprefix("http://")
        return HiveConfig(
            hive_id=known.hive_id,
            fleet=self._home.fleet,
            listen=join_address(*split_address(place)),
            token_file=facts.roots.token if self._home.token is not None else None,
            queen_url=self._home.queen_url_for(known.url),
            release=release,
        )


def _progress(ctx: JobContext, hive: str) -> Callable[[int, int], None]:
    """Tells a transfer by tenths."""
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        tenth = done * _TENTHS // total if total else _TENTHS
        if tenth > told:
            told = tenth
            text = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB are there."
            ctx.narrate("hive_install_progress", text, hive_id=hive, bytes_sent=done, total_bytes=total)

    return progress


def _many(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"
