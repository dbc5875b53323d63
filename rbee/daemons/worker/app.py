# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's composition root: one model, one engine child, one port, and heartbeats to the queen."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from aiohttp import web

import rbee
import rbee.adapters.engines
from rbee.adapters import gguf
from rbee.adapters.secrets import Token, load_token
from rbee.adapters.splice import Splice
from rbee.adapters.system import now
from rbee.contracts import codec
from rbee.contracts.configs import WorkerConfig
from rbee.core import memory
from rbee.core.errors import RbeeError
from rbee.core.moments import epoch
from rbee.core.providers import fill_command
from rbee.daemons import access, app
from rbee.daemons.logs import configure
from rbee.daemons.middleware import json_response
from rbee.daemons.worker import metrics
from rbee.daemons.worker.face import OpenAiFace
from rbee.daemons.worker.heartbeat import Heartbeat
from rbee.daemons.worker.infer import InferFace
from rbee.daemons.worker.process import Launch
from rbee.daemons.worker.state import WorkerState
from rbee.daemons.worker.supervisor import Limits, Supervisor

log = logging.getLogger(__name__)

#: A model's own poolings that make no vector of an input: none said, and a score.
_NO_VECTOR = (0, 4)


class WorkerDaemon:
    """`start`, then serve until `stop`. The engine loads meanwhile; `/health` tells how far it is."""

    def __init__(self, config: WorkerConfig, token: Token | None, limits: Limits | None = None) -> None:
        self.config = config
        self.limits = limits or Limits()
        self._header = _header(config)
        options = config.options
        self._task = options.task or "generate"
        self._window = memory.window(
            self._task,
            trained=self._header.context_length if self._header else None,
            causal=self._header is None or self._header.shape.causal,
            context_length=options.context_length,
            batch_size=options.batch_size,
        )
        self._parallel = options.parallel or memory.DEFAULT_PARALLEL
        self._key = secrets.token_urlsafe(24)
        self.state = WorkerState(config, now(), self._parallel, self._window.context)
        self.state.progress = lambda: self.progress
        self._splice = Splice(clock=time.monotonic)
        self.supervisor = Supervisor(self.launch, self.state, self._splice, self.limits, time.monotonic)
        parts = (config, self.state, self.supervisor, self._splice)
        routes = [
            app.Route("GET", "/health", self.health, "open"),
            app.Route("GET", "/info", self.info),
            app.Route("GET", "/metrics", self.metrics),
            app.Route("GET", "/v1/models", self.models),
            *OpenAiFace(*parts, width=self._header.shape.embedding or None if self._header else None).routes(),
        ]
        if self._task == "generate":
            routes += InferFace(*parts, chat=self._header is None or self._header.chat_template).routes()
        self.server = app.Server(app.build(routes), [access.listener(config.listen, token)])
        self._heartbeat = (
            Heartbeat(config.queen_url, token if config.queen_trusted else None, self.state, config.heartbeat_interval)
            if config.queen_url
            else None
        )

    @property
    def _pooling(self) -> int:
        return self._header.pooling if self._header is not None else 0

    def launch(self) -> Launch:
        """The engine's command, for its next life."""
        provider, options = self.config.provider, self.config.options
        directory = Path(rbee.adapters.engines.__file__).parent
        port = 0 if provider.launcher else app.free_port()
        _, _, index = self.config.device.partition(":")
        values = {
            "python": self.config.engine_python,
            "launcher": directory / provider.launcher if provider.launcher else None,
            "model": self.config.model_path,
            "alias": self.config.model,
            "port": port,
            "context_length": self._window.context,
            "parallel": self._parallel,
            "batch_size": self._window.batch,
            "task": self._task,
            "pooling": "mean" if self._task == "embed" and self._pooling in _NO_VECTOR else None,
            "threads": options.threads or _cores(),
            "device_index": index or None,
        }
        return Launch(
            name=provider.name,
            model=self.config.model_path,
            argv=fill_command(provider.command, values),
            environment=provider.environment,
            port=port,
            announces=provider.launcher is not None,
            key=self._key if provider.checks_api_key else "",
            ready_path=provider.ready_path,
            stop=provider.stop,
        )

    async def start(self) -> None:
        """Listens, begins to load the model, begins to tell the queen. Raises RbeeError when it cannot listen."""
        await self.server.start()
        self.supervisor.start()
        if self._heartbeat is not None:
            self._heartbeat.start()

    async def stop(self) -> None:
        """Refuses new requests, lets those that are here end (at most `limits.drain`), then ends the engine."""
        self.state.enter("stopping")
        if self._heartbeat is not None:
            await self._heartbeat.say_now()
        deadline = time.monotonic() + self.limits.drain
        idle = asyncio.Event()
        self.state.listen(lambda: idle.set() if not self.state.active else None)
        if self.state.active:
            try:
                await asyncio.wait_for(idle.wait(), max(0.0, deadline - time.monotonic()))
            except (asyncio.TimeoutError, TimeoutError):
                log.warning("%d requests did not end in time", self.state.active)
        await self.supervisor.stop()
        await self.server.stop(drain=1.0)
        await self._splice.close()
        if self._heartbeat is not None:
            await self._heartbeat.stop()

    @property
    def progress(self) -> float | None:
        """How much of the model is in memory, 0 to 1: what the engine holds of what it is expected to."""
        pid = self.supervisor.loading_pid
        if self.state.phase != "starting" or pid is None or self._header is None:
            return 1.0 if self.state.phase == "serving" else None
        expected = memory.worker_bytes(self._header.shape, self._task, given=self._window, parallel=self._parallel)
        try:
            return round(min(0.99, psutil.Process(pid).memory_info().rss / expected), 2)
        except psutil.Error:
            return None

    async def health(self, request: web.Request) -> web.StreamResponse:
        state = self.state
        ready = state.phase == "serving"
        body = {"status": state.status, "progress": self.progress, "reason": state.reason}
        headers = {} if ready else {"Retry-After": "1"}
        return json_response(body, 200 if ready else 503, headers)

    async def info(self, request: web.Request) -> web.StreamResponse:
        c = self.config
        engine = self.supervisor.engine
        return json_response(
            {
                **codec.to_mapping(self.state.heartbeat()),
                "fleet": c.fleet,
                "version": rbee.__version__,
                "engine_version": c.provider.version,
                "options": c.options,
                "pid": os.getpid(),
                "engine_pid": engine.pid if engine is not None else None,
                "architecture": self._header.architecture if self._header else None,
                "quantization": self._header.quantization if self._header else None,
            }
        )

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        text = metrics.render(self.config, self.state)
        return web.Response(body=text.encode(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def models(self, request: web.Request) -> web.StreamResponse:
        created = int(epoch(self.state.started_at) or 0)
        model: dict[str, Any] = {"id": self.config.model, "object": "model", "created": created, "owned_by": "rbee"}
        model["context_length"] = self.state.context_length
        return json_response({"object": "list", "data": [model]})


def _header(config: WorkerConfig) -> gguf.GgufHeader | None:
    """Of a GGUF model; None for other formats and for files that are hurt (the engine will say so itself)."""
    try:
        return gguf.read_header(Path(config.model_path)) if "gguf" in config.provider.formats else None
    except (gguf.BadGguf, OSError) as e:
        log.warning("%s", e)
        return None


def _cores() -> int:
    """CPUs that this process may use."""
    found: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(found(0)) if found is not None else os.cpu_count() or 1


def main(path: Path) -> int:
    """Runs the worker of the settings in `path` until SIGTERM. Blocks; the exit status. Raises RbeeError."""
    try:
        config = codec.decode(WorkerConfig, path.read_bytes())
    except (OSError, codec.CodecError) as e:
        raise RbeeError(f"The settings {path} cannot be used: {e}.", code="bad_config") from None
    token = load_token(Path(config.token_file)) if config.token_file else None
    configure(f"worker:{config.worker_id}", secrets=[token.reveal()] if token else [])

    async def serve(stop: asyncio.Event) -> None:
        daemon = WorkerDaemon(config, token)
        await daemon.start()
        log.info("worker %s listens on %s", config.worker_id, daemon.server.urls[0])
        await stop.wait()
        await daemon.stop()

    app.run(serve)
    return 0
