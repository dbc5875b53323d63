# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of clients: what they open, what they are limited to, and what becomes of their files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.secrets import BadSecret, Token
from rbee.contracts.configs import QueenConfig
from rbee.core.spec_queen import KeySpec, LimitsSpec
from tests.support.gateway import Client as Raw
from tests.support.mock_engine import MockEngine
from tests.support.queen import MODEL, Client, beat, queen_config, queen_in, workers
from tests.support.waiting import eventually

FLEET = Token("the-fleets-own-token-0123456789")
ALICE, BOB = "alices-key-0123456789", "bobs-key-0123456789"


def key_file(root: Path, name: str, text: str, mode: int = 0o600) -> str:
    file = root / f"{name}.key"
    file.write_text(text + "\n")
    file.chmod(mode)
    return str(file)


def keys(root: Path, **limits: Any) -> dict[str, KeySpec]:
    return {
        "alice": KeySpec(name="alice", key_file=key_file(root, "alice", ALICE), **limits),
        "bob": KeySpec(name="bob", key_file=key_file(root, "bob", BOB)),
    }


def on_network(root: Path, **changes: Any) -> QueenConfig:
    """A listener that wants the token: all addresses."""
    return queen_config(**{"listen": "0.0.0.0:0", "keys": keys(root), **changes})


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def status(c: Client, headers: Mapping[str, str], method: str = "GET", path: str = "/v1/models") -> int:
    async with c.http.request(method, f"{c.url}{path}", headers=headers, json={} if method == "POST" else None) as got:
        return got.status


async def chat(c: Client, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], Any]:
    async with c.chat(headers=headers) as answer:
        return answer.status, answer.headers, await answer.json()


async def test_a_key_opens_inference_and_the_models_and_nothing_else(tmp_path: Path) -> None:
    async with queen_in(tmp_path, on_network(tmp_path), FLEET) as c, workers(c, "w1", token=FLEET):
        for headers in (bearer(ALICE), {"x-api-key": BOB}, {"Authorization": f"bearer  {ALICE} "}, FLEET.header):
            assert (await chat(c, headers))[0] == 200
            assert (await chat(c, headers))[0] == 200  # known by now
            assert await status(c, headers) == 200
            assert await status(c, headers, path=f"/v1/models/{MODEL}") == 200
        for method, path in (
            ("POST", "/v1/jobs"),
            ("GET", "/v1/jobs"),
            ("POST", "/v1/worker-heartbeat"),
            ("POST", "/v1/hive-heartbeat"),
            ("GET", "/v1/queen"),
            ("POST", "/v1/queen/reload"),
            ("GET", "/metrics"),
        ):
            assert await status(c, bearer(ALICE), method, path) == 401, path
            assert await status(c, FLEET.header, method, path) != 401, path


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("nobodys-key-0123456789"),
        bearer(""),
        {"Authorization": ALICE},
        {"Authorization": "Basic " + ALICE},
        {"x-api-key": "nobodys-key-0123456789"},
        {"x-api-key": f"Bearer {ALICE}"},
        bearer(ALICE[:-1]),
        bearer("é" * 20),
    ],
)
async def test_unknown_is_401(tmp_path: Path, headers: Mapping[str, str]) -> None:
    async with queen_in(tmp_path, on_network(tmp_path), FLEET) as c, workers(c, "w1", token=FLEET):
        code, said, body = await chat(c, headers)
        assert code == 401
        assert said["WWW-Authenticate"] == "Bearer"
        assert body["error"]["code"] == "unauthorized"
        assert await status(c, headers) == 401


async def test_a_proxys_login_beside_the_key(tmp_path: Path) -> None:
    async with queen_in(tmp_path, on_network(tmp_path), FLEET) as c, workers(c, "w1", token=FLEET):
        login = {"Authorization": "Basic dXNlcjpwYXNz"}
        assert (await chat(c, {**login, "x-api-key": ALICE}))[0] == 200
        assert (await chat(c, {**login, "x-api-key": "nobodys-key-0123456789"}))[0] == 401
        assert (await chat(c, login))[0] == 401


async def test_other_sites_pages_are_refused_on_loopback(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"):
        for foreign in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await chat(c, foreign))[0] == 403
            assert await status(c, foreign) == 403
        assert (await chat(c, {"Origin": "http://localhost:3000"}))[0] == 200


async def test_requests_a_minute(tmp_path: Path) -> None:
    config = queen_config(keys=keys(tmp_path, requests_per_minute=3))
    now = [100.0]
    async with queen_in(tmp_path, config, clock=lambda: now[0]) as c, workers(c, "w1"):
        for _ in range(3):
            assert (await chat(c, bearer(ALICE)))[0] == 200
        now[0] += 1.5
        code, headers, body = await chat(c, bearer(ALICE))
        assert code == 429
        assert body["error"]["code"] == "rate_limited"
        assert "'alice' may ask 3 times a minute" in body["error"]["message"]
        assert (headers["Retry-After"], headers["retry-after-ms"]) == ("19", "18501")
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-ratelimit-reset-requests"] == "58.5s"
        assert (await chat(c, bearer(BOB)))[0] == 200  # another's share is not his
        now[0] += 18.5
        assert [(await chat(c, bearer(ALICE)))[0] for _ in range(2)] == [200, 429]


async def test_limits_of_each_client_without_a_key(tmp_path: Path) -> None:
    config = queen_config(keys=keys(tmp_path, requests_per_minute=100), limits=LimitsSpec(requests_per_minute=1))
    async with queen_in(tmp_path, config, FLEET) as c, workers(c, "w1"):
        for headers in ({}, bearer("program-x"), bearer("program-y"), bearer(BOB), FLEET.header):
            assert (await chat(c, headers))[0] == 200
            assert (await chat(c, headers))[0] == 429
        for _ in range(5):
            assert (await chat(c, bearer(ALICE)))[0] == 200


