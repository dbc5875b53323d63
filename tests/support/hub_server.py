# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that speaks as much of the Hugging Face hub's protocol as a download needs, on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.support.files_server import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_testtesttesttest"


@dataclass(slots=True)
class Hub:
    """Repositories `org/open` (anyone), `org/gated` and `org/private` (with TOKEN); each has one file, model.gguf.

    As the hub does, `resolve` answers a redirect with the file's commit, size and SHA-256 in headers, and the
    bytes come from another host (here the same one by another name) for whoever has the link.
    """

    data: bytes
    url: str = ""
    branch: str = COMMIT
    #: What the hub claims instead of the truth.
    sha256: str | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)
    cdn_headers: list[dict[str, str]] = field(default_factory=list)

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        repo, revision, file = (request.match_info[k] for k in ("repo", "revision", "file"))
        self.seen.append((request.method, f"{repo}@{revision}"))
        known = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo not in ("open", "gated", "private") or (repo == "private" and not known):
            return _refused(401 if not known else 404, "RepoNotFound", "Repository not found")
        if repo == "gated" and not known:
            return _refused(401, "GatedRepo", "Access to model org/gated is restricted.")
        if revision not in ("main", self.branch):
            return _refused(404, "RevisionNotFound", "Invalid rev id")
        if file != "model.gguf":
            return _refused(404, "EntryNotFound", "Entry not found")
        headers = {
            "X-Repo-Commit": self.branch,
            "X-Linked-Size": str(len(self.data)),
            "X-Linked-ETag": f'"{self.sha256 or hashlib.sha256(self.data).hexdigest()}"',
            "Location": f"{self.url.replace('127.0.0.1', 'localhost')}/cdn/model.gguf",
        }
        return web.Response(status=302, headers=headers)

    async def cdn(self, request: web.Request) -> web.StreamResponse:
        self.cdn_headers.append(dict(request.headers))
        return web.Response(body=self.data, headers={"ETag": '"cdn"'})


def _refused(status: int, code: str, message: str) -> web.Response:
    return web.Response(status=status, headers={"X-Error-Code": code, "X-Error-Message": message})


@asynccontextmanager
async def hub_server(data: bytes) -> AsyncIterator[Hub]:
    hub = Hub(data)
    app = web.Application()
    app.router.add_route("*", "/org/{repo}/resolve/{revision}/{file:.*}", hub.resolve)
    app.router.add_get("/cdn/model.gguf", hub.cdn)
    async with serving(app) as url:
        hub.url = url
        yield hub
