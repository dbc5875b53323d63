# SPDX-License-Identifier: GPL-3.0-or-later
"""The splice over real loopback connections: aiohttp in front, a scriptable engine behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from rbee.adapters.splice import (
    BadAnswer,
    ConnectRefused,
    DiedBeforeFirstByte,
    FirstByteTimeout,
    Outcome,
    Splice,
    Upstream,
    UpstreamError,
    read_body,
)
from tests.support.mock_engine import MockEngine, Script, chunk, event


class Gateway:
    """An aiohttp app whose one handler forwards; keeps each outcome and each error."""

    def __init__(self, upstream: Upstream, **options: Any) -> None:
        self.upstream = upstream
        self.options = options
        self.outcomes: list[Outcome] = []
        self.errors: list[UpstreamError] = []
        self.heads: list[int] = []
        self.splice = Splice(clock=time.monotonic)
        self.settled = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/local":
            return web.Response(text="local")
        options = {"extra_headers": [("X-Request-Id", "r1")], **self.options}
        try:
            response = await self.splice.forward(
                request,
                upstream=self.upstream,
                body=await read_body(request, 2**25),
                on_head=lambda status, head: self.heads.append(status),
                **options,
            )
        except UpstreamError as error:
            self.errors.append(error)
            return web.Response(status=502, text=type(error).__name__)
        finally:
            self.settled.set()
        self.outcomes.append(response.outcome)
        return response

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{tail:.*}", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        await self.runner.cleanup()
        await self.splice.close()


@contextlib.asynccontextmanager
async def serving(engine: MockEngine, *, reuse: bool = True, **options: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway(Upstream("127.0.0.1", engine.port, reuse), **options)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


class Client:
    """A raw HTTP client: it sends what it is told and reads answers by their framing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def ask(self, body: bytes = b"", *, head: str = "POST /v1/x HTTP/1.1", more: str = "") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.writer.write(f"{head}\r\nHost: gw\r\n{length}{more}\r\n".encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
        pairs = [line.split(": ", 1) for line in lines[1:-2]]
        assert len({name.lower() for name, _ in pairs}) == len(pairs), f"a header twice: {pairs}"
        return int(lines[0].split()[1]), {name.lower(): value for name, value in pairs}

    async def chunks(self) -> list[bytes]:
        """The chunks of a chunked body; raises IncompleteReadError when it is cut."""
        found = []
        while True:
            size = int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 10), 16)
            data = await asyncio.wait_for(self.reader.readexactly(size + 2), 10)
            assert data.endswith(b"\r\n")
            if not size:
                return found
            found.append(data[:-2])

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, b"".join(await self.chunks())
        if "content-length" in headers:
            length = int(headers["content-length"])
            return status, headers, await asyncio.wait_for(self.reader.readexactly(length), 10)
        return status, headers, b"" if status in (204, 304) else await self.rest()

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 10)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def client_of(gateway: Gateway) -> AsyncIterator[Client]:
    client = await Client.connect(gateway.port)
    try:
        yield client
    finally:
        await client.close()


def asked(stream: bool = False, **script: Any) -> bytes:
    return json.dumps({"model": "m", "stream": stream, "mock": script}).encode()


async def until(condition: Callable[[], object], what: str) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {what}")


def stream_of(tokens: int, text: str = "tok") -> list[bytes]:
    return [*(event(index, text) for index in range(tokens)), b"data: [DONE]\n\n"]


# Faithfulness.


@pytest.mark.parametrize("split", [None, 1, 7])
async def test_a_stream_comes_through_byte_for_byte_however_it_is_cut(split: int | None) -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(True, tokens=3, text="né蜂🐝", split=split))
        status, headers = await client.head()
        assert (status, headers["content-type"], headers["x-request-id"]) == (200, "text/event-stream", "r1")
        assert "keep-alive" not in headers, "hop-by-hop: about the worker's connection"
        assert await client.chunks() == stream_of(3, "né蜂🐝")
        await until(lambda: gateway.outcomes, "the outcome")
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
    options = {where: [("X-Name", value)]}
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
        await until(lambda: gateway.outcomes, "the outcome")
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
        assert json.loads(body.split(b"data: ")[-1])["error"]["code"] == "worker_died"


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
        await asyncio.wait_for(engine.seen[0].closed.wait(), 2)
        await until(lambda: gateway.outcomes, "the outcome")
        assert gateway.outcomes[0].end == "client_gone"
        assert gateway.splice.pool.idle(gateway.upstream) == 0


