# SPDX-License-Identifier: GPL-3.0-or-later
"""A stream from the engine to the client: held until the first real event, from then on bytes nobody reads.

The engine tells its progress while it reads the prompt, which is what makes it notice a client that has left. The
client did not ask for that; and with the head held back, an engine that dies so far can still be answered for.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from aiohttp import web

from rbee.adapters.splice import SentResponse, Splice, Upstream, heads
from rbee.adapters.splice.relay import Relay
from rbee.contracts import defaults
from rbee.daemons.worker.words import Counts, counts_in, is_chatter

_MAX_HELD = 4 * 2**20


class HeldRelay(Relay):
    """Drops progress events until the first other one. An answer that is no stream is kept in `held`, unsent."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
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
    body: bytes,
    headers: tuple[tuple[str, str], ...],
    seconds: float | None,
) -> tuple[HeldRelay | None, SentResponse]:
    """Asks the engine and relays its stream. `relay.opened` False: nothing was written, and the caller answers.

    `seconds` is the client's time for the whole; the relay is None when the client had left before. Raises
    UpstreamError when no head came. The client's leaving closes the engine's connection, which ends the generation.
    """
    made: list[HeldRelay] = []

    def held(*arguments: Any) -> HeldRelay:
        made.append(HeldRelay(*arguments))
        return made[0]

    response = await splice.forward(
        request,
        upstream=upstream,
        body=body,
        client_headers=(),
        headers=(*headers, ("Content-Type", "application/json")),
        connect_timeout=defaults.CONNECT_TIMEOUT,
        total_timeout=seconds,
        kind=held,
    )
    return (made[0] if made else None), response