async def test_requests_at_once(tmp_path: Path) -> None:
    config = queen_config(keys=keys(tmp_path, concurrent=2))
    async with queen_in(tmp_path, config) as c, workers(c, "w1", slots=1) as (engine,):
        hang = [asyncio.get_running_loop().create_task(hanging(c)) for _ in range(2)]
        await eventually(lambda: engine.requests == 1 and c.queen.gate.waiting(MODEL) == 1)
        code, headers, body = await chat(c, bearer(ALICE))
        assert (code, body["error"]["code"]) == (429, "too_many_concurrent")
        assert int(headers["Retry-After"]) >= 1
        assert c.queen.gate.limits.running("alice") == 2
        for task in hang:
            task.cancel()
        await asyncio.gather(*hang, return_exceptions=True)
        await eventually(lambda: c.queen.gate.limits.running("alice") == 0)
        assert (await chat(c, bearer(ALICE)))[0] == 200


async def hanging(c: Client) -> None:
    async with c.chat(headers=bearer(ALICE), mock={"hang": True}):
        pass


async def test_what_is_refused_before_it_was_let_in_counts_for_nothing(tmp_path: Path) -> None:
    config = queen_config(keys=keys(tmp_path, concurrent=1))
    async with queen_in(tmp_path, config) as c:
        for _ in range(3):
            assert (await chat(c, bearer(ALICE)))[0] == 503  # no worker
        assert c.queen.gate.limits.running("alice") == 0


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (None, 0o600, "does not exist"),
        ("short", 0o600, "at least 16"),
        (ALICE, 0o644, "can be read by others"),
        (BOB, 0o600, "have the same key"),
        (FLEET.reveal(), 0o600, "is the fleet's token"),
    ],
)
async def test_a_file_that_is_no_good(tmp_path: Path, text: str | None, mode: int, said: str) -> None:
    """At the start it is an error; at a reload too, and then everybody keeps his key."""
    good = on_network(tmp_path)
    config = [good]
    async with (
        queen_in(tmp_path / "first", good, FLEET, reread=lambda: config[0]) as c,
        workers(c, "w1", token=FLEET),
    ):
        if text is None:
            (tmp_path / "alice.key").unlink()
        else:
            key_file(tmp_path, "alice", text, mode)
        config[0] = replace(good, aliases={"other": (MODEL,)})
        async with c.http.post(f"{c.url}/v1/queen/reload", headers=FLEET.header) as answer:
            assert answer.status >= 400
            message = (await answer.json())["error"]["message"]
        assert said in message
        assert "'alice'" in message
        assert not {ALICE, BOB, FLEET.reveal()} & set(message.split())
        assert (await chat(c, bearer(ALICE)))[0] == 200
        assert c.queen.catalog.aliases == good.aliases
    with pytest.raises(BadSecret, match=said):
        async with queen_in(tmp_path / "second", good, FLEET):
            pass


async def test_a_new_key_by_reload(tmp_path: Path) -> None:
    config = on_network(tmp_path)
    async with queen_in(tmp_path, config, FLEET, reread=lambda: config) as c, workers(c, "w1", token=FLEET):
        assert (await chat(c, bearer(ALICE)))[0] == 200
        key_file(tmp_path, "alice", "alices-new-key-0123456789")
        c.queen.reload()
        assert (await chat(c, bearer(ALICE)))[0] == 401
        assert (await chat(c, bearer("alices-new-key-0123456789")))[0] == 200


async def test_a_key_that_ends_while_a_body_is_on_its_way(tmp_path: Path) -> None:
    """What was begun with it is served, and nothing after it, though the connection sends the same head."""
    config, body = on_network(tmp_path), b'{"model": "llama"}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: q\r\nAuthorization: Bearer {ALICE}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    async with queen_in(tmp_path, config, FLEET, reread=lambda: config) as c, workers(c, "w1", token=FLEET):
        client = await Raw.connect(c.queen._server.ports[0])
        client.writer.write(head.encode() + body[:5])
        await eventually(lambda: c.queen._server._front and c.queen._server._front.busy)
        key_file(tmp_path, "alice", "alices-new-key-0123456789")
        c.queen.reload()
        client.writer.write(body[5:])
        assert (await client.answer())[0] == 200
        client.writer.write(head.encode() + body)
        assert (await client.answer())[0] == 401
        await client.close()


async def test_keys_are_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with queen_in(tmp_path, on_network(tmp_path), FLEET) as c, workers(c, "w1", token=FLEET):
        await chat(c, bearer(ALICE))
        await chat(c, bearer("nobodys-key-0123456789"))
        async with c.http.get(f"{c.url}/metrics", headers=FLEET.header) as answer:
            text = await answer.text() + caplog.text
        assert ALICE not in text
        assert "nobodys" not in text


async def test_a_key_may_be_bound_to_hives(tmp_path: Path) -> None:
    """`require`: this key's requests go to hives with these labels only."""
    config = queen_config(keys=keys(tmp_path, require={"region": "eu"}))
    async with queen_in(tmp_path, config) as c, MockEngine() as us, MockEngine() as eu:
        c.queen.registry.label({"h1": {"region": "us"}, "h2": {"region": "eu"}})
        await c.heartbeat(beat("w1", us.port))
        assert (await chat(c, bearer(ALICE)))[0] == 503
        await c.heartbeat(beat("w2", eu.port, hive_id="h2"))
        for _ in range(4):
            assert (await chat(c, bearer(ALICE)))[1]["X-Rbee-Worker"] == "w2"
        assert us.requests == 0
