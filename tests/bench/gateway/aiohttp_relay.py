# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference: a relay as one writes it with aiohttp, a client session behind a server.

`python -m tests.bench.gateway.aiohttp_relay PORT ENGINE_PORT`
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

_SESSION: web.AppKey[aiohttp.ClientSession] = web.AppKey("session", aiohttp.ClientSession)


_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection"}
_NOT_FORWARDED = _HOP_BY_HOP | {"host", "content-length", "authorization", "cookie", "expect"}
_NOT_RETURNED = _HOP_BY_HOP | {"date", "server"}


def build(engine_port: int) -> web.Application:
    """The app: every POST goes to the engine and comes back as it is read."""
    base = f"http://127.0.0.1:{engine_port}"

    async def relay(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED}
        async with request.app[_SESSION].post(base + request.path_qs, data=body, headers=headers) as upstream:
            response = web.StreamResponse(status=upstream.status)
            for name, value in upstream.headers.items():
                if name.lower() not in _NOT_RETURNED:
                    response.headers[name] = value
            response.headers["X-Request-Id"] = response.headers["X-Rbee-Worker"] = "bench"
            await response.prepare(request)
            async for piece in upstream.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as app[_SESSION]:
            yield

    app = web.Application(client_max_size=2**26)
    app.cleanup_ctx.append(session)
    app.router.add_post("/v1/chat/completions", relay)
    return app


if __name__ == "__main__":
    web.run_app(build(int(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
