# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to upstreams, kept alive in a pool, and what one request and its answer look like on one."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import httptools

from . import heads
from .errors import BadAnswer, DiedBeforeFirstByte, FirstByteTimeout, UpstreamError
from .watch import NEVER

if TYPE_CHECKING:
    from .pool import Pool

#: The longest head of an answer that we read.
MAX_HEAD = 64 * 1024


#: A machine that lost its power or its network says no goodbye: it is given up after about half a minute in which
#: its kernel answers nothing. A live one may be silent for as long as it likes.
_DEAD_PEER = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", 15),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 30_000),  # for what was sent and is not acknowledged; Linux
        )
        if hasattr(socket, name)
    ),
]


class Upstream(NamedTuple):
    """Where to connect. `reuse` False: a fresh connection for every request (an engine that closes after each)."""

    host: str
    port: int
    reuse: bool = True


class UpstreamConnection(asyncio.Protocol):
    """One TCP connection to an upstream. Owned by the pool while idle, by one `Exchange` while busy."""

    __slots__ = ("closed", "exchange", "idle_since", "paused", "pool", "transport", "upstream", "used")

    transport: asyncio.Transport

    def __init__(self, pool: Pool, upstream: Upstream) -> None:
        self.pool = pool
        self.upstream = upstream
        self.exchange: Exchange | None = None
        self.closed = False
        self.paused = False
        self.used = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's signature is for pipes too; a TCP connection's is always a Transport.
        self.transport = transport  # type: ignore[assignment]
        tcp = transport.get_extra_info("socket")
        for level, name, value in _DEAD_PEER if tcp is not None else ():
            tcp.setsockopt(level, name, value)

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.data(data)
        else:
            self.abort()  # nothing was asked

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.lost(exc)
        else:
            self.pool.forget(self)

    def send(self, exchange: Exchange, request: bytes) -> None:
        """Starts `exchange` here. The whole request is handed over; the answer comes to the exchange."""
        self.exchange = exchange
        exchange.connection = self
        self.transport.write(request)

    def pause(self) -> None:
        """Stops reading: the upstream is to wait."""
        if not self.paused and not self.closed and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self.paused and not self.closed and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        """Closes at once; what was not sent yet is dropped. The exchange hears nothing of it."""
        self.exchange = None
        if not self.closed:
            self.transport.abort()


