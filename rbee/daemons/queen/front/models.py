# SPDX-License-Identifier: GPL-3.0-or-later
"""`GET /v1/models`: every name that a client may ask for, and what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from rbee.contracts import codec
from rbee.contracts.configs import KnownWorker, QueenConfig
from rbee.daemons.middleware import json_response, listener_token
from rbee.daemons.queen.admission.clients import Clients
from rbee.daemons.queen.known.catalog import Catalog
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.known.since import Since
from rbee.daemons.queen.known.worker import Worker
from rbee.daemons.queen.scaling.starter import Starter

#: What a path that a worker serves is called among its capabilities.
_CAPABILITIES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
_OF_TASK = {"embed": ("embeddings",), "rerank": ("rerank",)}
#: A list is given out again for so many times the seconds that making it took: it never costs more than a
#: twentieth of her time.
_AGAIN = 20.0


class Models:
    """Handlers; `configure` replaces what is declared. `clock` gives seconds that never go back."""

    def __init__(
        self,
        *,
        registry: Registry,
        catalog: Catalog,
        starter: Starter,
        clients: Clients,
        since: Since,
        config: QueenConfig,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._catalog = catalog
        self._starter = starter
        self._clients = clients
        self._since = since
        self._clock = clock
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self._planned: dict[str, list[KnownWorker]] = {}
        for worker in config.workers:
            self._planned.setdefault(worker.model, []).append(worker)
        self._made, self._until = b"", 0.0
        self._since.configure(config)

    async def list(self, request: web.Request) -> web.StreamResponse:
        self._clients.identify(request.headers, listener_token(request))
        return web.Response(body=self.listed(), content_type="application/json")

    async def one(self, request: web.Request) -> web.StreamResponse:
        self._clients.identify(request.headers, listener_token(request))
        self._since.look()
        return json_response(self.entry(request.match_info["name"]))

    def listed(self) -> bytes:
        """The whole list, as JSON."""
        now = self._clock()
        if now >= self._until:
            self._since.look()
            self._made = codec.encode({"object": "list", "data": [self.entry(n) for n in self._catalog.names()]})
            made = self._clock()
            self._until = made + (made - now) * _AGAIN
        return self._made

    def entry(self, name: str) -> dict[str, Any]:
        """OpenAI's model object, and under `rbee` what stands behind it. Raises NotFound.

        `context_length` and `max_model_len` stand where clients of other servers look for them. An alias is as the
        first of its models that can answer now, else the first that gets ready, else the first.
        """
        models = self._catalog.resolve(name)
        abouts = [self._about(model) for model in models]
        about = min(abouts, key=lambda a: _RANK[a["state"]])
        # An alias is as old as its first choice, whichever of them answers now.
        created = self._since.of(models[0])
        found: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "rbee"}
        if (length := about["context_length"]) is not None:
            found["context_length"] = found["max_model_len"] = length
        if models != (name,):
            about = {**about, "alias_of": list(models)}
        found["rbee"] = about
        return found

    def _about(self, model: str) -> dict[str, Any]:
        workers = self._registry.of_models((model,))
        ready = [w for w in workers if self._registry.why_not(w) is None]
        known = ready or [w for w in workers if w.beat.context_length or w.beat.paths]
        planned = self._planned.get(model, [])
        about: dict[str, Any] = {
            "state": "ready",
            "workers": len(ready),
            "slots": sum(w.slots for w in ready),
            "context_length": _context_length(known, planned),
            "capabilities": _capabilities(known, planned),
        }
        if not ready:
            self._coming(about, model, planned, workers)
        return about

    def _coming(
        self, about: dict[str, Any], model: str, planned: Sequence[KnownWorker], workers: Sequence[Worker]
    ) -> None:
        """The state of a model that nobody can answer for now, and why not."""
        loading = self._starter.loading((model,))
        if loading is not None:
            about.update(state="loading", progress=loading.progress, eta_seconds=loading.eta_seconds)
            return
        startable = bool(planned) or any(w.status == "unloaded" for w in workers)
        about["state"] = "cold" if startable else "no_worker"
        why = [self._starter.troubles.why(w.worker_id) for w in planned]
        why += [w.reason or w.unreachable for w in workers if w.status in ("failed", "dead") or w.unreachable]
        if (error := next(filter(None, why), None)) is not None:
            about["error"] = error


_RANK = {"ready": 0, "loading": 1, "cold": 2, "no_worker": 3}


def _context_length(workers: Sequence[Worker], planned: Sequence[KnownWorker]) -> int | None:
    """The longest that one of them takes: routing sends a request where it fits."""
    lengths = [w.beat.context_length for w in workers] or [w.options.context_length for w in planned]
    return max(filter(None, lengths), default=None)


def _capabilities(workers: Sequence[Worker], planned: Sequence[KnownWorker]) -> list[str]:
    """What at least one of them can; of a model that never ran, what its task says."""
    found: dict[str, None] = {}
    # Many workers of one model mostly say the same.
    for paths, more in {(w.beat.paths, w.beat.capabilities) for w in workers}:
        found.update((_CAPABILITIES[path], None) for path in paths if path in _CAPABILITIES)
        found.update((name, None) for name in more)
    if not workers:
        found.update((name, None) for w in planned for name in _OF_TASK.get(w.options.task or "", ()))
    return sorted(found)
