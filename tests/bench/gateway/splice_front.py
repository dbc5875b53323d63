# SPDX-License-Identifier: GPL-3.0-or-later
"""The splice behind the least aiohttp app: peek, forward, our headers. What the queen adds to it is the queen's.

`python -m tests.bench.gateway.splice_front PORT ENGINE_PORT`
"""

from __future__ import annotations

import sys
import time

import uvloop
from aiohttp import web

from rbee.adapters.splice import Splice, Upstream, read_body
from rbee.contracts.openai import peek


def build(engine_port: int) -> web.Application:
    """The app: every POST goes to the engine."""
    splice = Splice(clock=time.monotonic, max_idle=512)
    upstream = Upstream("127.0.0.1", engine_port)
    extra = [("X-Request-Id", "bench"), ("X-Rbee-Worker", "bench")]

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await read_body(request, 2**26)
        peek(body)
        return await splice.forward(
            request, upstream=upstream, body=body, extra_headers=extra, first_byte_timeout=60, stall_timeout=60
        )

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", forward)
    return app


if __name__ == "__main__":
    web.run_app(
        build(int(sys.argv[2])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )
