# SPDX-License-Identifier: GPL-3.0-or-later
"""A stream from the engine to the client: held until the first real event, from then on bytes nobody reads.

The engine tells its progress while it reads the prompt, which is what makes it notice a client that has left. The
client did not ask for that; and with the head held back, an engine that dies so far can still be answered for.
"""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp import web

from rbee.adapters.splice import Outcome, SentResponse, Splice, Upstream, UpstreamError, heads
from rbee.adapters.splice.client import ClientTap
from rbee.adapters.splice.relay import Relay
from rbee.daemons.worker.words import Counts, counts_in, is_chatter

_MAX_HELD = 4 * 2**20


class HeldRelay(Relay):
    """Drops progress events until the first other one. An answer that is no stream is kept in `held`, unsent."""

    __slots__ = ("_tail", "held", "opened")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, closing: bool) -> None:
        super().__init__("POST", loop, transport, extra=[], closing=closing, on_head=None, stall_timeout=None)

    def restart(self) -> None:
        super().restart()
        self.held = bytearray()
        #: Whether anything has been written to the client.
        self.opened = False
        self._tail: deque[bytes] = deque(maxlen=8)

    def answered(self, rest: bytes) -> None:
        self._hold(rest)

    def body(self, data: bytes) -> None:
        if self.opened:
            self._tail.append(data)
            super().body(data)
        else:
            self._hold(data)

    def counts(self) -> Counts:
        """What the end of the stream says; read only once, from its last pieces."""
        return counts_in(b"".join(self._tail))

    def _hold(self, data: bytes) -> None:
        self.held += data
        if self.status != 200 or not heads.is_plain_sse(self.head) or not heads.is_chunked(self.head):
            if len(self.held) > _MAX_HELD:
                self.fail("its answer is no stream and too long")
            return
        while (chunk := _first_chunk(self.held)) is not None:
            start, end = chunk
            real = _after_chatter(bytes(self.held[start:end]))
            if real or start == end:
                rest = bytes(self.held[end:])  # begins with the line end of the chunk
                framed = b"%x\r\n%b%b" % (len(real), real, rest) if real else b"0\r\n" + rest
                self.held.clear()
                self.opened = True
                self._tail.append(framed)
                super().answered(framed)
                return
            del self.held[: end + 2]

    def _say_cut_short(self) -> None:
        if self.opened:
            super()._say_cut_short()


def _first_chunk(held: bytearray) -> tuple[int, int] | None:
    """Where the data of the first HTTP chunk begins and ends; None while it isn't whole."""
    line = held.find(b"\r\n")
    if line < 0:
        return None
    start = line + 2
    end = start + int(bytes(held[:line]).partition(b";")[0], 16)
    return (start, end) if len(held) >= end + 2 else None


def _after_chatter(events: bytes) -> bytes:
    """What is left of a chunk's events once those at its beginning that are progress are gone."""
    while events:
        end = events.find(b"\n\n")
        first = events if end < 0 else events[:end]
        if not first.startswith(b"data: ") or not is_chatter(first[6:]):
            break
        events = b"" if end < 0 else events[end + 2 :]
    return events


async def relay_stream(
    request: web.BaseRequest,
    splice: Splice,
    upstream: Upstream,
    *,
    target: str,
    body: bytes,
    headers: tuple[tuple[str, str], ...],
    connect_timeout: float,
) -> tuple[HeldRelay, SentResponse]:
    """Asks the engine and relays its stream. `relay.opened` False: nothing was written, and the caller answers.

    Raises UpstreamError (but no DiedMidAnswer) when no head came. The client's leaving closes the engine's
    connection at once, which ends the generation.
    """
    payload = heads.request_head(
        "POST", target, upstream.host, upstream.port,
        client_headers=(), headers=(*headers, ("Content-Type", "application/json")), body_length=len(body),
    )  # fmt: skip
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client left")
    tap = ClientTap.of(transport)
    loop = asyncio.get_running_loop()
    started = loop.time()
    relay = HeldRelay(loop, transport, closing=not request.keep_alive)
    tap.relay = relay
    try:
        await splice.pool.send(
            upstream, relay, payload + body, connect_timeout=connect_timeout, first_byte_timeout=None
        )
    except UpstreamError:
        raise
    except BaseException:
        relay.client_gone()
        if relay.opened:
            transport.abort()
        raise
    finally:
        tap.relay = None
    if relay.opened:
        request.writer.output_size += len(relay.head)  # aiohttp must not answer on top of it
    outcome = Outcome(
        status=relay.status or 499, end=relay.end, bytes=relay.received, seconds=loop.time() - started,
        first_byte_seconds=None, reason=relay.reason,
    )  # fmt: skip
    return relay, SentResponse(outcome, keep_alive=not relay.closing)
