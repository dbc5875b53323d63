# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's raw front, over raw sockets: what goes through untouched, what is refused, and how connections end."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.secrets import Token
from rbee.contracts import defaults
from rbee.core.spec_queen import LimitsSpec
from rbee.daemons.access import Listener
from rbee.daemons.app import Server, build
from rbee.daemons.queen.front.front import Front, Patience
from rbee.daemons.queen.front.incoming import MAX_HEAD
from tests.support.gateway import Client as Raw
from tests.support.gateway import error_of, stream_of
from tests.support.mock_engine import Script
from tests.support.queen import MODEL, Client, beat, queen_config, queen_in, workers
from tests.support.waiting import eventually

CHAT = "POST /v1/chat/completions HTTP/1.1"
TOKEN = Token("the-secret-of-the-fleet")


@contextlib.asynccontextmanager
async def raw(c: Client, port: int | None = None) -> AsyncIterator[Raw]:
    client = await Raw.connect(port or c.queen._server.ports[0])
    try:
        yield client
    finally:
        await client.close()


def chat(stream: bool = False, **script: Any) -> bytes:
    return json.dumps({"model": MODEL, "stream": stream, "mock": script}).encode()


def framed(body: bytes, *, head: str = CHAT, more: str = "") -> bytes:
    return f"{head}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%X;ext=1\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n" + trailers + b"\r\n"


# What goes through.

ODD = (
    '{ "model" :\t"llama",\r\n "messages":[ {"role":"user","content":"Zoë 🐝\\u00e9"} ], "x": {"y":[1.50,1E3,null]},'
    ' "x":2, "stream" : false , "n":1 }\n'
).encode()


@pytest.mark.parametrize("size", [None, 1, 7])
async def test_a_request_arrives_at_the_worker_as_it_was_written(tmp_path: Path, size: int | None) -> None:
    more = "content-type:application/json; charset=utf-8\r\nX-Odd:  two  spaces \r\nx-odd: again\r\nX-Empty:\r\n"
    request = framed(ODD, more=more)
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as client:
        for start in range(0, len(request), size or len(request)):
            client.writer.write(request[start : start + (size or len(request))])
            if size:
                await asyncio.sleep(0)  # a segment of its own, as likely as not
        status, headers, _ = await client.answer()
        assert (status, headers["x-rbee-worker"]) == (200, "w1")
        (seen,) = engine.seen
        assert seen.body == ODD
        assert (seen.method, seen.target) == ("POST", "/v1/chat/completions")
        assert [v.strip() for v in seen.header("x-odd")] == ["two  spaces", "again"]
        assert seen.header("content-type") == ["application/json; charset=utf-8"]
        assert seen.header("content-length") == [str(len(ODD))]
        assert len(seen.header("host")) == len(seen.header("x-request-id")) == 1


