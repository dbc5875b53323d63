# SPDX-License-Identifier: GPL-3.0-or-later
"""A queen in this process on free ports, mock workers that heartbeat to it, and a small hive to forward to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from rbee.adapters.paths import Paths
from rbee.adapters.secrets import Token
from rbee.adapters.store import SqliteJobStore
from rbee.contracts import codec
from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import KnownHive, KnownModel, QueenConfig
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.core.records import ModelRecord, SystemInfo, WorkerRecord
from rbee.daemons.access import Listener
from rbee.daemons.app import Route, Server, build
from rbee.daemons.job_routes import JobRoutes
from rbee.daemons.jobs import Handler, JobRunner
from rbee.daemons.middleware import json_response
from rbee.daemons.queen.app import QueenDaemon
from tests.support.mock_engine import MockEngine

MODEL = "llama"


def paths_in(root: Path) -> Paths:
    return Paths(config=root / "config", cache=root / "cache", data=root / "data", state=root / "state")


def queen_config(**changes: Any) -> QueenConfig:
    settings: dict[str, Any] = {
        "fleet": "test",
        "listen": "127.0.0.1:0",
        "models": (KnownModel(name=MODEL),),
        "aliases": {"gpt": (MODEL,)},
    }
    return QueenConfig(**{**settings, **changes})


def beat(worker_id: str, port: int, **changes: Any) -> WorkerHeartbeat:
    said: dict[str, Any] = {
        "worker_id": worker_id,
        "hive_id": "h1",
        "model": MODEL,
        "engine": "mock",
        "worker_type": "cpu",
        "device": "cpu",
        "url": f"http://127.0.0.1:{port}",
        "status": "ready",
        "slots": 4,
        "started_at": "2026-01-01T00:00:00Z",
    }
    return WorkerHeartbeat(**{**said, **changes})


@dataclass
class Client:
    """Talks to the queen as a program would."""

    queen: QueenDaemon
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.queen.local_url

    async def heartbeat(self, said: WorkerHeartbeat, token: Token | None = None) -> int:
        headers = token.header if token is not None else {}
        url = f"{self.url}/v1/worker-heartbeat"
        async with self.http.post(url, data=codec.encode(said), headers=headers) as answer:
            return answer.status

    def chat(self, model: str | None = MODEL, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
        return self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    async def get(self, path: str) -> Any:
        async with self.http.get(f"{self.url}{path}") as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def submit(self, name: str, **fields: Any) -> str:
        async with self.http.post(f"{self.url}/v1/jobs", json={"operation": {name: fields}}) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["job_id"])

    async def events(self, job_id: str) -> str:
        async with self.http.get(f"{self.url}/v1/jobs/{job_id}/stream") as answer:
            return await answer.text()

    async def run(self, name: str, **fields: Any) -> Any:
        """The ended job of an operation."""
        job_id = await self.submit(name, **fields)
        await self.events(job_id)
        return await self.get(f"/v1/jobs/{job_id}")


@contextlib.asynccontextmanager
async def queen_in(
    root: Path, config: QueenConfig | None = None, token: Token | None = None, **more: Any
) -> AsyncIterator[Client]:
    queen = QueenDaemon(config or queen_config(), paths_in(root), token, **more)
    await queen.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Client(queen, http)
    finally:
        await queen.stop(drain=1)


@contextlib.asynccontextmanager
async def workers(
    client: Client, *names: str, token: Token | None = None, **changes: Any
) -> AsyncIterator[list[MockEngine]]:
    """Mock workers that have told the queen that they are ready."""
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(MockEngine()) for _ in names]
        for name, engine in zip(names, engines, strict=True):
            assert await client.heartbeat(beat(name, engine.port, **changes), token) == 200
        yield engines


@dataclass
class FakeHive:
    """A hive of the daemon kit: capabilities, and jobs by the handlers given."""

    hive_id: str = "h1"
    token: Token | None = None
    records: list[WorkerRecord] = field(default_factory=list)
    models: list[ModelRecord] = field(default_factory=list)
    handlers: dict[str, Handler] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int = 0
    #: Answers to `POST /v1/jobs` wait for it.
    delay: asyncio.Event = field(default_factory=lambda: _set(asyncio.Event()))

    @contextlib.asynccontextmanager
    async def run(self, root: Path) -> AsyncIterator[FakeHive]:
        self.runner = JobRunner(SqliteJobStore(root / f"{self.hive_id}.db"), self.handlers, f"hive/{self.hive_id}")
        await self.runner.start()
        jobs = map(self._delayed, JobRoutes(self.runner).routes())
        routes = [Route("GET", "/capabilities", self.capabilities), *jobs]
        server = Server(build(routes), [Listener("127.0.0.1", self.port, self.token)])
        await server.start()
        self.port = server.ports[0]
        try:
            yield self
        finally:
            await self.runner.stop()
            await server.stop(drain=0.2)

    def _delayed(self, route: Route) -> Route:
        async def handler(request: web.Request) -> web.StreamResponse:
            answer = await route.handler(request)
            await self.delay.wait()
            return answer

        return replace(route, handler=handler) if route.method == "POST" else route

    @property
    def known(self) -> KnownHive:
        return KnownHive(hive_id=self.hive_id, url=f"http://127.0.0.1:{self.port}")

    async def capabilities(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.query.get("queen_url", ""))
        system = SystemInfo(
            hostname="x", os="linux", arch="x86_64", cpu_cores=2, memory_total=1, memory_available=1, disk_free=1
        )
        return json_response(
            Capabilities(
                hive_id=self.hive_id,
                fleet="test",
                version="0",
                release="",
                config_digest="",
                started_at="2026-01-01T00:00:00Z",
                url=self.known.url,
                system=system,
                models=tuple(self.models),
                workers=tuple(self.records),
            )
        )


def _set(event: asyncio.Event) -> asyncio.Event:
    event.set()
    return event


def record(worker_id: str, port: int, **changes: Any) -> WorkerRecord:
    said: dict[str, Any] = {
        "worker_id": worker_id,
        "model": MODEL,
        "engine": "mock",
        "worker_type": "cpu",
        "device": "cpu",
        "port": port,
        "url": f"http://127.0.0.1:{port}",
        "pid": 1,
        "status": "ready",
        "started_at": "2026-01-01T00:00:00Z",
    }
    return WorkerRecord(**{**said, **changes})
