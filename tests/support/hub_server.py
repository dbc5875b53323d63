# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that speaks as much of the Hugging Face hub's protocol as a download needs, on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.files_server import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_testtesttesttest"


@dataclass(slots=True)
class Hub:
    """Repositories of `org`: `private` is for TOKEN only, `gated` is listed for all and read with TOKEN, any other of
    `repos` is open. Each file is git-lfs's unless its name ends in .json, .txt or .md.

    As the hub does, the listing tells commit, sizes and SHA-256s; `resolve` answers a redirect with the file's
    commit, size and SHA-256 in headers; and the bytes come from another host (here the same one by another name) for
    whoever has the link.
    """

    data: bytes
    url: str = ""
    branch: str = COMMIT
    #: What the hub claims instead of the truth.
    sha256: str | None = None
    #: Files of each repository.
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    #: Files of each repository at commits before this one.
    older: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    #: Answered to the next questions instead of the listing.
    instead: list[web.Response] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    cdn_headers: list[dict[str, str]] = field(default_factory=list)
    #: What each question for a listing said of a token.
    tokens: list[str | None] = field(default_factory=list)

    def push(self, commit: str, **repos: dict[str, bytes]) -> None:
        """The branch moves on; what it was before stays to be had by its commit."""
        self.older[self.branch] = self.repos
        self.branch, self.repos = commit, repos

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes] | None:
        if repo in self.older.get(revision, self.repos):
            return self.older.get(revision, self.repos)[repo]
        return {"model.gguf": self.data} if repo in ("open", "gated", "private") else None

    def _refusal(self, request: web.Request, repo: str, revision: str, reads: bool) -> web.Response | None:
        """What the hub answers instead, as its headers say it."""
        said = request.headers.get("Authorization")
        known = said == f"Bearer {TOKEN}"
        if said is not None and not known:
            return _refused(401, None, "Invalid credentials in Authorization header")
        if self.files(repo) is None or (repo == "private" and not known):
            return _refused(401 if not known else 404, "RepoNotFound", "Repository not found")
        if repo == "gated" and reads and not known:
            return _refused(401, "GatedRepo", "Access to model org/gated is restricted.")
        if revision not in ("main", "v1", self.branch, *self.older):
            return _refused(404, "RevisionNotFound", "Invalid rev id")
        return None

    async def info(self, request: web.Request) -> web.StreamResponse:
        repo, revision = request.match_info["repo"], request.match_info["revision"]
        self.seen.append(("LIST", f"{repo}@{revision}"))
        self.tokens.append(request.headers.get("Authorization"))
        if self.instead:
            return self.instead.pop(0)
        if repo == "renamed":
            raise web.HTTPTemporaryRedirect(f"/api/models/org/open/revision/{revision}?blobs=true")
        refusal = self._refusal(request, repo, revision, reads=False)
        if refusal is not None:
            return refusal
        siblings = [self._sibling(name, data) for name, data in (self.files(repo, revision) or {}).items()]
        if request.query.get("blobs") != "true":
            siblings = [{"rfilename": s["rfilename"]} for s in siblings]
        gated = "auto" if repo == "gated" else False
        return web.json_response(
            {
                "id": f"org/{repo}",
                "sha": self._commit(revision),
                "private": repo == "private",
                "gated": gated,
                "siblings": siblings,
            }
        )

    def _commit(self, revision: str) -> str:
        return revision if revision in self.older else self.branch

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        said: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
        if not name.endswith((".json", ".txt", ".md")):
            digest = self.sha256 or hashlib.sha256(data).hexdigest()
            said["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
        return said

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        repo, revision, file = (request.match_info[k] for k in ("repo", "revision", "file"))
        self.seen.append((request.method, f"{repo}@{revision}"))
        refusal = self._refusal(request, repo, revision, reads=True)
        if refusal is not None:
            return refusal
        data = (self.files(repo, revision) or {}).get(file)
        if data is None:
            return _refused(404, "EntryNotFound", "Entry not found")
        headers = {
            "X-Repo-Commit": self._commit(revision),
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": f'"{self.sha256 or hashlib.sha256(data).hexdigest()}"',
            "Location": f"{self.url.replace('127.0.0.1', 'localhost')}/cdn/{repo}/{revision}/{file}",
        }
        return web.Response(status=302, headers=headers)

    async def cdn(self, request: web.Request) -> web.StreamResponse:
        self.cdn_headers.append(dict(request.headers))
        repo, revision, file = (request.match_info[k] for k in ("repo", "revision", "file"))
        data = (self.files(repo, revision) or {})[file]
        return web.Response(body=data, headers={"ETag": '"cdn"'})


def _refused(status: int, code: str | None, message: str) -> web.Response:
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return web.json_response({"error": message}, status=status, headers=headers)


@asynccontextmanager
async def hub_server(data: bytes, host: str = "127.0.0.1", /, **repos: dict[str, bytes]) -> AsyncIterator[Hub]:
    hub = Hub(data, repos=repos)
    app = web.Application()
    app.router.add_get("/api/models/org/{repo}/revision/{revision}", hub.info)
    app.router.add_route("*", "/org/{repo}/resolve/{revision}/{file:.*}", hub.resolve)
    app.router.add_get("/cdn/{repo}/{revision}/{file:.*}", hub.cdn)
    async with serving(app, host) as url:
        hub.url = url
        yield hub