class Exchange(ABC):
    """One request to one upstream and its answer; base of what relays it and of what reads it.

    A subclass gets `answered(rest)` when the head is there, `body(data)` for each piece after it, and
    `ended(error)` exactly once at the end (None: the answer came whole). `waiter` ends with the error of
    an answer that never began; when it ends well is the subclass's choice.
    """

    # The state of an answer that has not begun, in the class: one is made for every request.
    connection: UpstreamConnection | None = None
    #: Of the answer, 0 until its head is complete.
    status = 0
    #: As the upstream sent it.
    head = b""
    #: Bytes of the answer so far, the head included.
    received = 0
    _pending = b""
    _begun = 0
    _complete = False
    _keep_alive = False
    _until_close = False
    _finished = False
    #: When the head of the answer must be there, later when the answer must go on (see `watch`).
    due = NEVER
    _parser: httptools.HttpResponseParser | None

    def __init__(self, method: str, loop: asyncio.AbstractEventLoop) -> None:
        self.method = method
        self._loop = loop
        self.waiter: asyncio.Future[None] = loop.create_future()
        self._parser = parser = httptools.HttpResponseParser(self)
        self._feed = parser.feed_data

    def restart(self) -> None:
        """Makes ready for an answer again, after one that never began."""
        self.waiter = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._finished = False

    @property
    def untouched(self) -> bool:
        """Whether not one byte of an answer has come."""
        return not self.received and not self._pending

    # What a subclass does with the answer.

    @abstractmethod
    def answered(self, rest: bytes) -> None: ...

    @abstractmethod
    def body(self, data: bytes) -> None: ...

    @abstractmethod
    def ended(self, error: UpstreamError | None) -> None: ...

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        self.status = parser.get_status_code()
        self._keep_alive = parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self._complete = True

    # Called by the connection.

    def data(self, data: bytes) -> None:
        """Walks the next bytes of the answer and hands them on."""
        if not self.status:
            self._collect_head(data)
            return
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self.fail(f"it broke HTTP's rules: {error}")
            return
        if self._begun > 1:
            self.fail("it sent more than it was asked for")
            return
        self.received += len(data)
        self.body(data)
        if self._complete:
            self.finish()

    def lost(self, exc: Exception | None) -> None:
        """The connection ended: well only for a body that lasts until then."""
        if self._until_close and exc is None:
            self._keep_alive = False
            self.finish()
        else:
            self.fail(f"the connection was lost: {exc}" if exc else "it closed the connection")

    def _collect_head(self, data: bytes) -> None:
        buffer = self._pending + data if self._pending else data
        end = buffer.find(b"\r\n\r\n")
        while end >= 0 and buffer.startswith(b"HTTP/1.1 1") and not buffer.startswith(b"HTTP/1.1 101"):
            buffer = buffer[end + 4 :]  # an interim answer: the front has spoken for itself
            end = buffer.find(b"\r\n\r\n")
        if end < 0:
            self._pending = buffer
            if len(buffer) > MAX_HEAD or b"HTTP/"[: len(buffer)] != buffer[:5]:
                self.fail("no HTTP answer", BadAnswer)
            return
        self.head = buffer[: end + 4]
        try:
            self._feed(buffer)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.status = 0
            self.fail(f"no HTTP answer: {error}", BadAnswer)
            return
        self._pending, rest = b"", buffer[end + 4 :]
        if self._begun > 1 or not 200 <= self.status <= 999:
            self.status = 0
            self.fail("no HTTP answer to this request", BadAnswer)
            return
        if self.method == "HEAD":
            self._complete, self._keep_alive, rest = True, self._keep_alive and not rest, b""
        elif not self._keep_alive and not self._complete:
            self._until_close = not heads.has_length(self.head) and not heads.is_chunked(self.head)
        self.received = len(self.head) + len(rest)
        self.answered(rest)
        if self._complete:
            self.finish()

    # The ends.

    def finish(self) -> None:
        """The answer is whole: the connection goes back to the pool if it can serve again."""
        if self._finished:
            return
        self._finish()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.exchange = None
            if self._keep_alive and not connection.transport.get_write_buffer_size():
                connection.pool.release(connection)
            else:
                connection.abort()
        self.ended(None)

    def fail(self, reason: str, kind: type[UpstreamError] | None = None) -> None:
        """Ends the exchange and its connection: with `kind` before the head is complete, or mid-answer."""
        if self._finished:
            return
        self._finish()
        where = self.close()
        if not self.status:
            error = (kind or DiedBeforeFirstByte)(f"{where}: {reason}")
            if not self.waiter.done():
                self.waiter.set_exception(error)
                self.waiter.exception()  # asked for, so that nothing is logged when nobody waits any more
            return
        self.ended(UpstreamError(f"{where}: {reason}"))

    def overdue(self, now: float) -> None:
        """The time for the head of the answer is over; nothing when it has come."""
        self.due = NEVER
        if not self.status:
            self.fail("no answer in time", FirstByteTimeout)

    def close(self) -> str:
        """Closes the upstream's connection at once, so that it stops working for nobody; names the upstream."""
        connection, self.connection = self.connection, None
        if connection is None:
            return "upstream"
        connection.abort()
        return f"{connection.upstream.host}:{connection.upstream.port}"

    def _finish(self) -> None:
        self._finished = True
        self._parser = None  # the parser holds our bound methods: no cycle for the collector to find
        del self._feed
