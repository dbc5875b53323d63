# SPDX-License-Identifier: GPL-3.0-or-later
"""The splice itself: `forward` a request and relay the answer's bytes, or `open` one and read it here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypedDict

from aiohttp import web

from . import heads
from .client import ClientRequest, Outcome, SentResponse, WebRequest
from .connection import Upstream
from .heads import Header, Line
from .pool import Pool
from .reader import Answer
from .relay import DecodingRelay, OnHead, Over, Relay
from .watch import Watch

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Requests of these methods say a length only when they have a body.
_BODYLESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))


class Options(TypedDict, total=False):
    """How a request is forwarded: see `Splice.forward`. Times are seconds from its start."""

    on_head: OnHead | None
    connect_timeout: float | None
    first_byte_timeout: float | None
    total_timeout: float | None
    stall_timeout: float | None
    kind: Callable[..., Relay] | None


class Splice:
    """Connections to all upstreams and the two ways to use them. One for each event loop.

    `clock` gives seconds that never go back. At most `max_idle` connections to one upstream are kept,
    none unused for longer than `idle_seconds` is used again.
    """

    def __init__(self, *, clock: Callable[[], float], max_idle: int = 128, idle_seconds: float = 30.0) -> None:
        self._clock = clock
        self.pool = Pool(clock, max_idle, idle_seconds)
        self._watch = Watch(clock)

    def start(
        self,
        client: ClientRequest,
        over: Over,
        *,
        upstream: Upstream,
        head: bytes,
        body: bytes,
        method: str = "POST",
        extra: Sequence[Line] = (),
        on_head: OnHead | None = None,
        connect_timeout: float | None = 5.0,
        first_byte_timeout: float | None = None,
        total_timeout: float | None = None,
        stall_timeout: float | None = None,
        kind: Callable[..., Relay] | None = None,
    ) -> Relay:
        """`forward` without a coroutine: `over(relay, error)` is called once, when all is over and never before this
        returns. `error` is what `forward` would raise; the rest is told by the relay's `outcome`.

        `head` is the request's as it goes to the upstream (see `heads`); `extra` goes into the answer's head. The
        client is there and can be written to.
        """
        transport, tap, watch = client.transport, client.tap, self._watch
        assert transport is not None

        def ended(relay: Relay, error: Exception | None) -> None:
            tap.relay = None
            watch.remove(relay)
            over(relay, error)

        relay = (kind or (DecodingRelay if client.old else Relay))(
            method,
            ended,
            transport,
            extra,
            client.old or not client.keep_alive,
            on_head,
            self._clock,
            stall_timeout,
        )
        relay.expect(first_byte_timeout, total_timeout)
        if stall_timeout is not None:
            relay.rewatch = watch.add
        tap.relay = relay
        watch.add(relay)
        self.pool.send(upstream, relay, head, body, connect_timeout)
        return relay

    async def forward(
        self,
        request: web.BaseRequest,
        *,
        upstream: Upstream,
        body: bytes,
        method: str | None = None,
        target: str | None = None,
        client_headers: Sequence[tuple[bytes, bytes]] | None = None,
        headers: Iterable[Header] = (),
        extra_headers: Iterable[Header] = (),
        **options: Unpack[Options],
    ) -> SentResponse:
        """Sends the request on and relays the answer's bytes to the client as they come; return what it returns.

        `body` goes out as it is. `client_headers` (None: the request's) are filtered, `headers` added as
        given: see `heads.request_head`. `extra_headers` and what `on_head` returns go into the answer's
        head. `stall_timeout`: the longest silence inside an answer. `kind` makes the relay, for those who
        need another one (HTTP/1.1 clients only).

        Raises ConnectRefused, ConnectTimeout, FirstByteTimeout or DiedBeforeFirstByte while nothing has
        been written to the client, so the request may be sent elsewhere (no other exception of ours comes
        later), and ValueError for headers that would break out of their line. After the first byte every
        end is told by the returned response's `outcome`: an upstream that dies there ends a stream of
        events with an error frame, and any other answer visibly incomplete. A client that leaves closes
        the upstream's connection at once. Cancelled: both connections are closed.
        """
        client = WebRequest(request)
        if client.gone:
            gone = Outcome(status=499, end="client_gone", bytes=0, seconds=0.0, first_byte_seconds=None)
            return SentResponse(gone, keep_alive=False)
        await client.ready()
        ended: asyncio.Future[None] = self._watch.loop.create_future()

        def over(relay: Relay, error: Exception | None) -> None:
            if ended.done():
                return
            if error is None:
                ended.set_result(None)
            else:
                ended.set_exception(error)

        method = method or client.method
        head = heads.request_head(
            method,
            target or client.target,
            upstream.host,
            upstream.port,
            client_headers=client.raw_headers if client_headers is None else client_headers,
            headers=[heads.header_line(name, value) for name, value in headers],
            body_length=None if not body and method in _BODYLESS else len(body),
        )
        extra = [heads.header_line(name, value) for name, value in extra_headers]
        relay = self.start(client, over, upstream=upstream, head=head, body=body, method=method, extra=extra, **options)
        try:
            await ended
        except asyncio.CancelledError:
            relay.cancel()
            raise
        return SentResponse(relay.outcome(), keep_alive=not relay.closing)

    async def open(
        self,
        upstream: Upstream,
        *,
        method: str = "POST",
        target: str,
        body: bytes = b"",
        client_headers: Sequence[tuple[bytes, bytes]] = (),
        headers: Iterable[Header] = (),
        connect_timeout: float | None = 5.0,
        first_byte_timeout: float | None = None,
    ) -> Answer:
        """Sends a request and returns its answer once the head is there: `async with await splice.open(...)`.

        Raises as `forward` does; reading the body raises DiedMidAnswer. When the caller is cancelled or
        leaves the `async with` early, the connection closes at once.
        """
        head = heads.request_head(
            method,
            target,
            upstream.host,
            upstream.port,
            client_headers=client_headers,
            headers=[heads.header_line(name, value) for name, value in headers],
            body_length=None if not body and method in _BODYLESS else len(body),
        )
        answer = Answer(method, self._watch.loop)
        if first_byte_timeout is not None:
            answer.due = self._clock() + first_byte_timeout
            self._watch.add(answer)
        try:
            self.pool.send(upstream, answer, head, body, connect_timeout)
            await answer.waiter
        except BaseException:
            answer.cancel()
            raise
        finally:
            self._watch.remove(answer)
        return answer

    def drop(self, upstream: Upstream) -> None:
        """Closes the idle connections to an upstream that left."""
        self.pool.drop(upstream)

    async def close(self) -> None:
        """Closes the idle connections and lets the loop see it."""
        self.pool.close()
        await asyncio.sleep(0)
