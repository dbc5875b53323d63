# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's direct endpoints: OpenAI's, heartbeats, health, metrics, and what plan asks the queen itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from aiohttp import web

from rbee.contracts import codec
from rbee.contracts.heartbeat import HiveHeartbeat, WorkerHeartbeat
from rbee.core.errors import InvalidRequest
from rbee.daemons.access import Token, shows
from rbee.daemons.app import Route
from rbee.daemons.middleware import json_response
from rbee.daemons.queen.front.dispatch import Dispatcher
from rbee.daemons.queen.front.models import Models
from rbee.daemons.queen.front.paths import INFERENCE_PATHS
from rbee.daemons.queen.front.web_door import WebDoor
from rbee.daemons.queen.known.hives import Hives
from rbee.daemons.queen.known.registry import Refusal, Registry
from rbee.daemons.queen.known.sharing import KnownTogether
from rbee.daemons.queen.seen.metrics import Metrics

B = TypeVar("B")

#: What a worker is told whose heartbeat was not taken.
_REFUSALS: dict[Refusal, str] = {
    "replaced": "A newer worker of the same id is known, and well.",
    "unknown_hive": "This fleet has no such hive.",
    "untrusted": "A worker of the same id has shown the fleet's token.",
}


class Endpoints:
    """Handlers over the queen's parts; `info` and `reload` are the daemon's."""

    def __init__(
        self,
        *,
        registry: Registry,
        hives: Hives,
        models: Models,
        dispatcher: Dispatcher,
        metrics: Metrics,
        token: Token | None,
        info: Callable[[], dict[str, Any]],
        reload: Callable[[], str],
        together: KnownTogether,
    ) -> None:
        self._registry = registry
        self._hives = hives
        self._models = models
        self._dispatcher = dispatcher
        self._web = WebDoor(dispatcher)
        self._metrics = metrics
        self._token = token
        self._info = info
        self._reload = reload
        self._together = together

    def routes(self) -> list[Route]:
        return [
            *(Route("POST", path, self._web.handle, "client") for path in INFERENCE_PATHS),
            Route("GET", "/v1/models", self._models.list, "client"),
            Route("GET", "/v1/models/{name:(?s:.+)}", self._models.one, "client"),
            Route("POST", "/v1/worker-heartbeat", self.worker_heartbeat),
            Route("POST", "/v1/hive-heartbeat", self.hive_heartbeat),
            Route("GET", "/v1/queen", self.queen),
            Route("POST", "/v1/queen/reload", self.reload),
            Route("GET", "/metrics", self.metrics),
            Route("GET", "/health", self.health, "open"),
            Route("GET", "/readyz", self.readyz, "open"),
        ]

    async def worker_heartbeat(self, request: web.Request) -> web.StreamResponse:
        trusted = self._token is None or shows(request, self._token)
        beat = await _body(WorkerHeartbeat, request)
        refusal = self._registry.refusal(beat, trusted)
        if refusal is not None:
            status = "replaced" if refusal == "replaced" else "ignored"
            return json_response({"status": status, "reason": _REFUSALS[refusal]})
        self._registry.heartbeat(beat, trusted)
        self._together.worker(beat, trusted)
        return json_response({"status": "ok"})

    async def hive_heartbeat(self, request: web.Request) -> web.StreamResponse:
        beat = await _body(HiveHeartbeat, request)
        self._hives.heartbeat(beat)
        self._together.hive(beat)
        return json_response({"status": "ok"})

    async def queen(self, request: web.Request) -> web.StreamResponse:
        return json_response(self._info())

    async def reload(self, request: web.Request) -> web.StreamResponse:
        return json_response({"config_digest": self._reload()})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        text = self._metrics.text()
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def health(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """Ready as soon as she serves, until she begins to stop; how much of the fleet she has found stands beside."""
        if self._dispatcher.ending.stopping:
            raise self._dispatcher.ending.refusal()
        ready = sum(self._registry.why_not(w) is None for w in self._registry.workers.values())
        online = sum(self._hives.status(h) == "online" for h in self._hives.by_id.values())
        return json_response(
            {"status": "ready", "hives": len(self._hives.by_id), "hives_online": online, "workers_ready": ready}
        )


async def _body(kind: type[B], request: web.Request) -> B:
    try:
        return codec.decode(kind, await request.read())
    except codec.CodecError as e:
        raise InvalidRequest(f"{kind.__name__}: {e}") from None
