# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers written to clients that may be slow or stop reading: in pieces, each waited for, none for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from aiohttp import web

from rbee.contracts import codec
from rbee.daemons.middleware import json_response

#: A reader that takes nothing for this long is dropped.
READER_TIMEOUT = 60.0
#: Bytes that are written to a reader at once, about.
BATCH_BYTES = 128 * 2**10
#: What is larger is written in pieces of this size, so that a reader never holds a copy of it.
PIECE = 64 * 2**10


class Watch:
    """One timer for a reader, instead of one for each write: wakes it every `every` idle seconds (it waits on
    `waiter`), drops it when it is stuck."""

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

    async def write(self, response: web.StreamResponse, *parts: bytes) -> None:
        """Writes, and waits while the client does not read."""
        for part in parts:
            for piece in _pieces(part):
                self.busy_since = self._loop.time()
                await response.write(piece)
        self.idle_since, self.busy_since = self._loop.time(), None

    def stop(self) -> None:
        self._timer.cancel()


def _pieces(data: bytes) -> Iterator[bytes | memoryview]:
    if len(data) <= BATCH_BYTES:
        yield data
        return
    view = memoryview(data)
    for begin in range(0, len(data), PIECE):
        yield view[begin : begin + PIECE]


async def send_json(request: web.Request, value: object) -> web.StreamResponse:
    """`json_response` of what may be large: a client that is slow to read it holds it once, and not for ever."""
    data = codec.encode(value)
    if len(data) <= BATCH_BYTES:
        return json_response(codec.embedded(data))
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    watch = Watch(request.transport, READER_TIMEOUT / 4)
    try:
        await watch.write(response, data)
        await response.write_eof()
    except ConnectionError:
        pass  # the client left
    finally:
        watch.stop()
    return response
