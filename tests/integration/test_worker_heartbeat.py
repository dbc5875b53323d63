# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker's heartbeats, as a queen on loopback hears them."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from rbee.adapters.secrets import Token
from rbee.contracts import codec
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.daemons.worker.app import WorkerDaemon
from rbee.daemons.worker.heartbeat import Heartbeat
from rbee.daemons.worker.state import WorkerState
from tests.support.ports import free_port
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.waiting import eventually
from tests.support.workers import worker_config


class Queen:
    """Takes heartbeats on a port of loopback; `status` is what it answers."""

    def __init__(self) -> None:
        self.port = free_port()
        self.heard: list[WorkerHeartbeat] = []
        self.authorization: set[str] = set()
        self.connections: set[object] = set()
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _take(self, request: web.Request) -> web.Response:
        self.heard.append(codec.decode(WorkerHeartbeat, await request.read()))
        self.authorization.add(request.headers.get("Authorization", ""))
        self.connections.add(request.transport)
        return web.Response(status=self.status)

    async def __aenter__(self) -> Queen:
        app = web.Application()
        app.router.add_post("/v1/worker-heartbeat", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def test_starting_ready_and_stopping_reach_the_queen(tmp_path: Path) -> None:
    config = worker_config(write_tiny_gguf(tmp_path / "tiny.gguf"))
    async with Queen() as queen:
        config = worker_config(tmp_path / "tiny.gguf", queen_url=queen.url, heartbeat_interval=600)
        daemon = WorkerDaemon(config, Token("a-token-of-the-fleet"))
        await daemon.start()
        await eventually(lambda: queen.heard and queen.heard[-1].status == "ready")
        await daemon.stop()
    assert queen.heard[0].status == "starting"
    assert queen.heard[-1].status == "stopping"
    assert {h.started_at for h in queen.heard} == {daemon.state.started_at}
    assert (queen.heard[-1].slots, queen.heard[-1].context_length, queen.heard[-1].url) == (2, 1024, config.url)
    assert queen.authorization == {"Bearer a-token-of-the-fleet"}
    assert len(queen.connections) == 1


async def test_many_changes_are_few_heartbeats_and_the_last_is_true(tmp_path: Path) -> None:
    state = WorkerState(worker_config(tmp_path), "now", slots=1, context_length=None)
    async with Queen() as queen:
        heartbeat = Heartbeat(queen.url, None, state, 600)
        heartbeat.start()
        state.enter("serving")
        for _ in range(500):
            with state.request():
                assert state.status == "busy"
        with state.request():
            await eventually(lambda: queen.heard and queen.heard[-1].requests_handled == 500)
        await heartbeat.stop()
    assert queen.heard[-1].status == "busy"
    assert len(queen.heard) <= 3


async def test_a_queen_that_was_away_is_told_when_she_is_back(tmp_path: Path) -> None:
    state = WorkerState(worker_config(tmp_path), "now", slots=1, context_length=None)
    queen = Queen()
    heartbeat = Heartbeat(queen.url, None, state, 600)
    heartbeat.start()
    state.enter("serving")
    async with queen:
        queen.status = 503
        await eventually(lambda: queen.heard)
        queen.status = 200
        await eventually(lambda: len(queen.heard) >= 2)
    await heartbeat.stop()
    assert queen.heard[-1].status == "ready"


async def test_a_model_that_loads_is_told_of_as_it_goes(tmp_path: Path) -> None:
    state = WorkerState(worker_config(tmp_path), "now", slots=1, context_length=None)
    far = iter((0.25, 0.5))
    state.progress = lambda: next(far, 0.75)
    async with Queen() as queen:
        heartbeat = Heartbeat(queen.url, None, state, 600)
        heartbeat.start()
        await eventually(lambda: [h.progress for h in queen.heard][:3] == [0.25, 0.5, 0.75])
        state.enter("serving")
        await eventually(lambda: queen.heard[-1].status == "ready")
        await heartbeat.stop()
    assert queen.heard[-1].progress is None
    assert queen.heard[-1].paths == ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
