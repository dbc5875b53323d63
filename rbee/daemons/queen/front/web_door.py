# SPDX-License-Identifier: GPL-3.0-or-later
"""The door for requests that come by aiohttp: on a connection that began with something else, or compressed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aiohttp import web

from rbee.adapters.splice import Outcome, SentResponse, Upstream, WebRequest, heads, read_body
from rbee.contracts import defaults
from rbee.core.errors import RbeeError
from rbee.daemons.middleware import listener_token
from rbee.daemons.queen.admission.clients import Client
from rbee.daemons.queen.front.answers import Refusal
from rbee.daemons.queen.front.dispatch import Dispatcher
from rbee.daemons.queen.front.passage import Passage


class _Incoming(WebRequest):
    """aiohttp's request, as a `Passage` takes it."""

    __slots__ = ("arrived", "body", "client", "headers", "path", "token")

    def __init__(self, request: web.Request, client: Client, body: bytes, arrived: float) -> None:
        super().__init__(request)
        self.path = request.path
        self.headers: Mapping[str, str] = request.headers
        self.token = listener_token(request)
        self.client: Client | None = client
        self.body = body
        self.arrived: float | None = arrived

    def head_to(self, upstream: Upstream, own: Sequence[heads.Line]) -> bytes:
        """The head of this request as a worker gets it, with lines of our own."""
        return heads.request_head(
            self.method,
            self.target,
            upstream.host,
            upstream.port,
            client_headers=self.raw_headers,
            headers=own,
            body_length=len(self.body),
        )


class WebDoor:
    """Handler of every inference path, for what did not come by the raw front."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serves one request."""
        dispatcher = self._dispatcher
        arrived = dispatcher.clock()
        try:
            client = dispatcher.identify(request.headers, listener_token(request))
        except RbeeError as e:
            return _answer(dispatcher.turned_away(e, request.path, dispatcher.clock() - arrived))
        incoming = _Incoming(request, client, await read_body(request, defaults.MAX_BODY), arrived)
        if incoming.gone:
            return _gone()
        await incoming.ready()
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def over(_: Passage) -> None:
            if not ended.done():
                ended.set_result(None)

        passage = Passage(dispatcher, incoming, over)
        passage.start()
        try:
            await ended
        except asyncio.CancelledError:
            passage.cancel()
            raise
        if passage.refusal is not None:
            return _answer(passage.refusal)
        if passage.relay is None:
            return _gone()
        return SentResponse(passage.relay.outcome(), keep_alive=not passage.relay.closing)


def _answer(refusal: Refusal) -> web.Response:
    answer = web.Response(
        body=refusal.body, status=refusal.status, content_type="application/json", headers=refusal.headers
    )
    if refusal.closes:
        answer.force_close()
    return answer


def _gone() -> SentResponse:
    left = Outcome(status=499, end="client_gone", bytes=0, seconds=0.0, first_byte_seconds=None)
    return SentResponse(left, keep_alive=False)
