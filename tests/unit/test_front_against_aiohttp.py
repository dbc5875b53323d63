# SPDX-License-Identifier: GPL-3.0-or-later
"""What the raw front makes of bytes, beside aiohttp's parser: whoever reads them otherwise can be made to see another
request. Valid requests are broken at random; all of it in this process, without a socket."""

from __future__ import annotations

import asyncio
import random
import re
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser

from rbee.core.errors import RbeeError
from rbee.daemons.access import Listener
from rbee.daemons.queen.front.answers import Refusal, refusal_of
from rbee.daemons.queen.front.connection import SERVED, FrontConnection

BODY = b'{"model":"m"}'
PATHS = (b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings?x=1", b"/v1/rerank", b"/v1/models")
LINES = (
    b"Connection: keep-alive",
    b"Connection: close",
    b"Accept: */*",
    b"Expect: 100-continue",
    b"Upgrade: h2c",
    b"Content-Encoding: gzip",
    b"Content-Type:application/json",
)
#: What is put in somewhere.
ODD = (
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"\x0b", b"\x0c", b"\x85", b"\xa0", b"\xff"),
    *(b"0", b"5", b"-1", b"+1", b"0x1", b"1_0", b",", b";", b'"', b"chunked", b"HTTP/1.0", b"HTTP/2.0", b"Host: z\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding : chunked\r\n"),
    *(b"Content-Length: 3\r\n", b"Content-Length: 00013\r\n", b"Content-Length: 13,13\r\n", b" Content-Length: 5\r\n"),
    *(
        b"Transfer-Encoding: identity\r\n",
        b"Connection: Content-Length\r\n",
        b"Content-Length: 99999999999999999999\r\n",
    ),
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: q\r\nContent-Length: 2\r\n\r\n{}",
)

Seen = list[tuple[str, bytes]]


class Wire:
    """A transport that keeps what is written; and aiohttp's handler, when the connection is given away."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.over = False
        self.protocol: Any = None
        self.given = b""

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        assert not self.over, "something is written after the last answer"
        self.written.append(data)

    def write_eof(self) -> None:
        self.over = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def connection_made(self, transport: Any) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.given += data


class House:
    """A front without rooms behind it."""

    stopping = False

    def __init__(self) -> None:
        self.refused: list[RbeeError] = []
        self.dispatcher: Any = SimpleNamespace(
            identify=lambda headers, token: None,
            clock=lambda: 0.0,
            turned_away=self._turned_away,
            clients=SimpleNamespace(generation=1),
        )

    def _turned_away(self, error: RbeeError, path: str, seconds: float) -> Refusal:
        self.refused.append(error)
        return refusal_of(error, "r")

    def add(self, connection: FrontConnection) -> None: ...

    def remove(self, connection: FrontConnection) -> None: ...


class Taken(FrontConnection):
    """Requests are served by being kept."""

    def _serve(self, request: Any) -> None:
        self.phase = SERVED
        self.seen.append((request.target, request.body))
        relay = SimpleNamespace(closing=not request.keep_alive)
        self._served(SimpleNamespace(refusal=None, relay=relay, request=request))  # type: ignore[arg-type]

    seen: Seen


def ours(pieces: list[bytes]) -> tuple[Seen, list[RbeeError], bytes]:
    """The requests that were taken, how the connection was refused, and what aiohttp was given."""
    house, wire = House(), Wire()
    connection = Taken(house, Listener("127.0.0.1", 0, None), lambda: wire)  # type: ignore[arg-type, return-value]
    connection.seen = []
    connection.connection_made(wire)  # type: ignore[arg-type]
    for piece in pieces:
        (wire.protocol or connection).data_received(piece)
    assert len(house.refused) <= 1
    return connection.seen, house.refused, wire.given


def theirs(data: bytes, loop: asyncio.AbstractEventLoop) -> Seen:
    """Raises HttpProcessingError."""
    reader: Any = SimpleNamespace(
        _reading_paused=False, transport=None, pause_reading=lambda: None, resume_reading=lambda *a, **k: None
    )
    found, _, _ = HttpRequestParser(reader, loop, 2**16, max_line_size=2**16, max_field_size=2**16).feed_data(data)
    return [(head.path, b"".join(getattr(body, "_buffer", ()))) for head, body in found]


def valid(rng: random.Random) -> bytes:
    lines = [b"POST %b HTTP/1.%d" % (rng.choice(PATHS), rng.random() < 0.95)]
    body = BODY * rng.randint(0, 3)
    headers = [b"Host: q", *rng.sample(LINES, rng.choice((0, 1, 1, 2)))]
    if rng.random() < 0.5:
        headers.append(b"Content-Length: %d" % len(body))
    else:
        headers.append(b"Transfer-Encoding: chunked")
        size = rng.randint(3, 12)
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
        extension = rng.choice((b"", b";a=b", b';a="b c"'))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(p), extension, p) for p in pieces)
        body += b"0\r\n" + rng.choice((b"", b"X-Sum: y\r\n")) + b"\r\n"
    rng.shuffle(headers)
    return b"\r\n".join([*lines, *headers, b"", b""]) + body


def broken(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        ends = [i + 2 for i in range(len(data)) if data[i : i + 2] == b"\r\n"]
        at = rng.choice(ends) if ends and rng.random() < 0.4 else rng.randint(0, len(data))
        other = rng.randint(at, min(len(data), at + 40))
        data = rng.choice(
            (
                *[data[:at] + rng.choice(ODD) + data[at:]] * 4,
                data[:at] + data[at + rng.randint(1, 3) :],
                data[:at] + rng.randbytes(1) + data[at + 1 :],
                data[:other] + data[at:],
                data[:at],
            )
        )
    return data


def several(rng: random.Random) -> bytes:
    """Requests in a row, often with the head of the one before."""
    found = [valid(rng)]
    while rng.random() < 0.5:
        head = found[-1].partition(b"\r\n\r\n")[0]
        size = rng.choice((0, 3, 10, 100))
        again = re.sub(rb"(?<=Content-Length: )\d+", b"%d" % size, head)
        found.append(again + b"\r\n\r\n" + b"x" * size if again != head else valid(rng))
    return b"".join(broken(rng, one) for one in found)


def consumed(data: bytes, requests: int) -> bytes:
    """As much of it as it takes for so many requests."""
    low, high = 0, len(data)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(ours([data[:middle]])[0]) >= requests else (middle + 1, high)
    return data[:low]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_taken_is_what_another_parser_sees(seed: int) -> None:
    loop = asyncio.new_event_loop()
    rng, taken, refused = random.Random(seed), 0, 0
    try:
        for _ in range(500):
            data = several(rng)
            seen, errors, given = ours([data])
            cuts = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(1, 6)))
            if rng.random() < 0.1:
                cuts = list(range(1, len(data)))
            pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
            assert ours(pieces)[::2] == (seen, given), data
            taken, refused = taken + len(seen), refused + len(errors)
            if not seen:
                continue
            try:
                other = theirs(consumed(data, len(seen)), loop)
            except HttpProcessingError as e:
                # Of other headers than those of framing the first counts, where aiohttp wants one.
                assert "Duplicate 'Content-Type'" in str(e), f"aiohttp refuses what we take: {e} {data!r}"
                continue
            assert other[: len(seen)] == seen, data
    finally:
        loop.close()
    assert taken > 100
    assert refused > 100
