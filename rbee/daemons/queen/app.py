# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen as a whole: its parts put together, started in order, stopped in the reverse of it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp

import rbee
from rbee.adapters import process
from rbee.adapters.paths import Paths, write_atomic
from rbee.adapters.secrets import Token
from rbee.adapters.splice import Splice
from rbee.adapters.store import SqliteJobStore
from rbee.contracts import codec, defaults
from rbee.contracts.configs import KnownHive, QueenConfig, boot_digest, config_digest
from rbee.core.errors import RbeeError
from rbee.daemons import access
from rbee.daemons.app import Server, build
from rbee.daemons.described import described
from rbee.daemons.jobs import JobRunner
from rbee.daemons.narrate import now
from rbee.daemons.queen.admission.clients import Clients
from rbee.daemons.queen.admission.gate import Gate
from rbee.daemons.queen.front.dispatch import Dispatcher
from rbee.daemons.queen.front.routes import Endpoints
from rbee.daemons.queen.known.catalog import Catalog
from rbee.daemons.queen.known.hives import Hives, queen_url_for
from rbee.daemons.queen.known.probe import Prober
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.routing.router import Router
from rbee.daemons.queen.scaling.starter import Starter
from rbee.daemons.queen.seen.metrics import Metrics
from rbee.daemons.queen.work.forward import Forwarder
from rbee.daemons.queen.work.infer import InferHandler
from rbee.daemons.queen.work.ops import FleetOps, all_handlers

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
ANYWHERE = ("0.0.0.0", "::")


class QueenDaemon:
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
    ) -> None:
        """Raises RbeeError (code `token_required`) for an open listener to the network."""
        self.config = config
        self._paths = paths
        self._token = token
        self._reread = reread
        self._clock = clock
        self._hive_interval = hive_interval
        self._listeners = listeners_of(config, token)
        self.registry = Registry(clock, stale_after)
        self.metrics = Metrics()
        self.started_at = ""
        self._local_hive: KnownHive | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Holds the lock, opens the store, listens, and starts to discover the hives.

        Raises RbeeError: another queen runs, a port is taken, the store is damaged. Then nothing is left behind.
        """
        self._lock = process.hold(self._paths.state / "queen.lock", "A queen")
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60))
        self._splice = Splice(clock=self._clock)
        self.started_at = now()
        self._build()
        try:
            await self.jobs.start()
            await self._server.start()
        except BaseException:
            await self.jobs.stop()
            await self._http.close()
            self._lock.release()
            raise
        self._write_run_file()
        self.hives.configure(self._known_hives())
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())
        log.info("listening on %s", ", ".join(self.urls))
        self._warn()

    def _build(self) -> None:
        self.prober = Prober(self.registry, self._http)
        self.hives = Hives(
            self.registry,
            self.prober,
            self._http,
            token=self._token,
            queen_url_for=lambda hive_url: queen_url_for(hive_url, self.local_url, self._fleet_urls, self._any_port),
            clock=self._clock,
            interval=self._hive_interval,
        )
        self.catalog = Catalog(self.registry, self.config)
        self.clients = Clients(self.config)
        self.router = Router(self.registry, self.config, self._clock)
        self.starter = Starter(self.registry, self.config)
        self.gate = Gate(self.registry, self.router, self.starter, self.config, self._clock)
        dispatcher = Dispatcher(
            registry=self.registry,
            catalog=self.catalog,
            clients=self.clients,
            gate=self.gate,
            prober=self.prober,
            splice=self._splice,
            metrics=self.metrics,
            token=self._token,
            clock=self._clock,
        )
        fleet = FleetOps(
            fleet=self.config.fleet,
            registry=self.registry,
            hives=self.hives,
            catalog=self.catalog,
            metrics=self.metrics,
            clock=self._clock,
        )
        handlers = all_handlers(
            fleet, InferHandler(dispatcher, self._clock), Forwarder(self.hives, self._http, self._token)
        )
        secrets = [self._token.reveal()] if self._token is not None else []
        self.jobs = JobRunner(SqliteJobStore(self._paths.data / "queen.db"), handlers, "queen", secrets)
        endpoints = Endpoints(
            registry=self.registry,
            hives=self.hives,
            catalog=self.catalog,
            dispatcher=dispatcher,
            metrics=self.metrics,
            token=self._token,
            info=self.info,
            reload=self.reload,
        )
        self._server = Server(build(described("queen", [*endpoints.routes(), *self.jobs.routes()])), self._listeners)

    async def stop(self, drain: float = defaults.DAEMON_DRAIN) -> None:
        """Ends jobs, lets requests in flight end (bounded), leaves hives and workers as they are."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.hives.stop()
        await self.jobs.stop()
        await self._server.stop(drain)
        await self.prober.stop()
        await self._splice.close()
        await self._http.close()
        (self._paths.state / "queen.run.json").unlink(missing_ok=True)
        self._lock.release()

    # Where it is.

    @property
    def urls(self) -> list[str]:
        """One for each listener; the clients' first."""
        return self._server.urls

    @property
    def local_url(self) -> str:
        """As processes of this machine reach it."""
        return f"http://127.0.0.1:{self._any_port}" if self._any_port is not None else self.urls[0]

    @property
    def _any_port(self) -> int | None:
        """The port of the clients' listener when that is on all addresses."""
        return self._server.ports[0] if self._listeners[0].host in ANYWHERE else None

    @property
    def _fleet_urls(self) -> list[str]:
        """What hives on other machines may be told; an address that the clients' listener covers counts too."""
        found = [u for u in self.urls if not access.is_loopback(urlsplit(u).hostname or "")]
        if self._any_port is not None:
            hosts = [access.split_address(x)[0] for x in self.config.fleet_listen]
            found += [f"http://{f'[{h}]' if ':' in h else h}:{self._any_port}" for h in hosts]
        return [u for u in found if urlsplit(u).hostname not in ANYWHERE]

    # What it is told and tells.

    def add_local_hive(self, hive: KnownHive) -> None:
        """The hive inside this process is up, at `hive.url`."""
        self._local_hive = hive
        self.hives.configure(self._known_hives())

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
        self.config = new
        for part in (self.catalog, self.clients, self.router, self.starter, self.gate):
            part.configure(new)
        self.hives.configure(self._known_hives())
        self._write_run_file()
        log.info("settings read again: %s", config_digest(new))
        self._warn()
        return config_digest(new)

    def _warn(self) -> None:
        if self.config.policies:
            log.warning("policies are kept but not evaluated: %s", ", ".join(sorted(self.config.policies)))

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


def token_digest(token: Token | None) -> str | None:
    """First 16 hex digits of the token's SHA-256: tells that the file has another one by now, and no more."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()[:16] if token is not None else None


def listeners_of(config: QueenConfig, token: Token | None) -> list[access.Listener]:
    """The clients' listener, then those for hives, without what the first one covers already."""
    first = access.listener(config.listen, token)
    found = [first]
    for said in config.fleet_listen:
        more = access.listener(said, token)
        covered = first.host in ANYWHERE and first.port == more.port
        if not covered and (more.port == 0 or all((x.host, x.port) != (more.host, more.port) for x in found)):
            found.append(more)
    return found
