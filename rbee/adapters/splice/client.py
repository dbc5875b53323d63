# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's side: hearing of its connection past the front, and the response that was already sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

import msgspec
from aiohttp import web

#: `completed`; `client_gone`: it left first; `upstream_died`: after the first byte; `timed_out` and `stopped` (by us):
#: likewise.
End = Literal["completed", "client_gone", "upstream_died", "timed_out", "stopped"]


class Hearing(Protocol):
    """What hears of a client's connection while it is served: a relay, or who waits for one."""

    def client_gone(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Tap(Protocol):
    """A client's connection. `relay` is told what happens on it; `paused`: nothing more can be written now."""

    paused: bool
    relay: Hearing | None


class ClientRequest(Protocol):
    """A request whose answer is relayed, whatever front took it in."""

    @property
    def keep_alive(self) -> bool:
        """Whether the client's connection may serve again after this."""

    @property
    def old(self) -> bool:
        """Whether the client speaks HTTP/1.0: no chunks, and the connection ends with the answer."""

    @property
    def transport(self) -> asyncio.Transport | None: ...

    @property
    def tap(self) -> Tap: ...


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a forwarded request went. Seconds are of the splice's clock, from the call of `forward`."""

    #: Of the upstream's answer; 499 when the client left before there was one.
    status: int
    end: End
    #: Of the answer as the upstream sent it, head and framing included.
    bytes: int
    seconds: float
    #: Until the head of the answer was there; None when it never was.
    first_byte_seconds: float | None
    #: What the upstream did, when it died.
    reason: str = ""


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The request's whole body, once. Raises aiohttp's HTTPRequestEntityTooLarge (413) above `limit` bytes.

    Most bodies are there when the handler starts; those are taken without waiting. The app's
    `client_max_size` holds for the others.
    """
    content = request.content
    body = content.read_nowait() if content.is_eof() else await request.read()
    if len(body) > limit:
        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=len(body))
    return body


class SentResponse(web.StreamResponse):
    """What a handler returns when the answer has been written past aiohttp: nothing is left to send.

    Signals for `on_response_prepare` don't run for it, and headers set on it afterwards go nowhere.
    """

    def __init__(self, outcome: Outcome, *, keep_alive: bool) -> None:
        super().__init__(status=outcome.status)
        self.outcome = outcome
        self._reusable = keep_alive

    @property
    def prepared(self) -> bool:
        return True

    @property
    def keep_alive(self) -> bool:
        return self._reusable

    @property
    def body_length(self) -> int:
        return self.outcome.bytes

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        raise RuntimeError("the response was already sent")

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class ClientTap(asyncio.BaseProtocol):
    """Stands between a client's transport and aiohttp's handler, from the first relayed request on.

    What arrives goes straight to the handler; that writing must wait, may go on, or that the connection
    is lost goes to the handler and to the relay of the moment, so that neither has to be polled.
    """

    __slots__ = ("_handler", "data_received", "eof_received", "paused", "relay")

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self.data_received = handler.data_received
        self.eof_received = handler.eof_received
        self.paused = bool(handler.writing_paused)
        self.relay: Hearing | None = None

    @classmethod
    def of(cls, transport: asyncio.Transport) -> ClientTap:
        """The tap of this connection, put in when it has none."""
        protocol = transport.get_protocol()
        if type(protocol) is cls:
            return protocol
        tap = cls(protocol)
        transport.set_protocol(cast(asyncio.BaseProtocol, tap))
        return tap

    def connection_lost(self, exc: Exception | None) -> None:
        relay, self.relay = self.relay, None
        if relay is not None:
            relay.client_gone()
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self.paused = True
        self._handler.pause_writing()
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        self.paused = False
        self._handler.resume_writing()
        if self.relay is not None:
            self.relay.resume()


class WebRequest:
    """aiohttp's request as a `ClientRequest`. Its connection has a tap from the first look at it on."""

    __slots__ = ("keep_alive", "method", "old", "raw_headers", "request", "tap", "target", "transport")

    def __init__(self, request: web.BaseRequest) -> None:
        self.request = request
        self.method = request.method
        said = request.raw_path
        # Of a whole URL (clients that think us a proxy) only path and query.
        self.target = said if said[:1] == "/" else request.rel_url.raw_path_qs
        self.raw_headers: Sequence[tuple[bytes, bytes]] = request.raw_headers
        self.old = request.version < (1, 1)
        self.keep_alive = request.keep_alive
        self.transport = request.transport
        if self.transport is not None and not self.transport.is_closing():
            self.tap: Tap = ClientTap.of(self.transport)

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self.transport is None or self.transport.is_closing()

    async def ready(self) -> None:
        """Waits until the client has taken enough of what was written to it before."""
        if self.tap.paused:
            await self.request.writer.drain()