async def test_a_client_that_leaves_before_the_answer_closes_the_workers_connection() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(hang=True))
        await until(lambda: engine.seen, "the request")
        await client.close()
        await asyncio.wait_for(engine.seen[0].closed.wait(), 2)
        await until(lambda: gateway.outcomes, "the outcome")
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
        transport = next(iter(gateway.runner.server.connections)).transport  # type: ignore[union-attr]
        assert transport.get_write_buffer_size() < 2**20, "the gateway keeps what the client does not read"
        left = size
        while left:
            left -= len(await asyncio.wait_for(reader.read(2**18), 10))
        client.ask(asked())
        assert b"hello" in (await client.answer())[2]
        assert engine.connections == 1
        await client.close()


# The worker's connection.


async def test_connections_to_the_worker_are_kept_and_shared() -> None:
    async with MockEngine() as engine, serving(engine) as gateway:
        for _ in range(3):
            async with client_of(gateway) as client:
                client.ask(asked(True))
                await client.answer()
        assert engine.connections == 1
        assert gateway.splice.pool.idle(gateway.upstream) == 1
        gateway.splice.drop(gateway.upstream)
        await until(lambda: not engine.open, "the idle connection closed")


@pytest.mark.parametrize("how", ["close_after", "say_close"])
async def test_a_worker_that_closes_after_each_stream_is_no_event(how: str) -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        for _ in range(5):
            client.ask(asked(True, **{how: True}))
            status, headers, body = await client.answer()
            assert (status, body) == (200, b"".join(stream_of(3)))
            assert "connection" not in headers
        assert [outcome.end for outcome in gateway.outcomes] == ["completed"] * 5
        assert not gateway.errors


async def test_a_fresh_connection_for_each_request_where_asked() -> None:
    async with MockEngine() as engine, serving(engine, reuse=False) as gateway, client_of(gateway) as client:
        for _ in range(3):
            client.ask(asked())
            await client.answer()
        assert engine.connections == 3
        assert gateway.splice.pool.idle(gateway.upstream) == 0


async def test_a_kept_connection_found_dead_is_replaced_silently() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked())
        await client.answer()
        engine.next = [Script(die_after=0)]  # closes when the next request is there, as a race would
        client.ask(asked(True, tokens=2))
        assert (await client.answer())[2] == b"".join(stream_of(2))
        assert [seen.connection for seen in engine.seen] == [1, 1, 2]
        assert not gateway.errors
        engine.next = [Script(die_after=0)] * 2
        client.ask(asked(True))
        assert (await client.answer())[2] == b"DiedBeforeFirstByte", "but only once"
        assert engine.requests == 5


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked())
        await client.answer()
        engine.close_connections()
        await until(lambda: gateway.splice.pool.idle(gateway.upstream) == 0, "the pool noticed")
        client.ask(asked())
        assert (await client.answer())[0] == 200
        assert engine.requests == 2


async def test_bytes_nobody_asked_for_close_an_idle_connection() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked())
        await client.answer()
        next(iter(engine.open)).transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray")
        await until(lambda: not engine.open, "the connection closed")
        client.ask(asked())
        assert b"hello" in (await client.answer())[2]


# Deaths.


