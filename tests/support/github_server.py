# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that speaks as much of GitHub's REST API as getting a release's assets needs, on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.files_server import serving

TOKEN = "ghp_testtesttesttest"


@dataclass(slots=True)
class GitHubServer:
    """`releases`: assets by tag of `OWNER/REPO`, the last one being the latest; `me/private` is for TOKEN only."""

    releases: dict[str, dict[str, dict[str, bytes]]]
    url: str = ""
    #: Whether assets tell their digest: those of before 2025 do not.
    digests: bool = True
    limited: bool = False
    instead: list[web.Response] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    cdn_headers: list[dict[str, str]] = field(default_factory=list)

    def _refusal(self, request: web.Request) -> web.Response | None:
        self.seen.append(request.path)
        if self.instead:
            return self.instead.pop(0)
        if self.limited:
            headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}
            return web.json_response({"message": "API rate limit exceeded"}, status=403, headers=headers)
        said = request.headers.get("Authorization")
        if said is not None and said != f"Bearer {TOKEN}":
            return web.json_response({"message": "Bad credentials"}, status=401)
        name = self._name(request)
        if name not in self.releases or (name == "me/private" and said is None):
            return web.json_response({"message": "Not Found"}, status=404)
        return None

    def _name(self, request: web.Request) -> str:
        return f"{request.match_info['owner']}/{request.match_info['repo']}"

    async def repo(self, request: web.Request) -> web.StreamResponse:
        return self._refusal(request) or web.json_response({"full_name": self._name(request)})

    async def listed(self, request: web.Request) -> web.StreamResponse:
        name = self._name(request)
        return self._refusal(request) or web.json_response([self._release(name, t) for t in self.releases[name]])

    async def release(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        found, tag = self.releases[self._name(request)], request.match_info.get("tag")
        if tag is None and found:
            tag = list(found)[-1]
        if tag not in found:
            return web.json_response({"message": "Not Found"}, status=404)
        return web.json_response(self._release(self._name(request), tag))

    def _release(self, name: str, tag: str) -> dict[str, Any]:
        assets = []
        for index, (file, data) in enumerate(self.releases[name][tag].items()):
            asset: dict[str, Any] = {"id": index + 1, "name": file, "size": len(data), "state": "uploaded"}
            asset["url"] = f"{self.url}/repos/{name}/releases/assets/{index + 1}"
            asset["browser_download_url"] = f"{self.url}/{name}/releases/download/{tag}/{file}"
            asset["digest"] = f"sha256:{hashlib.sha256(data).hexdigest()}" if self.digests else None
            assets.append(asset)
        return {"tag_name": tag, "draft": False, "assets": assets}

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """The API's own link to an asset: its bytes only when they are asked for by `Accept`."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if request.headers.get("Accept") != "application/octet-stream":
            return web.json_response({"id": int(request.match_info["id"])})
        name = self._name(request)
        tag = list(self.releases[name])[-1]
        file = list(self.releases[name][tag])[int(request.match_info["id"]) - 1]
        return web.Response(status=302, headers={"Location": self._cdn(name, tag, file)})

    async def download(self, request: web.Request) -> web.StreamResponse:
        place = self._cdn(self._name(request), request.match_info["tag"], request.match_info["file"])
        return web.Response(status=302, headers={"Location": place})

    def _cdn(self, name: str, tag: str, file: str) -> str:
        return f"{self.url.replace('127.0.0.1', 'localhost')}/objects/{name}/{tag}/{file}"

    async def objects(self, request: web.Request) -> web.StreamResponse:
        self.cdn_headers.append(dict(request.headers))
        return web.Response(
            body=self.releases[self._name(request)][request.match_info["tag"]][request.match_info["file"]]
        )


@asynccontextmanager
async def github_server(releases: dict[str, dict[str, dict[str, bytes]]]) -> AsyncIterator[GitHubServer]:
    server = GitHubServer(releases)
    app = web.Application()
    repo = "/repos/{owner}/{repo}"
    app.router.add_get(repo, server.repo)
    app.router.add_get(f"{repo}/releases", server.listed)
    app.router.add_get(f"{repo}/releases/latest", server.release)
    app.router.add_get(f"{repo}/releases/tags/{{tag}}", server.release)
    app.router.add_get(f"{repo}/releases/assets/{{id}}", server.asset)
    app.router.add_get("/{owner}/{repo}/releases/download/{tag}/{file}", server.download)
    app.router.add_get("/objects/{owner}/{repo}/{tag}/{file}", server.objects)
    async with serving(app) as url:
        server.url = url
        yield server
