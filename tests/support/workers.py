# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers for tests: settings, a daemon in this process, or the real process with `--config`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from rbee.contracts import codec
from rbee.contracts.configs import WorkerConfig
from rbee.core.providers import EngineProvider
from rbee.core.spec import WorkerOptions
from rbee.daemons.worker.app import WorkerDaemon
from rbee.daemons.worker.supervisor import Limits
from tests.support.ports import free_port
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


def llama_cpp() -> EngineProvider:
    """The provider that rbee ships."""
    text = (ROOT / "providers" / "engines" / "llama-cpp.yaml").read_text()
    return codec.convert(EngineProvider, yaml.safe_load(text))


def worker_config(model_path: Path, **changes: Any) -> WorkerConfig:
    """Settings of a one-thread worker on a free port of loopback."""
    port = free_port()
    said: dict[str, Any] = {
        "worker_id": "w-1",
        "hive_id": "h-1",
        "fleet": "test",
        "model": "tiny",
        "model_path": str(model_path),
        "provider": llama_cpp(),
        "engine_python": sys.executable,
        "worker_type": "cpu",
        "device": "cpu",
        "listen": f"127.0.0.1:{port}",
        "url": f"http://127.0.0.1:{port}",
        "options": WorkerOptions(context_length=1024, parallel=2, threads=1),
        **changes,
    }
    return WorkerConfig(**said)


class Running:
    """A worker and a client of it."""

    def __init__(self, config: WorkerConfig, client: aiohttp.ClientSession, daemon: WorkerDaemon | None) -> None:
        self.config = config
        self.client = client
        self._daemon = daemon

    @property
    def daemon(self) -> WorkerDaemon:
        assert self._daemon is not None
        return self._daemon

    async def post(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        async with self.client.post(path, json=body, **more) as answer:
            return answer.status, await answer.json()

    async def info(self) -> Any:
        async with self.client.get("/info") as answer:
            return await answer.json()

    async def engine_slots_busy(self) -> int:
        """What the engine itself says."""
        engine = self.daemon.supervisor.engine
        assert engine is not None
        url = f"http://127.0.0.1:{engine.upstream.port}/slots"
        async with aiohttp.ClientSession() as session, session.get(url, headers=dict(engine.headers)) as answer:
            return sum(slot["is_processing"] for slot in await answer.json())


@asynccontextmanager
async def running(config: WorkerConfig, limits: Limits | None = None, *, ready: bool = True) -> AsyncIterator[Running]:
    """A worker in this process; `ready` waits for its model."""
    daemon = WorkerDaemon(config, None, limits)
    await daemon.start()
    try:
        async with aiohttp.ClientSession(config.url) as client:
            if ready:
                await eventually(lambda: daemon.state.phase != "starting")
            yield Running(config, client, daemon)
    finally:
        await daemon.stop()


@asynccontextmanager
async def process(config: WorkerConfig, directory: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], Running]]:
    """The worker as the hive starts it. Killed at the end if it is still there."""
    path = directory / "worker.json"
    path.write_bytes(codec.encode_pretty(config))
    argv = [sys.executable, "-m", "rbee.cli.daemons", "worker", "--config", str(path)]
    with (directory / "worker.log").open("wb") as out:
        child = subprocess.Popen(argv, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
    try:
        async with aiohttp.ClientSession(config.url) as client:
            yield child, Running(config, client, None)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


async def healthy(client: aiohttp.ClientSession) -> bool:
    """Whether `/health` answers 200 now."""
    try:
        async with client.get("/health") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