async def test_what_is_for_the_queen_alone_does_not_reach_the_worker(tmp_path: Path) -> None:
    more = "Authorization: Bearer mine\r\nx-api-key: mine\r\nCookie: a=b\r\nTE: x\r\n"
    more += "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as client:
        client.writer.write(framed(chat(), more=more + "X-Stays: 1\r\n"))
        assert (await client.answer())[0] == 200
        for name in ("authorization", "x-api-key", "cookie", "connection", "x-hop", "te"):
            assert engine.seen[0].header(name) == [], name
        assert engine.seen[0].header("x-stays") == ["1"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_large_body_passes_whole(tmp_path: Path, framing: str) -> None:
    body = json.dumps({"model": MODEL, "prompt": "é" * 5_000_000}, ensure_ascii=False).encode()
    assert len(body) > 10_000_000
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as client:
        if framing == "length":
            client.writer.write(framed(body))
        else:
            pieces = [body[i : i + 999_999] for i in range(0, len(body), 999_999)]
            client.writer.write(f"{CHAT}\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            client.writer.write(chunked(*pieces, trailers=b"X-Sum: 1\r\n"))
        assert (await client.answer())[0] == 200
        assert engine.seen[0].body == body


async def test_a_body_in_chunks_may_come_in_single_bytes_and_others_follow_it(tmp_path: Path) -> None:
    head = f"{CHAT}\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    request = head + chunked(ODD[:5], ODD[5:6], ODD[6:], trailers=b"A: b\r\nC: d\r\n")
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as client:
        for byte in request:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer())[0] == 200
        client.writer.write(request + framed(chat(size=3)))
        assert (await client.answer())[0] == 200
        assert (await client.answer())[2] == b"xxx"
        assert [s.body for s in engine.seen[:2]] == [ODD, ODD]
        assert engine.seen[0].header("transfer-encoding") == []


async def test_a_stream_comes_as_the_worker_framed_it_wherever_it_is_cut(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"), raw(c) as client:
        client.writer.write(framed(chat(True, tokens=20, text="é🐝", split=3)))
        assert (await client.head())[0] == 200
        assert await client.chunks() == stream_of(20, "é🐝")


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2"), raw(c) as client:
        requests = [framed(chat(size=n, delay=0.05 if n % 2 else 0.0)) for n in range(1, 9)]
        requests.insert(4, framed(b"{nonsense"))
        client.writer.write(b"\r\n".join(requests))
        answers = [await client.answer() for _ in requests]
        assert [len(body) for status, _, body in answers if status == 200] == list(range(1, 9))
        assert answers[4][0] == 400


async def test_a_client_that_sends_ahead_without_end_has_to_wait(tmp_path: Path) -> None:
    request = framed(chat(tokens=1, size=10, delay=0.01) + b" " * 20_000)
    async with queen_in(tmp_path) as c, workers(c, "w1"), raw(c) as client:
        for _ in range(40):
            client.writer.write(request)
        for _ in range(40):
            assert (await client.answer())[2] == b"x" * 10


async def test_one_connection_serves_answers_and_pages_alike(tmp_path: Path) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as client:
        client.writer.write(framed(chat(size=2)) + health + framed(chat(size=3)) + health)
        assert [(await client.answer())[2] for _ in range(4)] == [b"xx", b"ok", b"xxx", b"ok"]
        client.writer.write(framed(chat(True, tokens=2)))
        assert (await client.answer())[2] == b"".join(stream_of(2))
        client.writer.write(framed(b"{}", head="POST /v1/nowhere HTTP/1.1"))
        assert (await client.answer())[0] == 404
        assert engine.requests == 3


async def test_a_compressed_body_and_a_whole_url_are_served_too(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as client:
        client.writer.write(framed(gzip.compress(chat(size=4)), more="Content-Encoding: gzip\r\n"))
        assert (await client.answer())[2] == b"xxxx"
        assert engine.seen[0].body == chat(size=4)
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as client:
        client.writer.write(framed(chat(size=4), head="POST http://localhost/v1/completions?a=b HTTP/1.1"))
        assert (await client.answer())[2] == b"xxxx"
        client.writer.write(framed(chat(size=5), head="POST /v1/completions?c=%20d HTTP/1.1"))
        assert (await client.answer())[2] == b"xxxxx"
        assert [s.target for s in engine.seen] == ["/v1/completions?a=b", "/v1/completions?c=%20d"]


async def test_http_1_0_gets_a_bare_answer_and_another_worker_when_one_refuses(tmp_path: Path) -> None:
    refusal = Script(raw="HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\n{}")
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2") as engines:
        engines[0].script = refusal
        for _ in range(2):
            async with raw(c) as client:
                client.writer.write(framed(chat(True, tokens=2), head=CHAT.replace("1.1", "1.0")))
                status, headers = await client.head()
                assert (status, headers["connection"], headers["x-rbee-worker"]) == (200, "close", "w2")
                assert await client.rest() == b"".join(stream_of(2))
        assert engines[0].requests


async def test_a_stream_that_was_cut_keeps_the_connection_that_its_head_promised_to_keep(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2"), raw(c) as client:
        client.writer.write(framed(chat(True, tokens=9, die_after=2)) + framed(chat(size=2)))
        status, headers = await client.head()
        assert (status, headers.get("connection")) == (200, None)
        assert error_of(b"".join(await client.chunks()))["code"] == "worker_died"
        status, _, body = await client.answer()
        assert (status, body) == (200, b"xx")
        client.writer.write(framed(chat(True, tokens=9, die_after=2), more="Connection: close\r\n"))
        _, headers = await client.head()
        assert headers["connection"] == "close"
        assert error_of(b"".join(await client.chunks()))["code"] == "worker_died"
        assert await client.rest() == b""


@pytest.mark.parametrize("more", ["Connection: close\r\n", "connection: Close\r\n"])
async def test_a_connection_closes_after_the_answer_when_the_client_asks(tmp_path: Path, more: str) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"), raw(c) as client:
        client.writer.write(framed(chat(size=2), more=more))
        status, headers, body = await client.answer()
        assert (status, headers["connection"], body) == (200, "close", b"xx")
        assert await client.rest() == b""


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(tmp_path: Path) -> None:
    body = chat(size=2)
    async with queen_in(tmp_path) as c, workers(c, "w1"), raw(c) as client:
        client.writer.write(framed(body, more="Expect: 100-continue\r\n")[: -len(body)])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(body)
        assert (await client.answer())[2] == b"xx"
    async with queen_in(tmp_path) as c, raw(c) as client:
        client.writer.write(framed(body, more="Expect: a-miracle\r\n"))
        assert (await client.answer())[0] == 417


# What is refused.

HOST = "Host: localhost\r\n"
BAD = {
    "no colon": (f"{CHAT}\r\n{HOST}no header\r\n\r\n", 400),
    "space before colon": (f"{CHAT}\r\n{HOST}X : 1\r\n\r\n", 400),
    "folded line": (f"{CHAT}\r\n{HOST}X: 1\r\n 2\r\nContent-Length: 2\r\n\r\n{{}}", 400),
    "bare line feeds": (f"{CHAT}\nHost: localhost\nContent-Length: 2\n\n{{}}", 400),
    "one bare line feed": (f"{CHAT}\r\n{HOST}X: 1\nContent-Length: 2\r\n\r\n{{}}", 400),
    "bare carriage return": (f"{CHAT}\r\n{HOST}X: 1\rY: 2\r\n\r\n", 400),
    "a NUL": (f"{CHAT}\r\n{HOST}X: 1\0\r\n\r\n", 400),
    "two lengths": (f"{CHAT}\r\n{HOST}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}", 400),
    "two lengths in one": (f"{CHAT}\r\n{HOST}Content-Length: 2, 2\r\n\r\n{{}}", 400),
    "a length that is none": (f"{CHAT}\r\n{HOST}Content-Length: +2\r\n\r\n{{}}", 400),
    "a negative length": (f"{CHAT}\r\n{HOST}Content-Length: -2\r\n\r\n{{}}", 400),
    "length and chunks": (f"{CHAT}\r\n{HOST}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and length": (f"{CHAT}\r\n{HOST}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
    "chunks and more": (f"{CHAT}\r\n{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks twice": (
        f"{CHAT}\r\n{HOST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "not quite chunks": (f"{CHAT}\r\n{HOST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunks in HTTP/1.0": (f"{CHAT[:-1]}0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two hosts": (f"{CHAT}\r\n{HOST}{HOST}Content-Length: 2\r\n\r\n{{}}", 400),
    "no version": (f"POST /v1/completions\r\n{HOST}\r\n", 505),
    "another version": (f"POST /v1/completions HTTP/1.2\r\n{HOST}\r\n", 400),
    "a chunk that is too long": (f"{CHAT}\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),
    "a chunk of no size": (f"{CHAT}\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400),
    "a chunk of negative size": (f"{CHAT}\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n", 400),
    "an endless chunk line": (f"{CHAT}\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n1;{'x' * 300}", 400),
    "endless trailers": (f"{CHAT}\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n" + "A: b\r\n" * 3000, 400),
    "a huge head": (f"{CHAT}\r\n{HOST}X: {'x' * MAX_HEAD}\r\n\r\n", 431),
    "an endless head": (f"{CHAT}\r\n{HOST}X: {'x' * MAX_HEAD}", 431),
    "a huge body": (f"{CHAT}\r\n{HOST}Content-Length: {defaults.MAX_BODY + 1}\r\n\r\n{{", 413),
    "a huge chunk": (f"{CHAT}\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{defaults.MAX_BODY + 1:x}\r\n{{", 413),
}


@pytest.mark.parametrize("how", BAD)
async def test_what_cannot_be_read_one_way_only_is_refused_and_the_connection_ends(tmp_path: Path, how: str) -> None:
    request, expected = BAD[how]
    smuggled = framed(chat(size=9)).decode()
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as client:
        client.writer.write((request + smuggled).encode())
        status, headers, body = await client.answer()
        assert (status, headers["connection"], headers["content-type"]) == (expected, "close", "application/json")
        assert set(json.loads(body)["error"]) == {"message", "type", "code", "param"}
        assert await client.rest() == b""
        assert engine.requests == 0
        await eventually(lambda: c.queen.metrics.active == 0)


@pytest.mark.parametrize("first", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"])
async def test_a_client_that_leaves_in_the_middle_of_a_request_leaves_nothing(tmp_path: Path, first: bytes) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        for last in (b"", b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"):
            async with raw(c) as client:
                client.writer.write(first + last if first else b"")
        front = c.queen._server._front
        assert isinstance(front, Front)
        await eventually(lambda: not front._connections)
        assert engine.requests == 0


async def test_a_page_of_another_site_and_a_client_without_the_token_are_refused(tmp_path: Path) -> None:
    config = queen_config(fleet_listen=("0.0.0.0:0",))
    async with queen_in(tmp_path, config, TOKEN) as c, workers(c, "w1", token=TOKEN) as (engine,):
        for more in ("Origin: https://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n"):
            async with raw(c) as client:
                client.writer.write(framed(chat(), more=more))
                assert (await client.answer())[0] == 403
        async with raw(c, c.queen._server.ports[1]) as client:
            client.writer.write(framed(chat()))
            status, headers, _ = await client.answer()
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            client.writer.write(framed(chat(size=1), more=f"Authorization: Bearer {TOKEN.reveal()}\r\n"))
            assert (await client.answer())[0] == 200, "and the connection goes on"
        async with raw(c, c.queen._server.ports[1]) as client:
            client.writer.write(framed(b"", more="").replace(b"Content-Length: 0", b"Content-Length: 50000000"))
            assert (await client.answer())[0] == 401, "before its body has come"
            assert await client.rest() == b""
        assert engine.requests == 1


# Time.


@contextlib.asynccontextmanager
async def impatient(c: Client, clock: Callable[[], float] = time.monotonic, **seconds: float) -> AsyncIterator[Server]:
    """Another server of the same queen, which waits for nobody."""
    front = Front(c.queen.dispatcher, clock, Patience(**{"look": 0.02, **seconds}))  # type: ignore[arg-type]
    server = Server(build([]), [Listener("127.0.0.1", 0)], front)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(drain=1)


async def test_a_head_that_never_comes_ends_the_connection(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, impatient(c, head=0.1) as server:
        async with raw(c, server.ports[0]) as client:
            assert await client.rest() == b"", "nothing was asked"
        async with raw(c, server.ports[0]) as client:
            client.writer.write(f"{CHAT}\r\n".encode())
            trickle = asyncio.create_task(_trickle(client))
            status, _, body = await client.answer()
            trickle.cancel()
            assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
            assert await client.rest() == b""


async def _trickle(client: Raw) -> None:
    """A header that grows for ever."""
    while True:
        client.writer.write(b"X")
        await asyncio.sleep(0.01)


async def test_a_body_that_trickles_ends_the_connection_and_one_that_flows_does_not(tmp_path: Path) -> None:
    body = chat(size=2) + b" " * 50_000
    async with (
        queen_in(tmp_path) as c,
        workers(c, "w1") as (engine,),
        impatient(c, body=0.1, body_bytes=100) as server,
    ):
        async with raw(c, server.ports[0]) as client:
            client.writer.write(framed(body)[: -len(body)] + b"{")
            assert (await client.answer())[0] == 408
            assert await client.rest() == b""
        assert engine.requests == 0
        async with raw(c, server.ports[0]) as client:
            client.writer.write(framed(body)[: -len(body)])
            for start in range(0, len(body), 2_000):
                client.writer.write(body[start : start + 2_000])
                await asyncio.sleep(0.01)  # longer than the time given, in all
            assert (await client.answer())[2] == b"xx"


async def test_an_idle_connection_and_one_that_nobody_closes_end(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"), impatient(c, idle=0.1, closing=0.1) as server:
        async with raw(c, server.ports[0]) as client:
            client.writer.write(framed(chat(size=2)))
            assert (await client.answer())[2] == b"xx"
            assert await client.rest() == b""
        async with raw(c, server.ports[0]) as client:
            client.writer.write(framed(chat(size=2), more="Connection: close\r\n"))
            assert (await client.answer())[2] == b"xx"
            front = server._front
            assert isinstance(front, Front)
            await eventually(lambda: not front._connections)


async def test_a_client_that_stops_reading_is_given_up_in_the_end(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), impatient(c, reading=0.1) as server:
        async with raw(c, server.ports[0]) as client:
            client.writer.write(framed(chat(size=50_000_000)))
            await asyncio.wait_for(engine_closed(engine), 30)
            assert client.reader is not None
        await eventually(lambda: c.queen.metrics.active == 0)


async def test_a_client_that_reads_slowly_is_not_given_up(tmp_path: Path) -> None:
    now = 0.0
    async with (
        queen_in(tmp_path) as c,
        workers(c, "w1"),
        impatient(c, lambda: now, reading=3.0) as server,
        raw(c, server.ports[0]) as client,
    ):
        client.writer.write(framed(chat(size=30_000_000)))
        _, headers = await client.head()
        left = int(headers["content-length"])
        while left:
            left -= len(await client.reader.readexactly(min(left, 1_000_000)))
            now += 1.0  # longer than the time given, in all
            await asyncio.sleep(0.03)  # some looks of the server's
        client.writer.write(framed(chat(size=1)))
        assert (await client.answer())[2] == b"x"


async def engine_closed(engine: Any) -> None:
    await eventually(lambda: engine.seen)
    await engine.seen[0].closed.wait()


async def test_memory_does_not_grow_with_a_client_that_does_not_read(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as client:
        client.writer.write(framed(chat(size=60_000_000)))
        await eventually(lambda: engine.seen and engine.seen[0].sent > 100_000)
        still = 0
        while engine.seen[0].sent != still:  # until it goes no further
            still = engine.seen[0].sent
            await asyncio.sleep(0.2)
        assert still < 40_000_000, "what the sockets hold, and no more"
        status, headers = await client.head()
        body = await asyncio.wait_for(client.reader.readexactly(int(headers["content-length"])), 30)
        assert (status, len(body)) == (200, 60_000_000)


# Ends.


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_closes_the_workers_connection(tmp_path: Path, stream: bool) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        async with raw(c) as client:
            client.writer.write(framed(chat(stream, tokens=10_000, interval=0.01) if stream else chat(hang=True)))
            await eventually(lambda: engine.seen and (engine.seen[0].sent or not stream))
        await asyncio.wait_for(engine.seen[0].closed.wait(), 30)
        await eventually(lambda: c.queen.registry.workers["w1"].in_flight == 0)
        await eventually(lambda: c.queen.metrics.active == 0)


async def test_a_client_that_leaves_while_it_waits_for_a_slot_is_forgotten(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,):
        async with raw(c) as first:
            first.writer.write(framed(chat(hang=True)))
            await eventually(lambda: engine.requests == 1)
            async with raw(c) as second:
                second.writer.write(framed(chat(size=2)))
                await eventually(lambda: c.queen.metrics.active == 2)
            await eventually(lambda: c.queen.metrics.active == 1)
        await eventually(lambda: c.queen.metrics.active == 0)
        assert engine.requests == 1
        assert c.queen.registry.workers["w1"].in_flight == 0


async def test_a_stop_ends_what_is_under_way_with_a_word(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,), raw(c) as idle:
        idle.writer.write(framed(chat(size=2)))
        assert (await idle.answer())[0] == 200
        async with raw(c) as streaming, raw(c) as waiting:
            streaming.writer.write(framed(chat(True, tokens=10_000, interval=0.01)))
            await streaming.head()
            waiting.writer.write(framed(chat(hang=True)))
            await eventually(lambda: engine.requests == 3)
            await c.queen.stop(drain=0.1)
            assert error_of(b"".join(await streaming.chunks()))["code"] == "stopping"
            status, headers, body = await waiting.answer()
            assert (status, headers["connection"], json.loads(body)["error"]["code"]) == (503, "close", "stopping")
            assert headers["retry-after"]
        assert await idle.rest() == b""
        await eventually(lambda: all(seen.closed.is_set() for seen in engine.seen[1:]))


async def test_while_she_stops_new_requests_are_refused_and_old_ones_end_well(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"), raw(c) as streaming, raw(c) as late:
        streaming.writer.write(framed(chat(True, tokens=200, interval=0.01)))
        await streaming.head()
        late.writer.write(framed(chat(size=2)))
        assert (await late.answer())[0] == 200
        stopping = asyncio.create_task(c.queen.stop(drain=20))
        await eventually(lambda: c.queen.stopping)
        late.writer.write(framed(chat(size=2)))
        status, headers, body = await late.answer()
        assert (status, headers["connection"], json.loads(body)["error"]["code"]) == (503, "close", "stopping")
        assert await late.rest() == b""
        assert b"".join(await streaming.chunks()) == b"".join(stream_of(200))
        await stopping


async def test_a_worker_that_sends_nothing_of_a_stream_is_doubted_and_another_asked(tmp_path: Path) -> None:
    config = queen_config(limits=LimitsSpec(first_byte_timeout=1.0))
    async with queen_in(tmp_path, config) as c, workers(c, "w1", "w2") as engines:
        engines[0].script = Script(hang=True)
        for _ in range(2):
            async with raw(c) as client:
                client.writer.write(framed(chat(True, tokens=2)))
                status, headers, body = await client.answer()
                assert (status, headers["x-rbee-worker"], body) == (200, "w2", b"".join(stream_of(2)))
                assert float(headers["x-rbee-overhead-ms"]) < 900, "the worker's time is not the queen's"
        assert c.queen.quarantine.doubted == 1
        async with raw(c) as client:
            client.writer.write(framed(chat(size=2, delay=1.5)))
            assert (await client.answer())[2] == b"xx", "an answer that is no stream has more time"


async def test_the_time_in_the_queue_is_not_the_queens_own(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1) as (engine,), raw(c) as first, raw(c) as second:
        first.writer.write(framed(chat(size=1, delay=1.5)))
        await eventually(lambda: engine.requests == 1)
        second.writer.write(framed(chat(size=1)))
        assert (await first.answer())[0] == 200
        status, headers, _ = await second.answer()
        assert status == 200
        assert float(headers["x-rbee-overhead-ms"]) < 1200
        assert await c.heartbeat(beat("w1", engine.port, slots=1)) == 200
