# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy as companies have them: absolute addresses for http, tunnels by CONNECT for https."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Proxy:
    """`hosts`: where the names that only it knows lead to, as HOST:PORT."""

    hosts: Mapping[str, str]
    refuses: bool = False
    url: str = ""
    #: The first line of each request.
    lines: list[str] = field(default_factory=list)
    #: What was said of who asks.
    users: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, _, rest = head.partition("\r\n")
        self.lines.append(line)
        self.users += [h.partition(" ")[2] for h in rest.split("\r\n") if h.lower().startswith("proxy-authorization:")]
        method, address, _ = line.split(" ")
        try:
            if self.refuses:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            name = address.partition("://")[2].partition("/")[0] if "://" in address else address
            host, port = self.hosts[name.partition(":")[0]].split(":")
            far, out = await asyncio.open_connection(host, int(port))
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = "/" + address.partition("://")[2].partition("/")[2]
                out.write(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n{rest}".encode())
            await asyncio.gather(_copy(reader, out), _copy(far, writer))
        finally:
            writer.close()


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(65536):
            to.write(piece)
            await to.drain()
        to.close()


@asynccontextmanager
async def proxying(hosts: Mapping[str, str], *, refuses: bool = False) -> AsyncIterator[Proxy]:
    proxy = Proxy(hosts, refuses)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
