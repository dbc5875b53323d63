# SPDX-License-Identifier: GPL-3.0-or-later
"""`Splice.open`: an answer read here instead of relayed, as the worker does with its engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from rbee.adapters.splice import (
    ConnectRefused,
    DiedBeforeFirstByte,
    DiedMidAnswer,
    FirstByteTimeout,
    Splice,
    SseEvent,
    Upstream,
)
from tests.support.mock_engine import MockEngine, Script, event


@pytest.fixture
async def engine() -> AsyncIterator[MockEngine]:
    async with MockEngine() as engine:
        yield engine


@pytest.fixture
async def splice() -> AsyncIterator[Splice]:
    splice = Splice(clock=time.monotonic)
    yield splice
    await splice.close()


def at(engine: MockEngine) -> Upstream:
    return Upstream("127.0.0.1", engine.port)


STREAM = json.dumps({"stream": True}).encode()


@pytest.mark.parametrize("split", [None, 1, 5])
async def test_events_come_whole_however_they_are_cut(engine: MockEngine, splice: Splice, split: int | None) -> None:
    engine.script = Script(text="蜂né", tokens=3, split=split)
    for _ in range(2):
        async with await splice.open(at(engine), target="/v1/chat/completions", body=STREAM) as answer:
            assert (answer.status, answer.header("content-type")) == (200, "text/event-stream")
            events = [found async for found in answer.events()]
        assert [found.raw for found in events] == [
            event(0, "蜂né"),
            event(1, "蜂né"),
            event(2, "蜂né"),
            b"data: [DONE]\n\n",
        ]
        assert json.loads(events[0].data)["choices"][0]["delta"]["content"] == "蜂né0 "
        assert events[-1].data == b"[DONE]"
    assert engine.connections == 1


def test_an_event_has_its_name_and_all_its_data_lines() -> None:
    found = SseEvent.parse(b": comment\r\nevent: delta\r\ndata: a\r\ndata:b\r\ndata\r\nid: 3\r\n\r\n")
    assert (found.event, found.data) == (b"delta", b"a\nb\n")


async def test_the_last_event_counts_without_its_blank_line(engine: MockEngine, splice: Splice) -> None:
    body = "data: a\r\n\r\n\n\nevent: x\ndata: b"
    engine.script = Script(raw=f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}", split=3)
    async with await splice.open(at(engine), target="/", body=b"{}") as answer:
        assert [(found.event, found.data) async for found in answer.events()] == [(b"", b"a"), (b"x", b"b")]


async def test_a_plain_answer_is_read_whole(engine: MockEngine, splice: Splice) -> None:
    engine.script = Script(size=3_000_000, status=418)
    async with await splice.open(at(engine), target="/", body=b"{}", headers=[("X-A", "b")]) as answer:
        assert answer.status == 418
        assert await answer.read() == b"x" * 3_000_000
    assert engine.seen[0].header("x-a") == ["b"]
    async with await splice.open(at(engine), target="/", body=b"{}") as answer:
        with pytest.raises(DiedMidAnswer, match="longer than"):
            await answer.read(limit=1000)
    await asyncio.wait_for(engine.seen[1].closed.wait(), 30)


async def test_a_reader_that_waits_makes_the_engine_wait(engine: MockEngine, splice: Splice) -> None:
    size = 64 * 2**20
    engine.script = Script(size=size)
    async with await splice.open(at(engine), target="/", body=b"{}") as answer:
        before = -1
        while engine.seen[0].sent != before:
            before = engine.seen[0].sent
            await asyncio.sleep(0.2)
        assert before < size / 2
        assert sum([len(piece) async for piece in answer.chunks()]) == size


async def test_leaving_early_closes_the_engines_connection_at_once(engine: MockEngine, splice: Splice) -> None:
    engine.script = Script(tokens=10_000, interval=0.01)
    async with await splice.open(at(engine), target="/", body=STREAM) as answer:
        async for found in answer.events():
            assert found.raw == event(0)
            break
    await asyncio.wait_for(engine.seen[0].closed.wait(), 30)
    assert splice.pool.idle(at(engine)) == 0


@pytest.mark.parametrize("script", [Script(hang=True), Script(tokens=10_000, interval=0.01)])
async def test_cancelling_closes_the_engines_connection_at_once(
    engine: MockEngine, splice: Splice, script: Script
) -> None:
    engine.script = script

    async def read() -> None:
        async with await splice.open(at(engine), target="/", body=STREAM) as answer:
            await answer.read()

    task = asyncio.create_task(read())
    while not engine.seen:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(engine.seen[0].closed.wait(), 30)


@pytest.mark.parametrize("inside", [0, 10])
async def test_an_engine_that_dies_mid_answer_is_an_error_after_what_it_said(
    engine: MockEngine, splice: Splice, inside: int
) -> None:
    engine.script = Script(tokens=9, die_after=2, die_inside=inside)
    found: list[bytes] = []
    async with await splice.open(at(engine), target="/", body=STREAM) as answer:
        with pytest.raises(DiedMidAnswer, match="closed the connection"):
            async for one in answer.events():
                found.append(one.raw)  # noqa: PERF401
    assert found == [event(0), event(1)]


async def test_errors_before_the_head_are_those_of_forward(engine: MockEngine, splice: Splice) -> None:
    engine.script = Script(die_after=0)
    with pytest.raises(DiedBeforeFirstByte):
        await splice.open(at(engine), target="/", body=STREAM)
    engine.script = Script(hang=True)
    with pytest.raises(FirstByteTimeout):
        await splice.open(at(engine), target="/", body=STREAM, first_byte_timeout=0.05)
    await engine.stop()
    with pytest.raises(ConnectRefused):
        await splice.open(at(engine), target="/", body=STREAM)


async def test_a_stream_that_ends_with_the_connection_is_whole(engine: MockEngine, splice: Splice) -> None:
    engine.script = Script(tokens=2, until_close=True)
    async with await splice.open(at(engine), target="/", body=STREAM) as answer:
        assert len([found async for found in answer.events()]) == 3


async def test_connections_unused_for_too_long_are_not_used_again(engine: MockEngine) -> None:
    now = [0.0]
    splice = Splice(clock=lambda: now[0], idle_seconds=30, max_idle=2)

    async def ask() -> None:
        async with await splice.open(at(engine), target="/", body=b"{}") as answer:
            await answer.read()

    await ask()
    now[0] = 29
    await ask()
    assert engine.connections == 1
    now[0] = 60
    await ask()
    assert engine.connections == 2
    await asyncio.gather(*(ask() for _ in range(4)))
    assert splice.pool.idle(at(engine)) == 2
    await splice.close()
