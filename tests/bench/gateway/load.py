# SPDX-License-Identifier: GPL-3.0-or-later
"""The load: raw protocols with llhttp, so that the clients cost little. Every answer is compared, byte for byte."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import httptools

from tests.support.mock_engine import event, plain_body

#: What clients show; a gateway may know it.
KEY = "a-key-of-the-benchmark"


class WrongAnswer(Exception):
    """An answer was lost, cut, doubled or reordered."""


def request(stream: bool, prompt: int = 60, tokens: int | None = None, interval: float = 0.0) -> bytes:
    """A chat request with a prompt of that many bytes, and how many events the mock engine is to send when."""
    told = "" if tokens is None else f"MOCK tokens={tokens} interval={interval:.6f};"
    messages = [{"role": "user", "content": told + "p" * prompt}]
    body = json.dumps({"model": "m", "stream": stream, "messages": messages}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    head += f"Authorization: Bearer {KEY}\r\nX-Request-Timeout: 600\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Asker(asyncio.Protocol):
    """One connection that sends the request again as long as `more()` says so."""

    def __init__(self, payload: bytes, expected: bytes | None, more: Callable[[], bool]) -> None:
        """`expected` None: any answer with status 200 will do."""
        self.payload, self.expected, self.more = payload, expected, more
        self.arrivals: list[float] | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.parser = httptools.HttpResponseParser(self)
        self.pieces: list[bytes] = []
        self.first_bytes: list[float] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.next()

    def next(self) -> None:
        if self.more():
            self.pieces.clear()
            self.sent = time.perf_counter()
            self.transport.write(self.payload)
        else:
            self.transport.close()
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(str(error))

    def on_body(self, data: bytes) -> None:
        if not self.pieces:
            self.first_bytes.append(time.perf_counter() - self.sent)
        if self.arrivals is not None:
            self.arrivals += [time.perf_counter()] * data.count(b"\n\n")
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        right = self.expected is None or b"".join(self.pieces) == self.expected
        if self.parser.get_status_code() == 200 and right:
            self.next()
        else:
            got, wanted = b"".join(self.pieces), self.expected or b""
            self.fail(f"{self.parser.get_status_code()}, {len(got)} of {len(wanted)} bytes: {got[:200]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("the connection was closed")

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(WrongAnswer(why))


async def _run(
    port: int, clients: int, total: int, payload: bytes, expected: bytes | None, *, timed: bool = False
) -> list[_Asker]:
    left = total

    def more() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    loop = asyncio.get_running_loop()
    askers = [
        (await loop.create_connection(lambda: _Asker(payload, expected, more), "127.0.0.1", port))[1]
        for _ in range(clients)
    ]
    if timed:
        for asker in askers:
            asker.arrivals = []
    await asyncio.wait_for(asyncio.gather(*(asker.done for asker in askers)), 300)
    return askers


async def plain(port: int, *, total: int, clients: int = 16, prompt: int = 60, exact: bool = True) -> None:
    """`total` requests for one whole answer each."""
    await _run(port, clients, total, request(False, prompt), plain_body() if exact else None)


def _stream(tokens: int) -> bytes:
    return b"".join(event(index) for index in range(tokens)) + b"data: [DONE]\n\n"


async def streams(port: int, *, count: int, tokens: int, rate: float, exact: bool = True) -> None:
    """`count` streams at once, each of `tokens` events at `rate` a second."""
    payload = request(True, tokens=tokens, interval=1 / rate)
    await _run(port, count, count, payload, _stream(tokens) if exact else None)


async def delays(port: int, *, count: int, tokens: int, rate: float) -> list[float]:
    """As `streams`; by how much each event came later after the one before than it was sent, in seconds, sorted."""
    payload = request(True, tokens=tokens, interval=1 / rate)
    askers = await _run(port, count, count, payload, _stream(tokens), timed=True)
    late = [
        after - before - 1 / rate
        for asker in askers
        # The last one is the end, which comes at once.
        for before, after in itertools.pairwise((asker.arrivals or [])[:-1])
    ]
    return sorted(late)


async def first_token(port: int, *, total: int, exact: bool = True) -> float:
    """The median time to the first event, one client, in seconds."""
    askers = await _run(port, 1, total, request(True, tokens=1), _stream(1) if exact else None)
    return statistics.median(askers[0].first_bytes)
