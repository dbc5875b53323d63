# SPDX-License-Identifier: GPL-3.0-or-later
"""One application on several listeners, each with its own rule; and how errors look on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from rbee.adapters.secrets import Token
from rbee.core.errors import Conflict, DeadlineExceeded, Insufficient, InvalidRequest, RbeeError, Unavailable
from rbee.daemons.access import Listener
from rbee.daemons.app import Route, Server, build

TOKEN = Token("the-secret-of-the-fleet")
ERRORS: dict[str, tuple[Exception, int]] = {
    "conflict": (Conflict("no"), 409),
    "invalid_request": (InvalidRequest("no", param="x"), 400),
    "unavailable": (Unavailable("no", retry_after=7.2), 503),
    "insufficient_resources": (Insufficient("no"), 503),
    "deadline_exceeded": (DeadlineExceeded("no"), 504),
    "odd": (RbeeError("no", code="odd"), 500),
    "internal": (ZeroDivisionError("secret detail"), 500),
}


async def hello(request: web.Request) -> web.StreamResponse:
    return web.Response(text="hello")


async def fail(request: web.Request) -> web.StreamResponse:
    raise ERRORS[request.query["code"]][0]


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await request.read())


async def slow(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(0.3)
    return web.Response(text="done")


ROUTES = [
    Route("GET", "/hello", hello),
    Route("GET", "/open", hello, "open"),
    Route("GET", "/fail", fail),
    Route("POST", "/echo", echo),
    Route("GET", "/slow", slow),
]


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, aiohttp.ClientSession]]:
    listeners = [Listener("127.0.0.1", 0), Listener("0.0.0.0", 0, TOKEN)]
    server = Server(build(ROUTES, max_body=1000), listeners)
    await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield server, http
    finally:
        await server.stop(drain=1)


async def test_the_listener_decides_whether_a_token_is_wanted() -> None:
    async with serving() as (server, http):
        loopback, network = server.urls[0], f"http://127.0.0.1:{server.ports[1]}"
        cases: list[tuple[str, dict[str, str], int]] = [
            (f"{loopback}/hello", {}, 200),
            (f"{loopback}/hello", {"Authorization": "Bearer wrong"}, 200),
            (f"{network}/hello", {}, 401),
            (f"{network}/hello", {"Authorization": TOKEN.header["Authorization"]}, 200),
            (f"{network}/hello", {"Authorization": "bearer the-secret-of-the-fleet"}, 200),
            (f"{network}/hello", {"Authorization": "Basic the-secret-of-the-fleet"}, 401),
            (f"{network}/hello", {"x-api-key": "the-secret-of-the-fleet"}, 200),
            (f"{network}/hello", {"x-api-key": "the-secret-of-the-flee"}, 401),
            (f"{network}/open", {}, 200),
            (f"{network}/nowhere", {}, 401),
            (f"{loopback}/nowhere", {}, 404),
        ]
        for url, headers, status in cases:
            async with http.get(url, headers=headers) as answer:
                assert answer.status == status, (url, headers)


async def test_a_web_page_of_another_site_cannot_use_the_open_listener() -> None:
    async with serving() as (server, http):
        cases = [
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://[evil"}, 403),
            ({"Host": "[evil"}, 403),
            ({"Origin": "http://localhost:5173"}, 200),
            ({"Sec-Fetch-Site": "cross-site"}, 403),  # an image: browsers name no origin for it
            ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:5173"}, 200),
            ({"Sec-Fetch-Site": "none"}, 200),
            ({"Host": "evil.example:7833"}, 403),
            ({"Host": "127.0.0.1.evil.example"}, 403),
            ({"Host": "localhost:7833"}, 200),
            ({"Host": "192.168.1.10"}, 200),
            ({"Host": "[::1]:7833"}, 200),
            ({"Host": "workstation.home.arpa"}, 200),
            ({"Host": "workstation"}, 200),
        ]
        for headers, status in cases:
            async with http.post(f"{server.urls[0]}/echo", headers=headers) as answer:
                assert answer.status == status, headers


@pytest.mark.parametrize("code", ERRORS)
async def test_errors_have_their_status_and_openais_body(code: str) -> None:
    async with serving() as (server, http), http.get(f"{server.urls[0]}/fail", params={"code": code}) as answer:
        assert answer.status == ERRORS[code][1]
        error = (await answer.json())["error"]
        assert error["code"] == code
        assert set(error) == {"message", "type", "code", "param"}
        assert "secret detail" not in error["message"]
        assert ("Retry-After" in answer.headers) == (answer.status == 503)
        if code == "unavailable":
            assert answer.headers["Retry-After"] == "8"


@pytest.mark.parametrize("path", ["nowhere", "nowhere%0A", "a%0D%0Ab/c"])
async def test_a_path_that_is_none_gets_openais_body(path: str) -> None:
    async with serving() as (server, http), http.get(URL(f"{server.urls[0]}/{path}", encoded=True)) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")


async def test_bodies_are_bounded_and_methods_known() -> None:
    async with serving() as (server, http):
        async with http.post(f"{server.urls[0]}/echo", data=b"x" * 2000) as answer:
            assert answer.status == 413
            assert (await answer.json())["error"]["code"] == "too_large"
        async with http.delete(f"{server.urls[0]}/echo") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        async with http.head(f"{server.urls[0]}/hello") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("line", [b"no header", b"X: " + b"x" * 20_000, b"Content-Length: x", b"Content-Length: -1"])
async def test_what_is_no_http_gets_openais_body_too(line: bytes) -> None:
    async with serving() as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[0])
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert set(json.loads(body)["error"]) == {"message", "type", "code", "param"}


async def test_a_stop_lets_a_request_in_flight_end() -> None:
    async with serving() as (server, http):
        asked = asyncio.create_task(_text(http, f"{server.urls[0]}/slow"))
        await asyncio.sleep(0.1)
        await server.stop(drain=5)
        assert await asked == "done"
        with pytest.raises(aiohttp.ClientConnectorError):
            await _text(http, f"{server.urls[0]}/hello")


async def test_a_taken_port_is_an_error_for_people() -> None:
    async with serving() as (server, _):
        again = Server(build(ROUTES), [Listener("127.0.0.1", server.ports[0])])
        with pytest.raises(RbeeError) as caught:
            await again.start()
        assert caught.value.code == "address_in_use"


async def _text(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url) as answer:
        return await answer.text()
