# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading an upstream's answer instead of relaying it: decoded pieces, or server-sent events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType

import msgspec

from . import heads
from .errors import DiedMidAnswer, UpstreamError
from .exchange import Exchange

#: Bytes waiting to be read before the upstream has to wait.
_HIGH = 256 * 1024
#: The longest single event.
_MAX_EVENT = 16 * 1024 * 1024


class SseEvent(msgspec.Struct, frozen=True):
    """One server-sent event: `raw` is the whole frame with its blank line, ready to be sent on."""

    data: bytes
    event: bytes
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> SseEvent:
        """Reads one frame; comment lines and fields other than `data` and `event` only stay in `raw`."""
        data: list[bytes] = []
        name = b""
        for line in raw.replace(b"\r\n", b"\n").split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
        return cls(b"\n".join(data), name, raw)


class Answer(Exchange):
    """An answer being read. Use it as an async context manager: leaving closes what isn't finished at once.

    `waiter` ends when the head is there, or with the error of an answer that never began.
    """

    _queued = 0
    _over = False
    _error: UpstreamError | None = None
    _wake: asyncio.Future[None] | None = None

    def __init__(self, method: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(method)
        self._loop = loop
        self.waiter: asyncio.Future[None] = loop.create_future()
        self._pieces: deque[bytes] = deque()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Of the answer, in order; names in lower case."""
        return heads.parse_headers(self.head)

    def header(self, name: str) -> str | None:
        """The first value of header `name` (lower case)."""
        return next((value for key, value in self.headers if key == name), None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The decoded body as it comes. Raises DiedMidAnswer when it isn't whole."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._queued -= len(piece)
                if self._queued <= _HIGH // 2 and self.connection is not None:
                    self.connection.resume()
                yield piece
            if self._over:
                if self._error is not None:
                    raise DiedMidAnswer(str(self._error)) from self._error
                return
            self._wake = self._loop.create_future()
            await self._wake

    async def events(self) -> AsyncIterator[SseEvent]:
        """The server-sent events as they come; a last one without its blank line counts when the body is whole."""
        buffer = b""
        async for piece in self.chunks():
            buffer += piece
            while (end := _event_end(buffer)) > 0:
                raw, buffer = buffer[:end], buffer[end:]
                if raw.strip(b"\r\n"):
                    yield SseEvent.parse(raw)
            if len(buffer) > _MAX_EVENT:
                self.close()
                raise DiedMidAnswer("an event without an end")
        if buffer.strip(b"\r\n"):
            yield SseEvent.parse(buffer.rstrip(b"\r\n") + b"\n\n")

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        """The whole decoded body. Raises DiedMidAnswer when it isn't whole or is longer than `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        async for piece in self.chunks():
            size += len(piece)
            if size > limit:
                self.close()
                raise DiedMidAnswer(f"the answer is longer than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def cancel(self) -> None:
        """Closes the upstream's connection at once unless the answer is whole."""
        if not self._finished:
            self._finish()
            self.close()
            self.ended(UpstreamError("it was closed on our side"))

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    # Called by the exchange.

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._queued += len(data)

    def answered(self, rest: bytes) -> None:
        if not self.waiter.done():
            self.waiter.set_result(None)
        self._read_on()

    def body(self, data: bytes) -> None:
        self._read_on()

    def unanswered(self, error: Exception) -> None:
        if not self.waiter.done():
            self.waiter.set_exception(error)
            self.waiter.exception()  # asked for, so that nothing is logged when nobody waits any more

    def ended(self, error: UpstreamError | None) -> None:
        self._over = True
        self._error = error
        self._read_on()

    def _read_on(self) -> None:
        if self._queued > _HIGH and self.connection is not None:
            self.connection.pause()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def _event_end(buffer: bytes) -> int:
    """Where the first event's blank line ends; 0 when it isn't there yet."""
    plain, dos = buffer.find(b"\n\n"), buffer.find(b"\r\n\r\n")
    if plain >= 0 and (dos < 0 or plain < dos):
        return plain + 2
    return dos + 4 if dos >= 0 else 0
