# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server of one file that can misbehave in every way that downloads meet."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(slots=True)
class FileServer:
    """Serves `data` at /model.gguf and `others` by their names, or redirects from there. Each fault is spent as it is
    met."""

    data: bytes
    url: str = ""
    others: dict[str, bytes] = field(default_factory=dict)
    redirect_to: str | None = None
    etag: str | None = '"one"'
    ranges: bool = True
    #: Says so in every answer, as servers do that mean it.
    accept_ranges: bool = False
    #: Connections are cut after so many bytes of a body, one entry for each.
    drops: list[int] = field(default_factory=list)
    #: Statuses answered instead, one entry for each request.
    statuses: list[int] = field(default_factory=list)
    #: The status that each question for headers alone is answered with, instead of what is true.
    heads: int | None = None
    retry_after: str | None = None
    encoding: str | None = None
    #: Says that the file is so much longer than it is.
    claims_more: int = 0
    #: Sends so many bytes more than there are, without saying a length.
    extra: int = 0
    #: Bytes after which a body waits for `go_on`.
    hold_after: int | None = None
    #: Seconds between two pieces, and how large these are.
    pause: float = 0.0
    piece: int = 65536
    #: Bodies at once; more are refused with a 503.
    at_once: int | None = None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    serving: int = 0
    #: The most bodies that were sent at once.
    peak: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def starts(self) -> list[int]:
        """Where each request asked to begin."""
        return [_range(h["Range"], 0)[0] if "Range" in h else 0 for h in self.seen]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD" and not self.redirect_to:
            return self._head(request.path.removeprefix("/"))
        self.seen.append(dict(request.headers))
        self.paths.append(request.path)
        if self.redirect_to:
            raise web.HTTPFound(self.redirect_to)
        if self.statuses:
            return self._refused(self.statuses.pop(0))
        if self.at_once is not None and self.serving >= self.at_once:
            return self._refused(503)
        self.serving += 1
        self.peak = max(self.peak, self.serving)
        try:
            return await self._answer(request)
        finally:
            self.serving -= 1

    def _head(self, name: str) -> web.StreamResponse:
        """Not among `seen`, which are those for bytes."""
        there = name == "model.gguf" or name in self.others
        response = web.StreamResponse(status=self.heads or (200 if there else 404))
        if response.status == 200:
            response.content_length = len(self.others.get(name, self.data))
        return response

    def _refused(self, status: int) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": self.retry_after} if self.retry_after else {})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path.removeprefix("/")
        if name != "model.gguf" and name not in self.others:
            return web.Response(status=404)
        data = self.others.get(name, self.data)
        start, end, status = 0, len(data), 200
        wanted = request.headers.get("Range")
        if wanted and self.ranges and request.headers.get("If-Range", self.etag) == self.etag:
            (start, end), status = _range(wanted, len(data)), 206
            if start >= len(data):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
        body = data[start:end]
        response = web.StreamResponse(status=status)
        if self.extra:
            body += bytes(self.extra)
        else:
            response.content_length = len(body) + self.claims_more
        if self.etag:
            response.headers["ETag"] = self.etag
        if self.accept_ranges:
            response.headers["Accept-Ranges"] = "bytes"
        if self.encoding:
            response.headers["Content-Encoding"] = self.encoding
        if status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        await response.prepare(request)
        sent = await self._send(response, body)
        if sent < len(body) + self.claims_more and request.transport is not None:
            request.transport.close()
        return response

    async def _send(self, response: web.StreamResponse, body: bytes) -> int:
        cut = self.drops.pop(0) if self.drops else None
        sent = 0
        for piece in (body[i : i + self.piece] for i in range(0, len(body), self.piece)):
            if cut is not None and sent >= cut:
                break
            if self.hold_after is not None and sent >= self.hold_after:
                self.holding.set()
                await self.go_on.wait()
            if self.pause:
                await asyncio.sleep(self.pause)
            await response.write(piece)
            sent += len(piece)
        return sent


def _range(header: str, size: int) -> tuple[int, int]:
    first, _, last = header.removeprefix("bytes=").partition("-")
    return int(first), min(int(last) + 1, size) if last else size


@asynccontextmanager
async def serving(app: web.Application, host: str = "127.0.0.1") -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    try:
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def file_server(data: bytes, host: str = "127.0.0.1", **faults: Any) -> AsyncIterator[FileServer]:
    server = FileServer(data, **faults)
    app = web.Application()
    app.router.add_get("/{name:.+}", server.serve)
    async with serving(app, host) as url:
        server.url = url
        yield server
