# SPDX-License-Identifier: GPL-3.0-or-later
"""One request to an upstream and its answer, walked by llhttp as its bytes come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import httptools

from . import heads
from .connection import UpstreamConnection
from .errors import BadAnswer, DiedBeforeFirstByte, FirstByteTimeout, UpstreamError
from .watch import NEVER

#: The longest head of an answer that we read.
MAX_HEAD = 64 * 1024
#: Larger bodies are not copied to stand beside their head.
_JOINED = 32 * 1024


class Exchange(ABC):
    """One request to one upstream and its answer; base of what relays it and of what reads it.

    A subclass gets `answered(rest)` when the head is there, `body(data)` for each piece after it, and
    `ended(error)` exactly once at the end (None: the answer came whole); or instead of all that
    `unanswered(error)`, once. `again`, where it is set, sends the request once more when a connection that
    was kept turns out to have been closed before the first byte.
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
    again: Callable[[], None] | None = None
    _parser: httptools.HttpResponseParser | None

    def __init__(self, method: str) -> None:
        self.method = method
        self._parser = parser = httptools.HttpResponseParser(self)
        self._feed = parser.feed_data

    def send(self, connection: UpstreamConnection, head: bytes, body: bytes) -> None:
        """Starts here on `connection`: the whole request is handed over."""
        connection.exchange = self
        self.connection = connection
        if len(body) < _JOINED:
            connection.transport.write(head + body)
        else:
            connection.transport.writelines((head, body))

    @property
    def finished(self) -> bool:
        """Whether it is over: whole, failed or given up."""
        return self._finished

    # What a subclass does with the answer.

    @abstractmethod
    def answered(self, rest: bytes) -> None: ...

    @abstractmethod
    def body(self, data: bytes) -> None: ...

    @abstractmethod
    def ended(self, error: UpstreamError | None) -> None: ...

    @abstractmethod
    def unanswered(self, error: Exception) -> None: ...

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
        self.again = None  # with it goes the request's body
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
        where = self.close()
        if self.status:
            self._finish()
            self.ended(UpstreamError(f"{where}: {reason}"))
        elif self.again is not None and kind is None and not self.received and not self._pending:
            again, self.again = self.again, None
            again()
        else:
            self.refuse((kind or DiedBeforeFirstByte)(f"{where}: {reason}"))

    def refuse(self, error: Exception) -> None:
        """Ends an exchange whose answer has not begun, and will not."""
        if not self._finished:
            self._finish()
            self.unanswered(error)

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
        self.again = None
        self._parser = None  # the parser holds our bound methods: no cycle for the collector to find
        del self._feed
