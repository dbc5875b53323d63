# SPDX-License-Identifier: GPL-3.0-or-later
"""The hive's daemon: its HTTP and its jobs. It can have a process of its own or live inside the queen's."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from rbee.adapters import process, system
from rbee.adapters.paths import Paths, write_atomic
from rbee.adapters.secrets import Token
from rbee.adapters.store import SqliteJobStore
from rbee.contracts import codec, defaults
from rbee.contracts.configs import HiveConfig
from rbee.core.errors import Unavailable
from rbee.core.lifecycle import Limits
from rbee.daemons.app import Route, Server, build
from rbee.daemons.described import described
from rbee.daemons.hive import metrics, ports
from rbee.daemons.hive.hive import Hive
from rbee.daemons.job_routes import JobRoutes
from rbee.daemons.jobs import JobRunner
from rbee.daemons.lanes import Lanes
from rbee.daemons.middleware import json_response, listener_token
from rbee.daemons.writing import send_json

log = logging.getLogger(__name__)


class HiveDaemon:
    """`start`, then `stop`; not restartable. Must be made on the loop that it runs on."""

    def __init__(self, config: HiveConfig, paths: Paths, token: Token | None, limits: Limits | None = None) -> None:
        self.config = config
        self.paths = paths
        self.hive = Hive(config, paths, token, limits)
        store = SqliteJobStore(paths.data / "hive.db")
        self.hive.kept_job = store.get
        self.jobs = JobRunner(
            store,
            self.hive.handlers(),
            f"hive/{config.hive_id}",
            secrets=[token.reveal()] if token else [],
            lanes=Lanes(defaults.LANES, defaults.LANE),
        )
        self.server = Server(build(described("hive", self.routes())), [self.hive.listener])
        self._ready = False
        self._restarts = metrics.Restarts()

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/health", self._health, "open"),
            Route("GET", "/readyz", self._readyz, "open"),
            Route("GET", "/capabilities", self._capabilities),
            Route("GET", "/metrics", self._metrics),
            *JobRoutes(self.jobs).routes(),
        ]

    @property
    def url(self) -> str:
        """As others reach it; known once started."""
        return self.hive.sight.url

    async def start(self, *, heartbeats: bool = True) -> None:
        """Adopt what runs, then listen, then go on with the heartbeats of the run before.

        Without `heartbeats` they wait for a discovery: a hive inside the queen's process starts before she listens.
        Raises Conflict when another hive of these paths runs, RbeeError when it cannot listen.
        """
        try:
            await self.hive.start()
            await self.jobs.start()
            await self.server.start()
            listener, port = self.server.listeners[0], self.server.ports[0]
            self.hive.sight.url = f"http://{ports.join(ports.reachable_host(listener.host), port)}"
            await asyncio.to_thread(self._write_run_file)
            if heartbeats:
                await self.hive.heartbeat.start()
        except BaseException:
            await self.stop()
            raise
        self._ready = True
        log.info("hive %s listens on %s", self.config.hive_id, self.url)

    async def stop(self) -> None:
        """Let requests end, interrupt jobs, keep the workers running."""
        self._ready = False
        self.hive.closing()
        await self.hive.heartbeat.stop()
        await self.jobs.stop()
        await self.server.stop()
        if self.hive.held:
            (self.paths.state / "hive.run.json").unlink(missing_ok=True)
        await self.hive.stop()

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

    async def _health(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        if not self._ready:
            raise Unavailable("The hive is starting or stopping.", code="not_ready")
        return json_response({"status": "ready"})

    async def _capabilities(self, request: web.Request) -> web.StreamResponse:
        """What is here; with `queen_url`, that queen is sent heartbeats from now on."""
        queen_url = request.query.get("queen_url")
        heartbeat = self.hive.heartbeat
        if queen_url:
            named = self.config.queen_url is not None and queen_url.rstrip("/") == self.config.queen_url.rstrip("/")
            await heartbeat.discovered(queen_url, named or listener_token(request) is not None)
        return await send_json(request, await self.hive.sight.capabilities(heartbeat.queen_url))

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        hive, workers = self.hive, await self.hive.supervisor.records()
        seen = metrics.Seen(
            workers=workers,
            restarts=self._restarts.seen(workers),
            models=tuple(await asyncio.to_thread(hive.models.list)),
            added_bytes=hive.added_bytes,
            downloads=hive.downloads.list(),
            devices=await hive.devices.list(),
            memory=await asyncio.to_thread(system.memory),
            lanes=self.jobs.lanes(),
            ended=self.jobs.ended,
            heartbeats_sent=hive.heartbeat.sent,
            preloaded=await hive.preloader.cached(),
            preload_budget=await hive.preloader.budget(),
            preload=hive.preloader.counts,
            usage=await asyncio.to_thread(system.own_usage),
        )
        text = metrics.render(seen)
        return web.Response(body=text.encode(), headers={"Content-Type": metrics.CONTENT_TYPE})
