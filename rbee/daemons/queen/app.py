# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen as a whole: its parts put together, started in order, stopped in the reverse of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import aiohttp

import rbee
from rbee.adapters import process
from rbee.adapters.paths import Paths, write_atomic
from rbee.adapters.secrets import Token
from rbee.adapters.splice import Splice
from rbee.adapters.store.choose import store_of
from rbee.adapters.system import now
from rbee.contracts import codec, defaults
from rbee.contracts.configs import KnownHive, QueenConfig, boot_digest, config_digest
from rbee.core.errors import RbeeError
from rbee.daemons.queen.admission.clients import Clients
from rbee.daemons.queen.ending import Ending
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.place import Place, listeners_of, token_digest
from rbee.daemons.queen.rooms import Rooms
from rbee.daemons.queen.scaling.scaler import Pace
from rbee.daemons.queen.seen.metrics import Metrics

log = logging.getLogger(__name__)

_SWEEP_EVERY = 5.0
#: Settings that ask for a restart when they change.
_FIXED = (
    "fleet",
    "listen",
    "fleet_listen",
    "token_file",
    "local_hive",
    "release",
    "store",
    "store_password_file",
    "traces",
)


class QueenDaemon(Rooms):
    """One queen. `reread` gives the settings anew, for reloads; raises RbeeError when they are wrong."""

    def __init__(
        self,
        config: QueenConfig,
        paths: Paths,
        token: Token | None,
        *,
        reread: Callable[[], QueenConfig] | None = None,
        clock: Callable[[], float] = time.monotonic,
        stale_after: float = defaults.STALE_AFTER,
        hive_interval: float = defaults.HEARTBEAT_INTERVAL,
        scaling: Pace | None = None,
    ) -> None:
        """Raises RbeeError: an open listener to the network (code `token_required`), a key file that is no good."""
        self.config = config
        self._paths = paths
        self._token = token
        self._reread = reread
        self._clock = clock
        self._hive_interval = hive_interval
        self._scaling = scaling or Pace()
        self._listeners = listeners_of(config, token)
        self.clients = Clients(config, token)
        self.registry = Registry(clock, stale_after)
        self.metrics = Metrics()
        self.ending = Ending(active=lambda: self.metrics.active, on_refuse=self._refuse_jobs)
        self.started_at = ""
        self._local_hive: KnownHive | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Holds the lock, opens the store, listens, and starts to discover the hives.

        Raises RbeeError: another queen runs, a port is taken, the store is damaged. Then nothing is left behind.
        """
        async with contextlib.AsyncExitStack() as opened:
            self.store = store_of(self.config, self._paths)
            self._lock = process.hold(self._paths.state / "queen.lock", "A queen")
            opened.callback(self._lock.release)
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60))
            opened.push_async_callback(self._http.close)
            self._splice = Splice(clock=self._clock)
            self.started_at = now()
            self._build()
            opened.push_async_callback(self.seen.stop)
            opened.push_async_callback(self.jobs.stop)
            await self.jobs.start()
            await self._server.start()
            opened.push_async_callback(self._server.stop, 0.0)
            self._write_run_file()
            opened.pop_all()
        self._configure_hives()
        self.together.start()
        self.rates.start()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())
        self.scaler.start()
        self.seen.start()
        log.info("listening on %s", ", ".join(self.urls))

    def _refuse_jobs(self) -> None:
        self.jobs.refuse()

    @property
    def stopping(self) -> bool:
        """New requests are refused."""
        return self.ending.stopping

    async def stop(self, drain: float = defaults.DAEMON_DRAIN) -> None:
        """Refuses requests, lets those in flight end (bounded), ends jobs, leaves hives and workers as they are."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.ending.refuse()
        left = await self.ending.drained(drain)
        if left:
            log.warning("%d requests did not end in time", left)
            drain = 0.0
        self._forwarder.closing = True
        await self.scaler.stop()
        await self.starter.stop()
        await self.quarantine.stop()
        self.together.stop()
        self.rates.stop()
        await self.hives.stop()
        await self.jobs.stop()
        await self._server.stop(drain)
        await self.prober.stop()
        await self._splice.close()
        await self._http.close()
        await self.seen.stop()
        (self._paths.state / "queen.run.json").unlink(missing_ok=True)
        self._lock.release()

    # Where it is.

    @property
    def urls(self) -> list[str]:
        """One for each listener; the clients' first."""
        return self._server.urls

    @property
    def place(self) -> Place:
        return Place(urls=self.urls, ports=self._server.ports, listeners=self._listeners, config=self.config)

    @property
    def local_url(self) -> str:
        """As processes of this machine reach it."""
        return self.place.local_url

    def _queen_url_for(self, hive_url: str) -> str | None:
        return self.place.towards(hive_url)

    # What it is told and tells.

    def add_local_hive(self, hive: KnownHive) -> None:
        """The hive inside this process is up, at `hive.url`."""
        self._local_hive = hive
        self._configure_hives()

    def _configure_hives(self) -> None:
        """Connections to the workers of hives that are gone are closed as they get idle; streams end as they do."""
        local = self._local_hive.hive_id if self._local_hive is not None else None
        self.hives.local = local or (self.config.local_hive.hive_id if self.config.local_hive is not None else None)
        for worker in self.hives.configure(self._known_hives()):
            log.info("worker %s is forgotten: its hive %s is gone", worker.worker_id, worker.beat.hive_id)
            self._splice.drop(worker.upstream)

    def _known_hives(self) -> list[KnownHive]:
        known = {h.hive_id: h for h in self.config.hives}
        local = self._local_hive
        if local is not None:
            labels = known[local.hive_id].labels if local.hive_id in known else local.labels
            known[local.hive_id] = KnownHive(hive_id=local.hive_id, url=local.url, labels=labels)
        return list(known.values())

    def reload(self) -> str:
        """Reads the settings again: models, aliases, policies, hives. The new digest.

        Listeners, the token and the local hive need a restart: their change is refused, and so is anything
        unreadable; then the old settings stay. Raises RbeeError.
        """
        if self._reread is None:
            raise RbeeError("This queen was given its settings directly.", code="no_settings_file")
        new = self._reread()
        for name in _FIXED:
            if getattr(new, name) != getattr(self.config, name):
                raise RbeeError(
                    f"A change of {name} needs a restart of the queen.", code="restart_needed", mend="Restart it."
                )
        self._take(new)
        self.config = new
        self._configure_hives()
        self._write_run_file()
        log.info("settings read again: %s", config_digest(new))
        return config_digest(new)

    def _take(self, new: QueenConfig) -> None:
        """Every part has the new settings, or, when one of them refuses, all have the old ones."""
        parts = (
            self.catalog,
            self.clients,
            self.router,
            self.starter,
            self.scaler,
            self.gate,
            self.dispatcher,
            self.quarantine,
            self.models,
            self.seen,
        )
        try:
            for part in parts:
                part.configure(new)
        except BaseException:
            for part in parts:
                try:
                    part.configure(self.config)
                except RbeeError as e:  # a file that was there is gone: the part has what it has read of it
                    log.error("%s: %s", type(part).__name__, e)
            raise

    def reload_quietly(self) -> None:
        """`reload` for a signal: an error is logged."""
        try:
            self.reload()
        except RbeeError as e:
            log.error("the settings were not taken: %s", e)

    def info(self) -> dict[str, Any]:
        """Answer of `GET /v1/queen`: plan observes the queen by it."""
        return {
            "fleet": self.config.fleet,
            "version": rbee.__version__,
            "release": self.config.release,
            "config_digest": config_digest(self.config),
            "boot_digest": boot_digest(self.config),
            "token_digest": token_digest(self._token),
            "hives": [self.hives.summary(h) for _, h in sorted(self.hives.by_id.items())],
            "pid": os.getpid(),
            "started_at": self.started_at,
            "urls": self.urls,
        }

    def _write_run_file(self) -> None:
        me = process.myself()
        said = {
            "pid": me.pid,
            "start_time": me.start_time,
            "url": self.local_url,
            "fleet": self.config.fleet,
            "version": rbee.__version__,
            "release": self.config.release,
            "config_digest": config_digest(self.config),
        }
        write_atomic(self._paths.state / "queen.run.json", codec.encode_pretty(said), mode=0o600)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY)
            for worker in self.registry.sweep():
                log.info("worker %s is forgotten: silent for %.0f s", worker.worker_id, self.registry.age(worker))
                self._splice.drop(worker.upstream)
