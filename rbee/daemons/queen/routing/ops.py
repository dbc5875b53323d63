# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of past decisions: the operation behind `rbee explain`, and all of them for a recording."""

from __future__ import annotations

import asyncio

from aiohttp import web

from rbee.contracts import codec
from rbee.contracts.operations.fleet import RequestExplain, RequestExplainResponse
from rbee.core.errors import InvalidRequest
from rbee.daemons.app import Route
from rbee.daemons.jobs import Handler, JobContext
from rbee.daemons.queen.routing.decisions import MOST_DECISIONS, Decisions

#: Records that are told without a pause.
_AT_ONCE = 10


class ExplainOps:
    """Handler and route over the kept decisions."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions

    def handlers(self) -> dict[str, Handler]:
        return {"RequestExplain": self.explain}

    def routes(self) -> list[Route]:
        return [Route("GET", "/v1/decisions", self.recorded)]

    async def explain(self, context: JobContext, request: RequestExplain) -> RequestExplainResponse:
        """Raises NotFound for a request that is not remembered."""
        found = self._decisions.explain(request.request_id)
        context.narrate("request_explain", f"{found.outcome}: {found.reason}", request_id=found.request_id)
        return RequestExplainResponse(decision=found)

    async def recorded(self, request: web.Request) -> web.StreamResponse:
        """The last decisions, the oldest first, one JSON object a line. Raises InvalidRequest for a bad `limit`."""
        said = request.query.get("limit", str(MOST_DECISIONS))
        if not (said.isascii() and said.isdigit() and 1 <= len(said) <= 9):
            raise InvalidRequest(f"`limit` is a number, not {said[:40]!r}.", param="limit")
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await answer.prepare(request)
        lines: list[bytes] = []
        for record in self._decisions.recent(int(said)):
            lines.append(codec.encode(record) + b"\n")
            if len(lines) == _AT_ONCE:  # to tell a record takes a while: nobody's answer is to wait for all of them
                await answer.write(b"".join(lines))
                await asyncio.sleep(0)
                lines.clear()
        await answer.write(b"".join(lines))
        await answer.write_eof()
        return answer