def dead_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_errors_before_the_first_byte_are_raised_by_kind() -> None:
    async with (
        MockEngine() as engine,
        serving(engine, first_byte_timeout=0.05) as gateway,
        client_of(gateway) as client,
    ):
        for script, kind in (
            ({"hang": True}, FirstByteTimeout),
            ({"die_after": 0}, DiedBeforeFirstByte),
            ({"raw": "SSH-2.0-x\r\n"}, BadAnswer),
            ({"raw": "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"}, BadAnswer),
            ({"raw": "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"}, BadAnswer),
            ({"raw": "HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 20_000}, BadAnswer),
        ):
            client.ask(asked(True, **script))
            status, _, body = await client.answer()
            assert (status, body.decode()) == (502, kind.__name__), script
        gateway.upstream = Upstream("127.0.0.1", dead_port())
        client.ask(asked())
        await client.answer()
        assert isinstance(gateway.errors[-1], ConnectRefused)
        assert gateway.errors[-1].errno
        gateway.upstream = Upstream("127.0.0.1", engine.port)
        client.ask(asked())
        assert (await client.answer())[0] == 200, "the client's connection serves on"
        assert not gateway.splice.pool.idle(Upstream("127.0.0.1", dead_port()))


def error_of(body: bytes) -> dict[str, Any]:
    return json.loads(body.rstrip().rsplit(b"\n\n", 1)[-1].removeprefix(b"data: "))["error"]  # type: ignore[no-any-return]


async def test_a_worker_that_dies_mid_stream_ends_it_with_an_error_frame() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(True, tokens=9, die_after=2))
        await client.head()
        chunks = await client.chunks()
        assert chunks[:2] == [event(0), event(1)]
        assert error_of(b"".join(chunks[2:])) == {
            "message": "The worker stopped before the answer was whole.",
            "type": "server_error",
            "code": "worker_died",
            "param": None,
        }
        assert b"[DONE]" not in b"".join(chunks)
        assert await client.rest() == b"", "then the connection closes"
        await until(lambda: gateway.outcomes, "the outcome")
        assert gateway.outcomes[0].end == "upstream_died"
        assert "closed" in gateway.outcomes[0].reason


_THIRD = chunk(event(2))
_SIZE_LINE = _THIRD.index(b"\r\n") + 2


@pytest.mark.parametrize("inside", [1, 2, 3, 4, 5, 20, *range(len(_THIRD) - 4, len(_THIRD))])
async def test_a_death_anywhere_inside_a_chunk_is_never_silent(inside: int) -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(True, tokens=9, die_after=2, die_inside=inside))
        await client.head()
        if _SIZE_LINE - 1 <= inside < len(_THIRD) - 2:
            body = b"".join(await client.chunks())
            assert body.startswith(event(0) + event(1))
            assert error_of(body)["code"] == "worker_died"
            assert await client.rest() == b""
        else:  # the framing can't be mended: cut, so that no client takes it for whole
            with pytest.raises((asyncio.IncompleteReadError, ValueError)):
                await client.chunks()
        assert gateway.outcomes[0].end == "upstream_died"


async def test_a_worker_that_dies_inside_a_plain_answer_leaves_it_cut() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(size=1000, die_after=300))
        _, headers = await client.head()
        assert headers["content-length"] == "1000"
        assert await client.rest() == b"x" * 300
        await until(lambda: gateway.outcomes, "the outcome")
        assert gateway.outcomes[0].end == "upstream_died"


@pytest.mark.parametrize(
    "more", ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "garbage", "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"]
)
async def test_more_than_one_answer_never_reaches_the_client(more: str) -> None:
    raw = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with MockEngine(Script(raw=raw + more)) as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(b"{}")
        status, _, body = await client.answer()
        assert (status, body) == (502, b"BadAnswer")
        assert engine.requests == 1


async def test_the_time_for_the_whole_answer_ends_a_stream_with_a_frame() -> None:
    async with MockEngine() as engine, serving(engine, total_timeout=0.2) as gateway, client_of(gateway) as client:
        client.ask(asked(True, tokens=10_000, interval=0.01))
        await client.head()
        assert error_of(b"".join(await client.chunks()))["type"] == "timeout_error"
        await until(lambda: gateway.outcomes, "the outcome")
        assert gateway.outcomes[0].end == "timed_out"
        assert engine.seen[0].closed.is_set()
    async with MockEngine() as engine, serving(engine, total_timeout=0.05) as gateway, client_of(gateway) as client:
        client.ask(asked(hang=True))
        assert (await client.answer())[2] == b"FirstByteTimeout"


async def test_a_worker_that_falls_silent_inside_an_answer_is_dead() -> None:
    async with MockEngine() as engine, serving(engine, stall_timeout=0.1) as gateway, client_of(gateway) as client:
        client.ask(asked(True, tokens=3, interval=60))
        await client.head()
        chunks = await client.chunks()
        assert chunks[0] == event(0)
        assert error_of(chunks[1])["code"] == "worker_died"
        client2 = await Client.connect(gateway.port)
        client2.ask(asked(True, tokens=40, interval=0.01))
        assert (await client2.answer())[2] == b"".join(stream_of(40)), "slow is not silent"
        await client2.close()


async def test_a_cancelled_forward_closes_both_sides() -> None:
    tasks: list[asyncio.Task[Any]] = []
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        handle: Callable[..., Awaitable[Any]] = gateway.splice.forward

        async def forward(*args: Any, **options: Any) -> Any:
            tasks.append(asyncio.create_task(handle(*args, **options)))  # type: ignore[arg-type]
            return await tasks[0]

        gateway.splice.forward = forward  # type: ignore[assignment]
        client.ask(asked(True, tokens=10_000, interval=0.01))
        await client.head()
        tasks[0].cancel()
        await asyncio.wait_for(engine.seen[0].closed.wait(), 2)
        with contextlib.suppress(ConnectionError):
            assert not (await client.rest()).endswith(b"0\r\n\r\n")
