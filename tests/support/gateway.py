# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway of one aiohttp handler and the splice, and a raw client that sees its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from rbee.adapters.splice import Outcome, Splice, Upstream, UpstreamError, read_body
from tests.support.mock_engine import MockEngine, event


class Gateway:
    """An aiohttp app whose one handler forwards; keeps each outcome and each error."""

    def __init__(self, upstream: Upstream, **options: Any) -> None:
        self.upstream = upstream
        self.options = options
        self.outcomes: list[Outcome] = []
        self.errors: list[UpstreamError] = []
        self.heads: list[int] = []
        self.splice = Splice(clock=time.monotonic)
        self.settled = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/local":
            return web.Response(text="local")
        options = {"extra_headers": [("X-Request-Id", "r1")], **self.options}
        try:
            response = await self.splice.forward(
                request,
                upstream=self.upstream,
                body=await read_body(request, 2**25),
                on_head=lambda status, head: self.heads.append(status),
                **options,
            )
        except UpstreamError as error:
            self.errors.append(error)
            return web.Response(status=502, text=type(error).__name__)
        finally:
            self.settled.set()
        self.outcomes.append(response.outcome)
        return response

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{tail:.*}", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        await self.runner.cleanup()
        await self.splice.close()


@contextlib.asynccontextmanager
async def serving(engine: MockEngine, *, reuse: bool = True, **options: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway(Upstream("127.0.0.1", engine.port, reuse), **options)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


class Client:
    """A raw HTTP client: it sends what it is told and reads answers by their framing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def ask(self, body: bytes = b"", *, head: str = "POST /v1/x HTTP/1.1", more: str = "") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.writer.write(f"{head}\r\nHost: gw\r\n{length}{more}\r\n".encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 30)).decode().split("\r\n")
        pairs = [line.split(": ", 1) for line in lines[1:-2]]
        assert len({name.lower() for name, _ in pairs}) == len(pairs), f"a header twice: {pairs}"
        return int(lines[0].split()[1]), {name.lower(): value for name, value in pairs}

    async def chunks(self) -> list[bytes]:
        """The chunks of a chunked body; raises IncompleteReadError when it is cut."""
        found: list[bytes] = []
        while True:
            size = int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 30), 16)
            data = await asyncio.wait_for(self.reader.readexactly(size + 2), 30)
            assert data.endswith(b"\r\n")
            if not size:
                return found
            found.append(data[:-2])

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, b"".join(await self.chunks())
        if "content-length" in headers:
            length = int(headers["content-length"])
            return status, headers, await asyncio.wait_for(self.reader.readexactly(length), 30)
        return status, headers, b"" if status in (204, 304) else await self.rest()

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 30)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def client_of(gateway: Gateway) -> AsyncIterator[Client]:
    client = await Client.connect(gateway.port)
    try:
        yield client
    finally:
        await client.close()


def asked(stream: bool = False, **script: Any) -> bytes:
    return json.dumps({"model": "m", "stream": stream, "mock": script}).encode()


def stream_of(tokens: int, text: str = "tok") -> list[bytes]:
    return [*(event(index, text) for index in range(tokens)), b"data: [DONE]\n\n"]


def error_of(body: bytes) -> dict[str, Any]:
    return json.loads(body.rstrip().rsplit(b"\n\n", 1)[-1].removeprefix(b"data: "))["error"]  # type: ignore[no-any-return]
