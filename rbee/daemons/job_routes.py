# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs on the wire: made, listed, read, streamed, cancelled (CONTRACTS section 4)."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aiohttp import web

from rbee.contracts.jobs import ENDED, KEY_HEADER, JobAccepted
from rbee.contracts.operations import OPERATIONS, parse_operation
from rbee.core.errors import InvalidRequest
from rbee.core.moments import rfc3339
from rbee.core.problems import did_you_mean
from rbee.daemons import sse
from rbee.daemons.app import Route
from rbee.daemons.job_ends import tail
from rbee.daemons.job_sharing import LOOK
from rbee.daemons.jobs import JobRunner
from rbee.daemons.middleware import json_response
from rbee.daemons.writing import send_json

STATES: Final = ("queued", "running", "completed", "failed", "cancelled")


class JobRoutes:
    """Handlers over a runner."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        self._store = runner.store

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/jobs", self._post),
            Route("GET", "/v1/jobs", self._list),
            Route("GET", "/v1/jobs/{job_id}", self._get),
            Route("DELETE", "/v1/jobs/{job_id}", self._delete),
            Route("GET", "/v1/jobs/{job_id}/stream", self._stream),
        ]

    async def _post(self, request: web.Request) -> web.StreamResponse:
        optype, asked = parse_operation(await request.read())
        job = await self._runner.submit(optype, asked, key=request.headers.get(KEY_HEADER))
        accepted = JobAccepted(job_id=job.job_id, sse_url=f"/v1/jobs/{job.job_id}/stream")
        return json_response(accepted, 202, {"Location": f"/v1/jobs/{job.job_id}"})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        state, limit, operation = query.get("state"), query.get("limit", "50"), query.get("operation")
        if state is not None and state not in STATES:
            raise InvalidRequest(f"There is no state {state!r}.", mend=f"States: {', '.join(STATES)}.")
        if operation is not None and operation not in OPERATIONS:
            raise InvalidRequest(
                f"There is no operation {operation!r}.", mend=did_you_mean(operation, list(OPERATIONS))
            )
        if not (limit.isascii() and limit.isdecimal()) or len(limit) > 4 or not 1 <= int(limit) <= 1000:
            raise InvalidRequest("`limit` must be a number from 1 to 1000.")
        found = await self._store.page(
            state,
            int(limit),
            query.get("cursor"),
            operation=operation,
            hive_id=query.get("hive_id"),
            since=_since(query.get("since")),
        )
        return json_response(found)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return await send_json(request, await self._runner.get(request.match_info["job_id"]))

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        return json_response(await self._runner.cancel(request.match_info["job_id"]))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        job_id, after = request.match_info["job_id"], sse.last_event_id(request)
        large, follow = sse.wants(request, "large"), sse.wants(request, "follow")

        async def pages(behind: int) -> list[tuple[int, bytes]]:
            return await self._store.events(job_id, behind, sse.BATCH, large=large)

        live = self._runner.held(job_id)
        if live is not None and (follow or live.feed.ended):
            return await sse.serve(request, live.feed, after, large=large, before=pages if live.resumed else None)
        job = await self._runner.stored(job_id, result=False)
        if job.state in ENDED or not self._store.shared or not follow:
            return await sse.serve_stored(request, pages, after, tail(job))

        async def ended() -> bytes:
            now = await self._store.get(job_id, result=False)
            return tail(now or job) if now is None or now.state in ENDED else b""

        with self._runner.sharing.watch(job_id) as more:
            return await sse.serve_elsewhere(request, pages, after, ended, more, LOOK)


def _since(said: str | None) -> str | None:
    """As jobs have their times. Raises InvalidRequest."""
    if said is None:
        return None
    try:
        # A plus that was not escaped is a space by now.
        return rfc3339(datetime.fromisoformat(said.replace(" ", "+").replace("Z", "+00:00")))
    except (ValueError, OverflowError):
        raise InvalidRequest("`since` must be a time.", mend="Write it like 2026-01-31T08:00:00Z.") from None
