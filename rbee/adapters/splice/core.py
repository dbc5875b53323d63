# SPDX-License-Identifier: GPL-3.0-or-later
"""The splice itself: `forward` a request and relay the answer's bytes, or `open` one and read it here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from aiohttp import web

from . import heads
from .client import ClientTap, Outcome, SentResponse
from .connection import Upstream
from .heads import Header
from .pool import Pool
from .reader import Answer
from .relay import DecodingRelay, OnHead, Relay
from .watch import Watch

_HTTP_1_1 = (1, 1)
#: Requests of these methods say a length only when they have a body.
_BODYLESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))


class Splice:
    """Connections to all upstreams and the two ways to use them. One for each event loop.

    `clock` gives seconds that never go back. At most `max_idle` connections to one upstream are kept,
    none unused for longer than `idle_seconds` is used again.
    """

    def __init__(self, *, clock: Callable[[], float], max_idle: int = 128, idle_seconds: float = 30.0) -> None:
        self._clock = clock
        self.pool = Pool(clock, max_idle, idle_seconds)
        self._watch = Watch(clock)

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
        on_head: OnHead | None = None,
        connect_timeout: float | None = 5.0,
        first_byte_timeout: float | None = None,
        total_timeout: float | None = None,
        stall_timeout: float | None = None,
        kind: Callable[..., Relay] | None = None,
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
        method = method or request.method
        payload = heads.request_head(
            method,
            target or _target(request),
            upstream.host,
            upstream.port,
            client_headers=request.raw_headers if client_headers is None else client_headers,
            headers=headers,
            body_length=None if not body and method in _BODYLESS else len(body),
        )
        transport = request.transport
        clock = self._clock
        started = clock()
        if transport is None or transport.is_closing():
            return _left(clock() - started)
        tap = ClientTap.of(transport)
        if tap.paused:
            await request.writer.drain()
        old_client = request.version < _HTTP_1_1
        tap.relay = relay = (kind or (DecodingRelay if old_client else Relay))(
            method,
            self._watch.loop,
            transport,
            [heads.header_line(name, value) for name, value in extra_headers],
            old_client or not request.keep_alive,
            on_head,
            clock,
            stall_timeout,
        )
        relay.expect(
            None if first_byte_timeout is None else started + first_byte_timeout,
            None if total_timeout is None else started + total_timeout,
        )
        self._watch.add(relay)
        try:
            await self.pool.send(upstream, relay, payload + body if body else payload, connect_timeout)
        except BaseException:
            relay.client_gone()
            if relay.status:
                transport.abort()
            raise
        finally:
            tap.relay = None
            self._watch.remove(relay)
        outcome = Outcome(
            status=relay.status or 499,
            end=relay.end,
            bytes=relay.received,
            seconds=clock() - started,
            first_byte_seconds=None if relay.first_byte is None else relay.first_byte - started,
            reason=relay.reason,
        )
        return SentResponse(outcome, keep_alive=not relay.closing)

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
        payload = heads.request_head(
            method,
            target,
            upstream.host,
            upstream.port,
            client_headers=client_headers,
            headers=headers,
            body_length=None if not body and method in _BODYLESS else len(body),
        )
        answer = Answer(method, self._watch.loop)
        if first_byte_timeout is not None:
            answer.due = self._clock() + first_byte_timeout
            self._watch.add(answer)
        try:
            await self.pool.send(upstream, answer, payload + body if body else payload, connect_timeout)
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


def _target(request: web.BaseRequest) -> str:
    """Path and query as the client wrote them; of a whole URL (clients that think us a proxy) only those."""
    said = request.raw_path
    return said if said[:1] == "/" else request.rel_url.raw_path_qs


def _left(seconds: float) -> SentResponse:
    gone = Outcome(status=499, end="client_gone", bytes=0, seconds=seconds, first_byte_seconds=None)
    return SentResponse(gone, keep_alive=False)
