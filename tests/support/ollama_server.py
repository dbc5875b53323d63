# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that speaks as much of Ollama's registry as a pull needs, on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.files_server import serving

MODEL = "application/vnd.ollama.image.model"


@dataclass(slots=True)
class Registry:
    """`models`: manifests' layers (media type, bytes) by `USER/NAME:TAG`. Blobs are redirected to another host, as
    the registry does. `lists_tags`: some registries do; Ollama's own answers 404."""

    models: dict[str, list[tuple[str, bytes]]]
    url: str = ""
    lists_tags: bool = False
    #: What is answered to the next questions instead.
    instead: list[web.Response] = field(default_factory=list)
    #: What the manifests claim instead of the truth.
    digest: str | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)
    accepts: list[str] = field(default_factory=list)
    cdn_headers: list[dict[str, str]] = field(default_factory=list)

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        name, tag = f"{request.match_info['user']}/{request.match_info['name']}", request.match_info["tag"]
        self.seen.append(("manifest", f"{name}:{tag}"))
        self.accepts.append(request.headers.get("Accept", ""))
        if self.instead:
            return self.instead.pop(0)
        layers = self.models.get(f"{name}:{tag}")
        if layers is None:
            error = {"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {"Tag": tag}}
            return web.json_response({"errors": [error]}, status=404)
        body: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": 2,
                "digest": _digest(b"{}"),
            },
            "layers": [
                {"mediaType": kind, "digest": self.digest or _digest(data), "size": len(data)} for kind, data in layers
            ],
        }
        # The registry does not say `application/json`.
        return web.json_response(body, content_type="text/plain")

    async def tags(self, request: web.Request) -> web.StreamResponse:
        name = f"{request.match_info['user']}/{request.match_info['name']}"
        found = [m.rpartition(":")[2] for m in self.models if m.startswith(f"{name}:")]
        if not self.lists_tags or not found:
            return web.Response(status=404, text="404 page not found")
        return web.json_response({"name": name, "tags": found})

    async def blob(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(("blob", request.match_info["digest"]))
        place = f"{self.url.replace('127.0.0.1', 'localhost')}/r2/{request.match_info['digest']}"
        return web.Response(status=307, headers={"Location": place})

    async def storage(self, request: web.Request) -> web.StreamResponse:
        self.cdn_headers.append(dict(request.headers))
        wanted = request.match_info["digest"]
        every = (data for layers in self.models.values() for _, data in layers)
        for data in every:
            if _digest(data) == wanted:
                return web.Response(body=data)
        return web.Response(status=404)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@asynccontextmanager
async def ollama_server(models: dict[str, list[tuple[str, bytes]]]) -> AsyncIterator[Registry]:
    registry = Registry(models)
    app = web.Application()
    app.router.add_get("/v2/{user}/{name}/manifests/{tag}", registry.manifest)
    app.router.add_get("/v2/{user}/{name}/tags/list", registry.tags)
    app.router.add_get("/v2/{user}/{name}/blobs/{digest}", registry.blob)
    app.router.add_get("/r2/{digest}", registry.storage)
    async with serving(app) as url:
        registry.url = url
        yield registry
