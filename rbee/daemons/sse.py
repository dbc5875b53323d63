# SPDX-License-Identifier: GPL-3.0-or-later
"""Server-sent events, both ends: frames of a feed to many readers, and a parser of another daemon's stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

from aiohttp import web

from rbee.contracts import defaults

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
KEEPALIVE = b": keepalive\n\n"
#: A reader that takes nothing for this long is dropped; it may come back with Last-Event-ID.
READER_TIMEOUT = 60.0
#: Frames that are written to a reader at once, at most; and bytes, about.
BATCH = 256
BATCH_BYTES = 128 * 2**10
#: A larger frame is written in pieces of this size, so that a reader never holds a copy of it.
PIECE = 64 * 2**10


def frame(data: bytes, seq: int | None = None) -> bytes:
    """One event of one line of JSON."""
    return b"id: %d\ndata: %b\n\n" % (seq, data) if seq is not None else b"data: %b\n\n" % data


class Feed:
    """The frames of one stream, encoded once and shared by all readers; a reader is only a number.

    Bounded: beyond `limit` frames, or `limit_bytes` of them, the oldest go (the last one stays, whatever its size).
    A reader that was slower than that misses them and goes on with the oldest one kept. Belongs to one event loop.
    """

    __slots__ = (
        "_bytes",
        "_frames",
        "_heard_at",
        "_limit",
        "_limit_bytes",
        "_readers",
        "_waiters",
        "ended",
        "first",
        "tail",
    )

    def __init__(self, limit: int = defaults.MAX_JOB_EVENTS, limit_bytes: int = defaults.MAX_JOB_BYTES) -> None:
        self._frames: list[bytes] = []
        self._bytes = 0
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._waiters: set[asyncio.Future[None]] = set()
        self._readers = 0
        self._heard_at = time.monotonic()
        #: Number of the oldest frame kept; the first frame ever is 1.
        self.first = 1
        self.ended = False
        #: What every reader gets last, once ended.
        self.tail = b""

    @property
    def next_seq(self) -> int:
        return self.first + len(self._frames)

    def append(self, data: bytes) -> int:
        """Adds an event (JSON) and wakes the readers; its number."""
        seq = self.next_seq
        made = frame(data, seq)
        self._frames.append(made)
        self._bytes += len(made)
        # A little beyond the bounds, so that it is not done for every event.
        if len(self._frames) > self._limit + self._limit // 8 or self._bytes > self._limit_bytes * 9 // 8:
            self._drop_oldest()
        self._wake()
        return seq

    def _drop_oldest(self) -> None:
        dropped, left = 0, len(self._frames)
        while left > 1 and (left > self._limit or self._bytes > self._limit_bytes):
            self._bytes -= len(self._frames[dropped])
            dropped, left = dropped + 1, left - 1
        del self._frames[:dropped]
        self.first += dropped

    def end(self, tail: bytes) -> None:
        """No more events; readers get `tail` and are done."""
        self.tail = tail
        self.ended = True
        self._wake()

    def after(self, seq: int, most: int = BATCH) -> tuple[int, bytes]:
        """The frames behind number `seq`, joined (a single one as it is kept), and the number of the last of them."""
        start = max(seq + 1 - self.first, 0)
        end, size = start, 0
        for made in self._frames[start : start + most]:
            size += len(made)
            if end > start and size > BATCH_BYTES:
                break
            end += 1
        frames = self._frames[start:end]
        if not frames:
            return seq, b""
        return self.first + end - 1, frames[0] if len(frames) == 1 else b"".join(frames)

    def enter(self) -> None:
        """A reader is here, until it calls `exit`."""
        self._readers += 1

    def exit(self) -> None:
        self._readers -= 1
        self._heard_at = time.monotonic()

    def unheard(self) -> float:
        """Seconds for which there has been no reader."""
        return 0.0 if self._readers else time.monotonic() - self._heard_at

    def waiter(self) -> asyncio.Future[None]:
        """Ends when there is more; whoever got it may end it too."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        self._waiters.discard(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class _Watch:
    """One timer for a reader, instead of one for each event: wakes it for a keepalive, drops it when it is stuck."""

    __slots__ = ("_every", "_loop", "_timer", "_transport", "busy_since", "idle_since", "waiter")

    def __init__(self, transport: asyncio.Transport | None, every: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._every = every
        self.waiter: asyncio.Future[None] | None = None
        self.idle_since = self._loop.time()
        self.busy_since: float | None = None
        self._timer = self._loop.call_later(every, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        if self.busy_since is not None and now - self.busy_since > READER_TIMEOUT:
            if self._transport is not None:
                self._transport.abort()
            return
        wait = self._every
        if self.busy_since is None and self.waiter is not None and not self.waiter.done():
            wait = self.idle_since + self._every - now
            if wait <= 0.001:
                self.waiter.set_result(None)
                wait = self._every
        self._timer = self._loop.call_later(wait, self._tick)

    async def write(self, response: web.StreamResponse, data: bytes) -> None:
        """Writes, and waits while the client does not read."""
        pieces: Iterable[bytes | memoryview] = [data] if len(data) <= BATCH_BYTES else _pieces(data)
        for piece in pieces:
            self.busy_since = self._loop.time()
            await response.write(piece)
        self.idle_since, self.busy_since = self._loop.time(), None

    def stop(self) -> None:
        self._timer.cancel()


def _pieces(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[i : i + PIECE] for i in range(0, len(data), PIECE))


async def serve(
    request: web.Request, feed: Feed, after: int = 0, keepalive: float = defaults.SSE_KEEPALIVE
) -> web.StreamResponse:
    """Streams `feed` to a client from the event behind `after` on, until it ends or the client goes.

    A client that stops reading holds one write buffer and nothing more; after READER_TIMEOUT it is dropped.
    """
    response = await open_stream(request)
    if request.method == "HEAD":
        return response
    watch = _Watch(request.transport, keepalive)
    feed.enter()
    try:
        while True:
            after, data = feed.after(after)
            if not data and not feed.ended:
                watch.waiter = feed.waiter()
                try:
                    await watch.waiter
                finally:
                    feed.leave(watch.waiter)
                    watch.waiter = None
                after, data = feed.after(after)
                if not data and not feed.ended:
                    data = KEEPALIVE
            if data:
                await watch.write(response, data)
            else:
                await watch.write(response, feed.tail)
                await response.write_eof()
                break
    except ConnectionError:
        pass  # the client left
    finally:
        watch.stop()
        feed.exit()
    return response


async def serve_stored(
    request: web.Request, pages: Callable[[int], Awaitable[list[tuple[int, bytes]]]], after: int, tail: bytes
) -> web.StreamResponse:
    """Streams what is kept of an ended stream: `pages(n)` gives the events behind number `n`, in order."""
    response = await open_stream(request)
    if request.method == "HEAD":
        return response
    watch = _Watch(request.transport, READER_TIMEOUT / 4)
    try:
        while events := await pages(after):
            await watch.write(response, b"".join(frame(data, seq) for seq, data in events))
            after = events[-1][0]
        await watch.write(response, tail)
        await response.write_eof()
    except ConnectionError:
        pass
    finally:
        watch.stop()
    return response


async def open_stream(request: web.Request) -> web.StreamResponse:
    """The response of an event stream, its head sent."""
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    return response


def last_event_id(request: web.Request) -> int:
    """What `Last-Event-ID` says; 0 (from the first) when it is missing or no number of ours."""
    said = request.headers.get("Last-Event-ID", "").strip()
    return int(said) if said.isdecimal() and len(said) < 16 else 0
