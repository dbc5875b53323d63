# SPDX-License-Identifier: GPL-3.0-or-later
"""The load: raw protocols with llhttp, so that the clients cost little. Every answer is compared, byte for byte."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import httptools

from tests.support.mock_engine import event, plain_body


class WrongAnswer(Exception):
    """An answer was lost, cut, doubled or reordered."""


def request(stream: bool, prompt: int = 60, **script: Any) -> bytes:
    """A chat request with a prompt of that many bytes, and what the mock engine is to do with it."""
    messages = [{"role": "user", "content": "p" * prompt}]
    told = {"mock": script} if script else {}
    body = json.dumps({"model": "m", "stream": stream, "messages": messages, **told}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    head += f"Authorization: Bearer x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Asker(asyncio.Protocol):
    """One connection that sends the request again as long as `more()` says so."""

    def __init__(self, payload: bytes, expected: bytes, more: Callable[[], bool]) -> None:
        self.payload, self.expected, self.more = payload, expected, more
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
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() == 200 and b"".join(self.pieces) == self.expected:
            self.next()
        else:
            self.fail(f"{self.parser.get_status_code()}, {len(b''.join(self.pieces))} of {len(self.expected)} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("the connection was closed")

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(WrongAnswer(why))


async def _run(port: int, clients: int, total: int, payload: bytes, expected: bytes) -> list[_Asker]:
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
    await asyncio.wait_for(asyncio.gather(*(asker.done for asker in askers)), 120)
    return askers


async def plain(port: int, *, total: int, clients: int = 16, prompt: int = 60) -> None:
    """`total` requests for one whole answer each."""
    await _run(port, clients, total, request(False, prompt), plain_body())


async def streams(port: int, *, count: int, tokens: int, rate: float) -> None:
    """`count` streams at once, each of `tokens` events at `rate` a second."""
    expected = b"".join(event(index) for index in range(tokens)) + b"data: [DONE]\n\n"
    await _run(port, count, count, request(True, tokens=tokens, interval=1 / rate), expected)


async def first_token(port: int, *, total: int) -> float:
    """The median time to the first event, one client, in seconds."""
    expected = event(0) + b"data: [DONE]\n\n"
    askers = await _run(port, 1, total, request(True, tokens=1), expected)
    return statistics.median(askers[0].first_bytes)
