# SPDX-License-Identifier: GPL-3.0-or-later
"""The splice over real loopback connections: aiohttp in front, a scriptable engine behind. The client's view."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest
from aiohttp import web

from tests.support.gateway import Client, asked, client_of, error_of, serving, stream_of
from tests.support.mock_engine import MockEngine, Script, event
from tests.support.waiting import eventually

# Faithfulness.


@pytest.mark.parametrize("split", [None, 1, 7])
async def test_a_stream_comes_through_byte_for_byte_however_it_is_cut(split: int | None) -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(True, tokens=3, text="né蜂🐝", split=split))
        status, headers = await client.head()
        assert (status, headers["content-type"], headers["x-request-id"]) == (200, "text/event-stream", "r1")
        assert "keep-alive" not in headers, "hop-by-hop: about the worker's connection"
        assert await client.chunks() == stream_of(3, "né蜂🐝")
        await eventually(lambda: gateway.outcomes, "the outcome")
        outcome = gateway.outcomes[0]
        assert (outcome.status, outcome.end, gateway.heads) == (200, "completed", [200])
        assert outcome.bytes == engine.seen[0].sent
        assert outcome.first_byte_seconds is not None
        assert 0 <= outcome.first_byte_seconds <= outcome.seconds


async def test_the_request_is_forwarded_untouched_without_the_clients_secrets_and_hop_by_hop_headers() -> None:
    body = asked() + b"   "
    more = (
        "Authorization: Bearer client\r\nx-api-key: k\r\nCookie: a=b\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
        "TE: trailers\r\nX-Kept: yes\r\nTraceparent: 00-1\r\nX-Deadline: 1\r\n"
    )
    own = [("Authorization", "Bearer worker"), (b"X-Deadline", b"2")]
    async with MockEngine() as engine, serving(engine, headers=own) as gateway, client_of(gateway) as client:
        client.ask(body, head="POST /v1/chat%20x?a=b%2Fc HTTP/1.1", more=more)
        assert (await client.answer())[0] == 200
        seen = engine.seen[0]
        assert (seen.method, seen.target, seen.body) == ("POST", "/v1/chat%20x?a=b%2Fc", body)
        assert seen.header("authorization") == ["Bearer worker"]
        assert seen.header("x-deadline") == ["2"]
        assert seen.header("host") == [f"127.0.0.1:{engine.port}"]
        assert seen.header("content-length") == [str(len(body))]
        assert seen.header("x-kept") == ["yes"]
        assert seen.header("traceparent") == ["00-1"]
        for name in ("x-api-key", "cookie", "connection", "x-hop", "te"):
            assert seen.header(name) == [], name


async def test_an_extra_header_replaces_the_workers_and_what_on_head_returns_is_added() -> None:
    raw = "HTTP/1.1 200 OK\r\nx-request-id: worker\r\nContent-Length: 2\r\n\r\nok"

    async with MockEngine(Script(raw=raw)) as engine, serving(engine) as gateway, client_of(gateway) as client:
        handle = gateway.splice.forward

        async def forward(request: web.BaseRequest, **options: Any) -> Any:
            return await handle(request, **{**options, "on_head": lambda status, head: [("X-Overhead", f"{status}")]})

        gateway.splice.forward = forward  # type: ignore[method-assign]
        client.ask(b"{}")
        _, headers, body = await client.answer()
        assert (headers["x-request-id"], headers["x-overhead"], body) == ("r1", "200", b"ok")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
@pytest.mark.parametrize("where", ["headers", "extra_headers"])
async def test_a_header_that_would_break_out_of_its_line_is_refused(where: str, value: str) -> None:
    options: dict[str, Any] = {where: [("X-Name", value)]}
    async with MockEngine() as engine, serving(engine, **options) as gateway, client_of(gateway) as client:
        client.ask(b"{}")
        assert (await client.answer())[0] == 500
        assert engine.requests == 0


@pytest.mark.parametrize("size", [1_000_000, 2**25 + 1, 2**26 + 1])
async def test_a_body_too_large_is_refused_before_the_worker_sees_it(size: int) -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(b" " * size + b"{}")
        status, _, _ = await client.answer()
        assert status == (200 if size < 2**25 else 413)
        assert engine.requests == (status == 200)


# Kinds of answers.


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
async def test_a_body_with_a_length(size: int) -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        for _ in range(2):
            client.ask(asked(size=size))
            status, headers, body = await client.answer()
            assert (status, headers["content-length"], body) == (200, str(size), b"x" * size)
        assert engine.connections == 1


async def test_head_204_and_304_have_no_body_and_keep_both_connections() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(head="HEAD /v1/models HTTP/1.1")
        status, headers = await client.head()
        assert status == 200
        assert int(headers["content-length"]) > 0
        for status in (204, 304):
            engine.script = Script(raw=f"HTTP/1.1 {status} X\r\nETag: a\r\n\r\n")
            client.ask(head="GET /v1/models HTTP/1.1")
            assert (await client.head())[0] == status
        engine.script = None
        client.ask(head="GET /v1/models HTTP/1.1")
        assert b"hello" in (await client.answer())[2]
        assert engine.connections == 1
        assert [outcome.end for outcome in gateway.outcomes] == ["completed"] * len(gateway.outcomes)


async def test_a_body_that_ends_with_the_connection_ends_the_clients_too() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(size=1000, until_close=True))
        status, headers = await client.head()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.rest() == b"x" * 1000
        await eventually(lambda: gateway.outcomes, "the outcome")
        assert gateway.outcomes[0].end == "completed"


async def test_interim_answers_are_dropped_and_expect_is_answered_by_the_front() -> None:
    interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
    raw = interim + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with MockEngine(Script(raw=raw, split=9)) as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.writer.write(b"POST /v1/x HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(b"{}")
        assert (await client.answer())[2] == b"ok"
        assert engine.seen[0].header("expect") == []


async def test_http_1_0_clients_get_a_bare_body_and_a_closed_connection() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(True, tokens=4, split=5), head="POST /v1/x HTTP/1.0")
        _, headers = await client.head()
        assert headers["connection"] == "close"
        assert "transfer-encoding" not in headers
        assert await client.rest() == b"".join(stream_of(4))


async def test_http_1_0_clients_get_the_error_frame_too() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(True, tokens=4, die_after=2), head="POST /v1/x HTTP/1.0")
        await client.head()
        body = await client.rest()
        assert body.startswith(event(0) + event(1) + b"data: ")
        assert error_of(body)["code"] == "worker_died"


async def test_an_answer_in_http_1_0_becomes_1_1_and_keeps_the_clients_connection() -> None:
    raw = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with MockEngine(Script(raw=raw)) as engine, serving(engine) as gateway, client_of(gateway) as client:
        for _ in range(2):
            client.ask(b"{}")
            assert await asyncio.wait_for(client.reader.readuntil(b"\r\n"), 10) == b"HTTP/1.1 200 OK\r\n"
            assert (await client.reader.readuntil(b"ok")).endswith(b"\r\n\r\nok")
        assert engine.connections == 2, "not kept: it did not say so"


async def test_the_access_log_has_status_and_bytes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiohttp.access")
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(size=500, status=418))
        await client.answer()
        await eventually(lambda: caplog.messages, "the line of the log")
        assert f'"POST /v1/x HTTP/1.1" 418 {engine.seen[0].sent}' in caplog.text


# The client's connection.


async def test_a_clients_connection_serves_again_and_closes_when_asked() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(True))
        assert b"".join(stream_of(3)) == (await client.answer())[2]
        client.ask(head="GET /local HTTP/1.1")
        assert (await client.answer())[2] == b"local"
        client.ask(asked())
        assert b"hello" in (await client.answer())[2]
        client.ask(asked(), more="Connection: close\r\n")
        _, headers, body = await client.answer()
        assert headers["connection"] == "close"
        assert b"hello" in body
        assert await client.rest() == b""
        assert engine.connections == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        for size in range(1, 6):
            client.ask(asked(size=size, delay=0.01 * (6 - size)))
        client.ask(head="GET /local HTTP/1.1")
        client.ask(asked(True))
        assert [len((await client.answer())[2]) for _ in range(5)] == [1, 2, 3, 4, 5]
        assert (await client.answer())[2] == b"local"
        assert (await client.answer())[2] == b"".join(stream_of(3))
        assert engine.connections == 1


async def test_a_client_that_leaves_closes_the_workers_connection() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(True, tokens=10_000, interval=0.01))
        await client.head()
        client.writer.transport.abort()
        await asyncio.wait_for(engine.seen[0].closed.wait(), 30)
        await eventually(lambda: gateway.outcomes, "the outcome")
        assert gateway.outcomes[0].end == "client_gone"
        assert gateway.splice.pool.idle(gateway.upstream) == 0


async def test_a_client_that_leaves_before_the_answer_closes_the_workers_connection() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(hang=True))
        await eventually(lambda: engine.seen, "the request")
        await client.close()
        await asyncio.wait_for(engine.seen[0].closed.wait(), 30)
        await eventually(lambda: gateway.outcomes, "the outcome")
        assert (gateway.outcomes[0].end, gateway.outcomes[0].status) == ("client_gone", 499)


async def test_a_slow_reader_makes_the_worker_wait_and_loses_nothing() -> None:
    size = 64 * 2**20
    async with MockEngine() as engine, serving(engine) as gateway:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gateway.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=16 * 1024)
        client = Client(reader, writer)
        client.ask(asked(size=size))
        await client.head()
        before = -1
        while engine.seen[0].sent != before:  # until the worker is held up
            before = engine.seen[0].sent
            await asyncio.sleep(0.2)
        assert before < size / 2, "the worker was never told to wait"
        server = gateway.runner.server
        assert server is not None
        transport = next(iter(server.connections)).transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 2**20, "the gateway keeps what the client does not read"
        left = size
        while left:
            left -= len(await asyncio.wait_for(reader.read(2**18), 10))
        client.ask(asked())
        assert b"hello" in (await client.answer())[2]
        assert engine.connections == 1
        await client.close()
