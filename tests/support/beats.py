# SPDX-License-Identifier: GPL-3.0-or-later
"""A queen that only takes heartbeats, and a hive that sends them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from rbee.adapters.paths import Paths
from rbee.adapters.secrets import Token
from rbee.contracts import codec
from rbee.contracts.heartbeat import HiveHeartbeat
from rbee.daemons.hive.app import HiveDaemon
from tests.support.files_server import serving
from tests.support.hive import settings
from tests.support.ports import free_range


@dataclass
class FakeQueen:
    """Takes heartbeats, or refuses them with `status`."""

    url: str = ""
    status: int = 200
    beats: list[HiveHeartbeat] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    strangers: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def beat(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        if 300 <= self.status < 400:
            return web.Response(status=self.status, headers={"Location": f"{self.url}/elsewhere"})
        self.bodies.append(json.loads(await request.read()))
        if self.status == 200:
            self.beats.append(codec.decode(HiveHeartbeat, await request.read()))
        return web.Response(status=self.status)

    async def strange(self, request: web.Request) -> web.StreamResponse:
        self.strangers += 1
        return web.Response()

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(m.action, m.model_id) for b in self.beats if b.capability_changes for m in b.capability_changes.models]


@asynccontextmanager
async def taking() -> AsyncIterator[FakeQueen]:
    made = FakeQueen()
    app = web.Application()
    app.router.add_post("/v1/hive-heartbeat", made.beat)
    app.router.add_post("/elsewhere", made.strange)
    async with serving(app) as url:
        made.url = url
        yield made


@asynccontextmanager
async def running(paths: Paths, token: Token | None = None, **changes: object) -> AsyncIterator[HiveDaemon]:
    daemon = HiveDaemon(settings(free_range(), **changes), paths, token)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()
