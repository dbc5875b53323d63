# SPDX-License-Identifier: GPL-3.0-or-later
"""The route that describes all others."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

import rbee
from rbee.contracts import codec, openapi
from rbee.contracts.operations import Daemon
from rbee.daemons.app import Route


def described(daemon: Daemon, routes: Sequence[Route]) -> list[Route]:
    """`routes` and `GET /openapi.json`, which tells of them and of itself; made when it is first asked for."""
    made: list[bytes] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if not made:
            told = [(r.method, r.path, r.access == "token") for r in table]
            made.append(codec.encode(openapi.document(daemon, rbee.__version__, told)))
        return web.Response(body=made[0], content_type="application/json")

    table = [*routes, Route("GET", "/openapi.json", answer)]
    return table
