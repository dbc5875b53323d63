# SPDX-License-Identifier: GPL-3.0-or-later
"""The splice and its upstreams: connections kept, found dead, and every way an engine can die."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httptools
import pytest

from rbee.adapters.splice import (
    BadAnswer,
    ConnectRefused,
    DiedBeforeFirstByte,
    FirstByteTimeout,
    Splice,
    Upstream,
    UpstreamError,
)
from rbee.adapters.splice.exchange import Exchange
from rbee.adapters.splice.relay import perhaps_last_chunk
from tests.support.gateway import Client, asked, client_of, error_of, serving, stream_of
from tests.support.mock_engine import MockEngine, Script, chunk, event
from tests.support.waiting import eventually

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
        await eventually(lambda: not engine.open, "the idle connection closed")


async def test_a_machine_that_vanished_is_noticed_by_the_kernel() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(True))
        await client.answer()
        (connection,) = gateway.splice.pool._idle[gateway.upstream]
        tcp = connection.transport.get_extra_info("socket")
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_a_request_as_to_a_proxy_is_passed_on_like_any() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(), head="POST http://gw/v1/x?a=b HTTP/1.1")
        assert (await client.answer())[0] == 200


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
        await eventually(lambda: gateway.splice.pool.idle(gateway.upstream) == 0, "the pool noticed")
        client.ask(asked())
        assert (await client.answer())[0] == 200
        assert engine.requests == 2


async def test_bytes_nobody_asked_for_close_an_idle_connection() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked())
        await client.answer()
        next(iter(engine.open)).transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray")
        await eventually(lambda: not engine.open, "the connection closed")
        client.ask(asked())
        assert b"hello" in (await client.answer())[2]


async def test_a_connection_with_an_unsent_body_is_not_used_again() -> None:
    seen = asyncio.Event()

    async def refuse_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")  # and never reads the rest
        await seen.wait()
        writer.transport.abort()

    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        server = await asyncio.start_server(refuse_early, "127.0.0.1", 0)
        gateway.upstream = Upstream("127.0.0.1", server.sockets[0].getsockname()[1])
        client.ask(b"x" * 2**24)
        assert (await client.answer())[0] == 413
        assert gateway.splice.pool.idle(gateway.upstream) == 0
        seen.set()
        server.close()
        await server.wait_closed()


async def test_nothing_of_a_request_is_left_for_the_collector() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                for request in (asked(), asked(True), asked(True, say_close=True)):
                    client.ask(request)
                    await client.answer()
            left = [one for one in gc.get_objects() if isinstance(one, (Exchange, httptools.HttpResponseParser))]
        finally:
            gc.enable()
        assert len(left) <= 2, "answers are held in cycles"


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
        client.ask(asked())
        assert (await client.answer())[0] == 200, "the head has promised to keep the connection, and so it is"
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
            client.ask(asked())
            assert (await client.answer())[0] == 200, "nothing of the one answer is left to spoil the next"
        else:  # the framing can't be mended: cut, so that no client takes it for whole
            with pytest.raises(asyncio.IncompleteReadError):
                await client.chunks()
        assert gateway.outcomes[0].end == "upstream_died"


@pytest.mark.parametrize(
    ("last", "perhaps"),
    [
        (b"\r\n", True),  # after a chunk, or after a size that came before
        (b"data: 1\n\n\r\n0\r\n", True),
        (b"000;name=value\r\n", True),
        (b"data: 1\n\n\r\n", False),
        (b"data: 0\r\n", False),
        (b"", False),
    ],
)
def test_where_a_last_chunk_may_have_begun_the_connection_is_not_kept(last: bytes, perhaps: bool) -> None:
    assert perhaps_last_chunk(last) == perhaps


async def test_a_worker_that_dies_inside_a_plain_answer_leaves_it_cut() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        client.ask(asked(size=1000, die_after=300))
        _, headers = await client.head()
        assert headers["content-length"] == "1000"
        assert await client.rest() == b"x" * 300
        await eventually(lambda: gateway.outcomes, "the outcome")
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
        await eventually(lambda: gateway.outcomes, "the outcome")
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

        gateway.splice.forward = forward  # type: ignore[method-assign]
        client.ask(asked(True, tokens=10_000, interval=0.01))
        await client.head()
        tasks[0].cancel()
        await asyncio.wait_for(engine.seen[0].closed.wait(), 30)
        with contextlib.suppress(ConnectionError):
            assert not (await client.rest()).endswith(b"0\r\n\r\n")


async def test_a_request_that_found_no_worker_goes_to_another() -> None:
    async with MockEngine() as engine, serving(engine) as gateway, client_of(gateway) as client:
        one = gateway.splice.forward
        tried: list[type[UpstreamError]] = []

        async def forward(request: Any, *, upstream: Upstream, **options: Any) -> Any:
            for candidate in (Upstream("127.0.0.1", dead_port()), Upstream("127.0.0.1", dying.port), upstream):
                try:
                    return await one(request, upstream=candidate, **options)
                except UpstreamError as error:
                    tried.append(type(error))
            raise AssertionError("no worker")

        gateway.splice.forward = forward  # type: ignore[method-assign]
        async with MockEngine(Script(die_after=0)) as dying:
            client.ask(asked(True))
            assert (await client.answer())[2] == b"".join(stream_of(3))
        assert tried == [ConnectRefused, DiedBeforeFirstByte]
        assert gateway.heads == [200]


async def test_a_connection_that_is_reset_as_soon_as_it_is_made_is_an_error_and_no_silence() -> None:
    """As of an engine that is being killed: the kernel still takes connections in, and drops them."""

    async def dropped() -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listening)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    splice = Splice(clock=time.monotonic)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        dropping = asyncio.create_task(dropped())
        upstream = Upstream("127.0.0.1", listening.getsockname()[1])
        for _ in range(100):
            with pytest.raises(UpstreamError):
                await asyncio.wait_for(splice.open(upstream, target="/", body=b"{}"), 10.0)
        dropping.cancel()
    await splice.close()
