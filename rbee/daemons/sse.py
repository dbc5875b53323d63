# SPDX-License-Identifier: GPL-3.0-or-later
"""Server-sent events, both ends: frames of a feed to many readers, and a parser of another daemon's stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from rbee.contracts import defaults
from rbee.core.errors import InvalidRequest, Unavailable
from rbee.daemons.writing import BATCH_BYTES, READER_TIMEOUT, Watch

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
KEEPALIVE = b": keepalive\n\n"
#: Frames that are written to a reader at once, at most.
BATCH = 256
#: One event, or several; or the parts of a large one, which are shared with whoever else has them.
Frames = bytes | tuple[bytes, ...]


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

    def __init__(
        self, limit: int = defaults.MAX_JOB_EVENTS, limit_bytes: int = defaults.MAX_JOB_BYTES, first: int = 1
    ) -> None:
        self._frames: list[Frames] = []
        self._bytes = 0
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._waiters: set[asyncio.Future[None]] = set()
        self._readers = 0
        self._heard_at = time.monotonic()
        #: Number of the oldest frame kept; the first frame ever is 1. Those before may be in the store.
        self.first = first
        self.ended = False
        #: What every reader gets last, once ended.
        self.tail = b""

    @property
    def next_seq(self) -> int:
        return self.first + len(self._frames)

    def append(self, data: bytes, large: bytes = b"") -> int:
        """Adds an event (JSON) and wakes the readers; its number. A `large` one goes on with that, which is not
        copied, and a brace."""
        seq = self.next_seq
        made: Frames = frame(data, seq)
        if large:
            made = (b"id: %d\ndata: %b" % (seq, data), large, b"}\n\n")
        self._frames.append(made)
        self._bytes += _size(made)
        # A little beyond the bounds, so that it is not done for every event.
        if len(self._frames) > self._limit + self._limit // 8 or self._bytes > self._limit_bytes * 9 // 8:
            self._drop_oldest()
        self._wake()
        return seq

    def _drop_oldest(self) -> None:
        dropped, left = 0, len(self._frames)
        while left > 1 and (left > self._limit or self._bytes > self._limit_bytes):
            self._bytes -= _size(self._frames[dropped])
            dropped, left = dropped + 1, left - 1
        del self._frames[:dropped]
        self.first += dropped

    def end(self, tail: bytes) -> None:
        """No more events; readers get `tail` and are done."""
        self.tail = tail
        self.ended = True
        self._wake()

    def after(self, seq: int, most: int = BATCH) -> tuple[int, Frames]:
        """The frames behind number `seq`, joined (a single one as it is kept), and the number of the last of them."""
        start = max(seq + 1 - self.first, 0)
        frames: list[bytes] = []
        size = 0
        for made in self._frames[start : start + most]:
            size += _size(made)
            if frames and (size > BATCH_BYTES or isinstance(made, tuple)):
                break
            if isinstance(made, tuple):
                return self.first + start, made
            frames.append(made)
        if not frames:
            return seq, b""
        return self.first + start + len(frames) - 1, frames[0] if len(frames) == 1 else b"".join(frames)

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


def _size(made: Frames) -> int:
    return len(made) if isinstance(made, bytes) else sum(map(len, made))


async def serve(
    request: web.Request,
    feed: Feed,
    after: int = 0,
    keepalive: float = defaults.SSE_KEEPALIVE,
    *,
    large: bool = True,
    before: Callable[[int], Awaitable[list[tuple[int, bytes]]]] | None = None,
) -> web.StreamResponse:
    """Streams `feed` to a client from the event behind `after` on, until it ends or the client goes; without `large`
    events if it wants none. `before(n)` gives stored events behind number `n`, of a feed that began later than its job.

    A client that stops reading holds one write buffer and nothing more; after READER_TIMEOUT it is dropped.
    """
    response = await open_stream(request)
    if request.method == "HEAD":
        return response
    watch = Watch(request.transport, keepalive)
    feed.enter()
    try:
        while before is not None and after + 1 < feed.first and (events := await before(after)):
            await watch.write(response, b"".join(frame(data, seq) for seq, data in events))
            after = events[-1][0]
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
            if isinstance(data, tuple):
                await watch.write(response, *(data if large else ()))
            elif data:
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
    watch = Watch(request.transport, READER_TIMEOUT / 4)
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


async def serve_elsewhere(
    request: web.Request,
    pages: Callable[[int], Awaitable[list[tuple[int, bytes]]]],
    after: int,
    ended: Callable[[], Awaitable[bytes]],
    more: asyncio.Event,
    look: float,
) -> web.StreamResponse:
    """Streams what is stored of a job that runs in another daemon, and what comes, until it ends: `ended()` gives its
    tail then, nothing before. Looks when `more` is set, and every `look` seconds; while the store is away it waits."""
    response = await open_stream(request)
    if request.method == "HEAD":
        return response
    watch = Watch(request.transport, READER_TIMEOUT / 4)
    clock = asyncio.get_running_loop().time
    said = clock()
    try:
        while True:
            more.clear()
            try:
                tail = await ended()  # before the events: then those that are there are all
                while events := await pages(after):
                    await watch.write(response, b"".join(frame(data, seq) for seq, data in events))
                    after, said = events[-1][0], clock()
            except Unavailable:
                tail = b""
            if tail:
                await watch.write(response, tail)
                await response.write_eof()
                break
            if clock() - said > defaults.SSE_KEEPALIVE:
                await watch.write(response, KEEPALIVE)
                said = clock()
            timer = asyncio.get_running_loop().call_later(look, more.set)
            try:
                await more.wait()
            finally:
                timer.cancel()
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


def wants(request: web.Request, what: str) -> bool:
    """What `?large=` or `?follow=` says; true when it is missing. Raises InvalidRequest for what is neither true nor
    false."""
    said = request.query.getall(what, ["true"])
    if said not in (["true"], ["false"]):
        raise InvalidRequest(f"`{what}` must be true or false.")
    return said == ["true"]
