# SPDX-License-Identifier: GPL-3.0-or-later
"""The hive: everything on one machine. It can have a process of its own or live inside the queen's."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from rbee.adapters import process, system
from rbee.adapters.catalog import ModelCatalog, WorkerBinaryCatalog
from rbee.adapters.paths import Paths, write_atomic
from rbee.adapters.secrets import Token
from rbee.adapters.sources import Builtin, HuggingFace, LocalFile, Url
from rbee.adapters.store import SqliteJobStore
from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig
from rbee.contracts.heartbeat import MonitorData
from rbee.core.errors import Unavailable
from rbee.daemons import access
from rbee.daemons.app import Route, Server, build
from rbee.daemons.described import described
from rbee.daemons.hive import metrics, ports
from rbee.daemons.hive.devices import Devices
from rbee.daemons.hive.downloads import Downloads
from rbee.daemons.hive.heartbeat import Heartbeat
from rbee.daemons.hive.hive_ops import HiveOps, only_for
from rbee.daemons.hive.model_ops import ModelOps
from rbee.daemons.hive.sight import Sight
from rbee.daemons.hive.supervisor import Supervisor
from rbee.daemons.hive.worker_ops import WorkerOps
from rbee.daemons.jobs import JobRunner
from rbee.daemons.middleware import json_response, listener_token

log = logging.getLogger(__name__)


class HiveDaemon:
    """`start`, then `stop`; not restartable. Must be made on the loop that it runs on."""

    def __init__(self, config: HiveConfig, paths: Paths, token: Token | None) -> None:
        self.config = config
        self.paths = paths
        self._headers = token.header if token else {}
        listener = access.listener(config.listen, token)
        self.models = ModelCatalog(paths.models)
        binaries = WorkerBinaryCatalog(paths.worker_binaries)
        self.heartbeat = Heartbeat(
            config.hive_id, config.heartbeat_interval, paths.state / "hive.queen.json", self._headers, self._monitor
        )
        self.supervisor = Supervisor(
            paths.workers, listener.host, config.worker_ports, system.cores, self.heartbeat.worker_changed
        )
        self.devices = Devices(self.supervisor.on_device)
        self._sight = Sight(config, paths, self.devices, self.models, binaries, self.supervisor)
        sources = (HuggingFace(paths.config / "hf-token"), Url(), LocalFile(), Builtin())
        self.downloads = Downloads(self.models, sources, self.heartbeat.model_changed)
        token_file = _token_file(config, paths) if token else None
        handlers = {
            **ModelOps(self.models, self.downloads, self.supervisor).handlers(),
            **WorkerOps(
                config, token_file, self.supervisor, self.models, binaries, self.devices, self.heartbeat
            ).handlers(),
            **self.devices.handlers(),
            **HiveOps(config.hive_id).handlers(),
        }
        self.jobs = JobRunner(
            SqliteJobStore(paths.data / "hive.db"),
            only_for(config.hive_id, handlers),
            f"hive/{config.hive_id}",
            secrets=[token.reveal()] if token else [],
        )
        self.server = Server(build(described("hive", self.routes())), [listener])
        self._ready = False
        self._lock: process.Lock | None = None

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/health", self._health, "open"),
            Route("GET", "/readyz", self._readyz, "open"),
            Route("GET", "/capabilities", self._capabilities),
            Route("GET", "/metrics", self._metrics),
            *self.jobs.routes(),
        ]

    @property
    def url(self) -> str:
        """As others reach it; known once started."""
        return self._sight.url

    async def start(self, *, heartbeats: bool = True) -> None:
        """Adopt what runs, then listen, then go on with the heartbeats of the run before.

        Without `heartbeats` they wait for a discovery: a hive inside the queen's process starts before she listens.
        Raises Conflict when another hive of these paths runs, RbeeError when it cannot listen.
        """
        self._lock = process.hold(self.paths.state / "hive.lock", "A hive")
        try:
            await asyncio.to_thread(self._tidy)
            await self.supervisor.start(self._headers)
            await self.jobs.start()
            await self.server.start()
            listener, port = self.server.listeners[0], self.server.ports[0]
            self._sight.url = f"http://{ports.join(ports.reachable_host(listener.host), port)}"
            await asyncio.to_thread(self._write_run_file)
            if heartbeats:
                await self.heartbeat.start()
        except BaseException:
            await self.stop()
            raise
        self._ready = True
        log.info("hive %s listens on %s", self.config.hive_id, self.url)

    async def stop(self) -> None:
        """Let requests end, interrupt jobs, keep the workers running."""
        self._ready = False
        self.supervisor.closing = True
        await self.heartbeat.stop()
        await self.jobs.stop()
        await self.downloads.stop()
        await self.server.stop()
        await self.supervisor.stop()
        (self.paths.state / "hive.run.json").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()

    def _tidy(self) -> None:
        """Downloads that the hive before this one had running are told as what they are."""
        self.models.sweep()
        for record in self.models.list():
            if record.status == "downloading":
                error = "The hive ended during the download; download it again to go on."
                self.models.put(replace(record, status="failed", error=error), system.now())

    def _write_run_file(self) -> None:
        me = process.myself()
        run = {
            "pid": me.pid,
            "start_time": me.start_time,
            "url": self.url,
            "hive_id": self.config.hive_id,
            "fleet": self.config.fleet,
            "release": self.config.release,
        }
        write_atomic(self.paths.state / "hive.run.json", codec.encode_pretty(run), 0o600)

    async def _monitor(self) -> MonitorData:
        return await self._sight.monitor()

    async def _health(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        if not self._ready:
            raise Unavailable("The hive is starting or stopping.", code="not_ready")
        return web.Response(text="ready")

    async def _capabilities(self, request: web.Request) -> web.StreamResponse:
        """What is here; with `queen_url`, that queen is sent heartbeats from now on."""
        queen_url = request.query.get("queen_url")
        if queen_url:
            named = self.config.queen_url is not None and queen_url.rstrip("/") == self.config.queen_url.rstrip("/")
            await self.heartbeat.discovered(queen_url, named or listener_token(request) is not None)
        return json_response(await self._sight.capabilities(self.heartbeat.queen_url))

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        text = metrics.render(
            workers=await self.supervisor.records(),
            models=await asyncio.to_thread(self.models.list),
            memory=await asyncio.to_thread(system.memory),
            jobs_running=self.jobs.running,
            heartbeats_sent=self.heartbeat.sent,
        )
        return web.Response(body=text.encode(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _token_file(config: HiveConfig, paths: Paths) -> Path:
    return Path(config.token_file) if config.token_file else paths.token
