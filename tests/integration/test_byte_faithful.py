# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes through queen and worker: nothing is changed that need not be, in either direction, however it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rbee.daemons.queen.front.paths import INFERENCE_PATHS
from tests.support.mock_engine import MockEngine, Script
from tests.support.queen import Client, beat, queen_in, workers
from tests.support.told_engine import told_config
from tests.support.waiting import eventually
from tests.support.workers import running

#: As no library would write it: spaces, an escaped name, numbers that lose digits, a key twice, fields of tomorrow.
ODD = (
    b'{ "mod\\u0065l" :"tiny",\n\t"messages":[{"role":"user","content":"h\xc3\xa9 \\ud83d\\udc1d"}], "prompt" : "x",'
    b'"input":"x", "query":"q","documents":["d"],  "temperature":0.70, "seed":12345678901234567890, "max_tokens" : 3 ,'
    b'"a_field_of_tomorrow" : {"deep":[1.0, 1e2, -0, null, {}]},"x":1,"x":2}\r\n'
)
PLAIN = (
    b'{ "id" :"caf\xc3\xa9","object":"o","n":1.50,"usage":{"prompt_tokens": 4,"completion_tokens": 2},"choices":[]}\n'
)
EVENTS = (
    b': a comment\ndata: {"choices":[{"index":0,"delta":{"content":"\xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\x90\x9d"}}]}\n\n'
    b'data:  {"choices" : [ ], "x": 1.0, "usage":{"prompt_tokens":7,"completion_tokens":5}}\n\nevent: odd\ndata: 1\n\n'
    b"data: [DONE]\n\n"
)


def plain(split: int | None = None) -> Script:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(PLAIN)
    return Script(raw=(head + PLAIN).decode("latin-1"), split=split)


def stream(split: int | None = None) -> Script:
    """In chunks of eleven bytes, which cut characters."""
    pieces = [EVENTS[i : i + 11] for i in range(0, len(EVENTS), 11)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Script(raw=(head + framed).decode("latin-1"), split=split)


def streaming(body: bytes) -> bytes:
    return body.replace(b'"max_tokens"', b'"stream" : true, "max_tokens"')


async def sent(http: aiohttp.ClientSession, url: str, body: bytes) -> bytes:
    async with http.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


@pytest.fixture
async def queen(tmp_path: Path) -> AsyncIterator[tuple[Client, MockEngine]]:
    async with queen_in(tmp_path) as c, workers(c, "w1", model="tiny") as (engine,):
        yield c, engine


@pytest.mark.parametrize("path", INFERENCE_PATHS)
@pytest.mark.parametrize("split", [None, 1])
async def test_the_queen_changes_nothing(queen: tuple[Client, MockEngine], path: str, split: int | None) -> None:
    c, engine = queen
    engine.next += [plain(split), stream(split)]
    assert await sent(c.http, f"{c.url}{path}", ODD) == PLAIN
    assert await sent(c.http, f"{c.url}{path}", streaming(ODD)) == EVENTS
    assert [seen.body for seen in engine.seen] == [ODD, streaming(ODD)]
    assert [seen.target for seen in engine.seen] == [path, path]


async def test_a_big_body_arrives_whole(queen: tuple[Client, MockEngine]) -> None:
    c, engine = queen
    body = ODD.replace(b'"x":2', b'"x":"' + "ü漢🐝".encode() * 1_000_000 + b'"')
    async with c.http.post(f"{c.url}/v1/chat/completions", data=_pieces(body)) as answer:
        assert answer.status == 200
    assert engine.seen[0].body == body


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_521):
        yield body[start : start + 65_521]


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, MockEngine, Any]]:
    async with MockEngine() as engine, running(told_config(engine, tmp_path)) as made:
        await eventually(lambda: made.daemon.state.status == "ready")
        engine.seen.clear()
        yield made.client, engine, made.daemon.state


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("split", [None, 1])
async def test_a_worker_changes_nothing_that_its_engine_need_not_have(
    worker: tuple[aiohttp.ClientSession, MockEngine, Any], path: str, split: int | None
) -> None:
    client, engine, state = worker
    engine.next += [plain(split), stream(split)]
    assert await sent(client, path, ODD) == PLAIN
    assert (state.prompt_tokens, state.tokens) == (4, 2)
    assert await sent(client, path, streaming(ODD)) == EVENTS
    assert [seen.body for seen in engine.seen] == [ODD, streaming(ODD)]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/audio/speech"])
async def test_a_worker_passes_on_what_it_knows_little_of(
    worker: tuple[aiohttp.ClientSession, MockEngine, Any], path: str
) -> None:
    client, engine, _ = worker
    engine.next += [plain(), stream()]
    assert await sent(client, path, ODD) == PLAIN
    assert await sent(client, path, streaming(ODD)) == EVENTS
    assert [seen.body for seen in engine.seen] == [ODD, streaming(ODD)]


async def test_only_what_must_be_set_is_set_for_an_engine_that_always_streams(tmp_path: Path) -> None:
    async with MockEngine() as engine:
        config = told_config(engine, tmp_path, always_stream=True, overrides={"return_progress": "true"})
        async with running(config) as made:
            await eventually(lambda: made.daemon.state.status == "ready")
            engine.seen.clear()
            engine.next += [stream(), stream(3)]
            whole = json.loads(await sent(made.client, "/v1/chat/completions", ODD))
            assert await sent(made.client, "/v1/chat/completions", streaming(ODD)) == EVENTS
    first, second = (seen.body for seen in engine.seen)
    for kept in (b'"temperature":0.70', b'"seed":12345678901234567890', b'{"deep":[1.0, 1e2, -0, null, {}]}'):
        assert kept in first
        assert kept in second
    assert json.loads(first)["stream"] is True
    assert json.loads(second)["return_progress"] is True
    assert whole["choices"][0]["message"]["content"] == "漢字 🐝"
    assert whole["usage"]["completion_tokens"] == 5


async def test_an_engine_that_answers_whole_may_refuse(
    worker: tuple[aiohttp.ClientSession, MockEngine, Any],
) -> None:
    client, engine, state = worker
    engine.next += [Script(status=400), Script(die_after=3)]
    for status, code in ((400, "engine_error"), (503, "engine_died")):
        async with client.post("/v1/chat/completions", data=ODD) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)
    assert state.errors == 1


async def test_the_queen_and_a_worker_together(tmp_path: Path) -> None:
    async with MockEngine() as engine, queen_in(tmp_path) as c, running(told_config(engine, tmp_path)) as made:
        await eventually(lambda: made.daemon.state.status == "ready")
        port = int(made.config.url.rpartition(":")[2])
        assert await c.heartbeat(beat("w-1", port, model="tiny")) == 200
        engine.seen.clear()
        engine.next += [plain(1), stream(1)]
        url = f"{c.url}/v1/chat/completions"
        assert await sent(c.http, url, ODD) == PLAIN
        assert await sent(c.http, url, streaming(ODD)) == EVENTS
        assert [seen.body for seen in engine.seen] == [ODD, streaming(ODD)]
