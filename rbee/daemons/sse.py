# SPDX-License-Identifier: GPL-3.0-or-later
"""Server-sent events, both ends: frames of a feed to many readers, and a parser of another daemon's stream."""

from __future__ import annotations

import asyncio

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
#: Frames that are written to a reader at once, at most.
BATCH = 256


def frame(data: bytes, seq: int | None = None) -> bytes:
    """One event of one line of JSON."""
    return b"id: %d\ndata: %b\n\n" % (seq, data) if seq is not None else b"data: %b\n\n" % data


class Feed:
    """The frames of one stream, encoded once and shared by all readers; a reader is only a number.

    Bounded: beyond `limit` the oldest frames go. A reader that was slower than that misses them and goes on
    with the oldest one kept. Belongs to one event loop.
    """

    __slots__ = ("_frames", "_limit", "_waiters", "ended", "first", "tail")

    def __init__(self, limit: int = defaults.MAX_JOB_EVENTS) -> None:
        self._frames: list[bytes] = []
        self._limit = limit
        self._waiters: set[asyncio.Future[None]] = set()
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
        self._frames.append(frame(data, seq))
        if len(self._frames) > self._limit + self._limit // 8:
            dropped = len(self._frames) - self._limit
            del self._frames[:dropped]
            self.first += dropped
        self._wake()
        return seq

    def end(self, tail: bytes) -> None:
        """No more events; readers get `tail` and are done."""
        self.tail = tail
        self.ended = True
        self._wake()

    def after(self, seq: int, most: int = BATCH) -> tuple[int, bytes]:
        """The frames behind number `seq`, joined, and the number of the last of them."""
        start = max(seq + 1 - self.first, 0)
        frames = self._frames[start : start + most]
        return (self.first + start + len(frames) - 1 if frames else seq), b"".join(frames)

    async def changed(self, timeout: float) -> bool:
        """Waits until there is more; False when `timeout` seconds passed first."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait_for(waiter, timeout)
        except (asyncio.TimeoutError, TimeoutError):
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


async def serve(
    request: web.Request, feed: Feed, after: int = 0, keepalive: float = defaults.SSE_KEEPALIVE
) -> web.StreamResponse:
    """Streams `feed` to a client from the event behind `after` on, until it ends or the client goes.

    A client that stops reading holds one write buffer and nothing more; after READER_TIMEOUT it is dropped.
    """
    response = await open_stream(request)
    try:
        while True:
            last, data = feed.after(after)
            if data:
                after = last
                await asyncio.wait_for(response.write(data), READER_TIMEOUT)
            elif feed.ended:
                await asyncio.wait_for(response.write(feed.tail), READER_TIMEOUT)
                await response.write_eof()
                break
            elif not await feed.changed(keepalive):
                await asyncio.wait_for(response.write(KEEPALIVE), READER_TIMEOUT)
    except (asyncio.TimeoutError, TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()
    return response


async def open_stream(request: web.Request) -> web.StreamResponse:
    """The response of an event stream, its head sent."""
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    return response


def last_event_id(request: web.Request) -> int:
    """What `Last-Event-ID` says; 0 (from the first) when it is missing or no number of ours."""
    said = request.headers.get("Last-Event-ID", "").strip()
    return int(said) if said.isdigit() and len(said) < 16 else 0


class Parser:
    """Bytes of an event stream in, `(id, data)` of each event out. Comments and other fields are passed over."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[tuple[int | None, bytes]]:
        """Every event that is complete now; its id is None when it has none, or no number."""
        *events, self._pending = (self._pending + data).replace(b"\r\n", b"\n").split(b"\n\n")
        found = (_event(event) for event in events)
        return [x for x in found if x is not None]


def _event(event: bytes) -> tuple[int | None, bytes] | None:
    seq: int | None = None
    lines: list[bytes] = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            lines.append(value)
        elif name == b"id" and value.isdigit():
            seq = int(value)
    return (seq, b"\n".join(lines)) if lines else None
