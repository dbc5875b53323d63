# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server of one file that can misbehave in every way that downloads meet."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(slots=True)
class FileServer:
    """Serves `data` at /model.gguf, or redirects from there. Each fault is spent as it is met."""

    data: bytes
    url: str = ""
    redirect_to: str | None = None
    etag: str | None = '"one"'
    ranges: bool = True
    #: Connections are cut after so many bytes of a body, one entry for each.
    drops: list[int] = field(default_factory=list)
    #: Statuses answered instead, one entry for each request.
    statuses: list[int] = field(default_factory=list)
    #: Says that the file is so much longer than it is.
    claims_more: int = 0
    #: Bytes after which a body waits for `go_on`.
    hold_after: int | None = None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[dict[str, str]] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def starts(self) -> list[int]:
        """Where each request asked to begin."""
        return [int(h["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in h else 0 for h in self.seen]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(dict(request.headers))
        if self.redirect_to:
            raise web.HTTPFound(self.redirect_to)
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        start, status = 0, 200
        wanted = request.headers.get("Range")
        if wanted and self.ranges and request.headers.get("If-Range", self.etag) == self.etag:
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(self.data):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(self.data)}"})
        body = self.data[start:]
        response = web.StreamResponse(status=status)
        response.content_length = len(body) + self.claims_more
        if self.etag:
            response.headers["ETag"] = self.etag
        if status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        await response.prepare(request)
        cut = self.drops.pop(0) if self.drops else None
        sent = 0
        for piece in (body[i : i + 65536] for i in range(0, len(body), 65536)):
            if cut is not None and sent >= cut:
                break
            if self.hold_after is not None and sent >= self.hold_after:
                self.holding.set()
                await self.go_on.wait()
            await response.write(piece)
            sent += len(piece)
        if sent < len(body) + self.claims_more:
            assert request.transport is not None
            request.transport.close()
        return response


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def file_server(data: bytes, **faults: object) -> AsyncIterator[FileServer]:
    server = FileServer(data, **faults)  # type: ignore[arg-type]
    app = web.Application()
    app.router.add_get("/model.gguf", server.serve)
    async with serving(app) as url:
        server.url = url
        yield server
