# SPDX-License-Identifier: GPL-3.0-or-later
"""A small scriptable engine that speaks enough of OpenAI's HTTP: in this process, or as one of its own.

What it does with a request stands in the request's body, `{"mock": {...}}` (see `Script`), so that it can be told
through any proxy; a `MockEngine` may also be given a script for all requests. As a process:
`python -m tests.support.mock_engine [PORT]` prints the port it got.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import httptools
import msgspec


class Script(msgspec.Struct, kw_only=True):
    """What to do with one request."""

    #: Streamed events, and the seconds between them.
    tokens: int = 3
    interval: float = 0.0
    #: The text of each event; non-ASCII shows splits inside characters.
    text: str = "tok"
    #: Close after so many events, without an end. 0: before the first byte.
    die_after: int | None = None
    #: And after so many bytes of the next event's chunk.
    die_inside: int = 0
    #: Never answer.
    hang: bool = False
    #: Seconds before the head.
    delay: float = 0.0
    #: Say keep-alive and close, as llama.cpp does.
    close_after: bool = False
    #: Say `Connection: close` and close.
    say_close: bool = False
    #: Write the answer in pieces of so many bytes.
    split: int | None = None
    #: Bytes of body of a plain answer; None: a small JSON.
    size: int | None = None
    status: int = 200
    #: No length and no chunks: the body ends with the connection.
    until_close: bool = False
    #: Sent as they are, instead of everything above; then the connection stays open.
    raw: str | None = None


class _Request(msgspec.Struct):
    stream: bool = False
    mock: Script = msgspec.field(default_factory=Script)


#: In a message, for gateways that let no unknown field pass.
_IN_WORDS = re.compile(rb"MOCK tokens=(\d+) interval=([\d.]+);")


_decode = msgspec.json.Decoder(_Request).decode
_PLAIN = json.dumps({"id": "cmpl-mock", "object": "chat.completion", "choices": [{"message": {"content": "hello"}}]})


def _in_words(body: bytes) -> Script | None:
    found = _IN_WORDS.search(body, 0, 512)
    return Script(tokens=int(found[1]), interval=float(found[2])) if found else None


def plain_body() -> bytes:
    """The body of the plain answer when the script says nothing of it."""
    return _PLAIN.encode()


@lru_cache(maxsize=8192)
def event(index: int, text: str = "tok") -> bytes:
    """The SSE frame of token `index`."""
    choice = {"index": 0, "delta": {"content": f"{text}{index} "}}
    return f"data: {json.dumps({'id': 'c', 'choices': [choice]}, ensure_ascii=False)}\n\n".encode()


def chunk(data: bytes) -> bytes:
    """`data` as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Seen:
    """One request as the engine got it; `closed` is set when the client's connection went away."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    connection: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class _Connection(asyncio.Protocol):
    def __init__(self, engine: MockEngine) -> None:
        self.engine = engine
        self.number = engine.connections = engine.connections + 1
        self.parser = httptools.HttpRequestParser(self)
        self.task: asyncio.Task[None] | None = None
        self.seen: Seen | None = None
        self.room = asyncio.Event()
        self.room.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.engine.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.engine.open.discard(self)
        self.room.set()
        if self.task is not None:
            self.task.cancel()
        if self.seen is not None:
            self.seen.closed.set()

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # some gateways try HTTP/2 first
            self.transport.close()

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers: list[tuple[str, str]] = []
        self.pieces: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode().lower(), value.decode("latin-1")))

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        body = b"".join(self.pieces)
        method = self.parser.get_method().decode()
        self.engine.requests += 1
        if self.engine.record:
            self.seen = Seen(method, self.url.decode(), self.headers, body, self.number)
            self.engine.seen.append(self.seen)
        asked = _decode(body) if body else _Request()
        script = self.engine.next.pop(0) if self.engine.next else self.engine.script or _in_words(body) or asked.mock
        if script == _DEFAULT and not asked.stream and method != "HEAD":
            self.transport.write(_PLAIN_ANSWER)
        else:
            self.task = asyncio.get_running_loop().create_task(self._act(script, asked.stream, method))

    async def _act(self, script: Script, stream: bool, method: str) -> None:
        if script.hang:
            return
        if script.delay:
            await asyncio.sleep(script.delay)
        if script.raw is not None:
            await self._write(script.raw.encode("latin-1"), script.split)
        elif stream:
            await self._stream(script)
        else:
            await self._plain(script, method)
        if script.close_after or script.say_close or script.until_close:
            self.transport.close()

    async def _write(self, data: bytes, split: int | None = None) -> None:
        for start in range(0, len(data), split or len(data) or 1):
            piece = data[start : start + (split or len(data))]
            await self.room.wait()
            self.transport.write(piece)
            if self.seen is not None:
                self.seen.sent += len(piece)
            if split:
                await asyncio.sleep(0.001)  # so that each piece is a segment of its own

    async def _plain(self, script: Script, method: str) -> None:
        body = _PLAIN.encode() if script.size is None else b"x" * script.size
        head = f"HTTP/1.1 {script.status} X\r\nContent-Type: application/json\r\n"
        if script.status == 204:
            body = b""
        elif not script.until_close:
            head += f"Content-Length: {len(body)}\r\n"
        head += "Connection: close\r\n" if script.say_close else ""
        await self._write(head.encode() + b"\r\n", script.split)
        if script.die_after is not None:
            body = body[: script.die_after]
        if method != "HEAD":
            for start in range(0, len(body), 65536):
                await self._write(body[start : start + 65536], script.split)
        if script.die_after is not None:
            self.transport.close()

    async def _stream(self, script: Script) -> None:
        frame = (lambda data: data) if script.until_close else chunk
        if script.die_after == 0 and not script.die_inside:
            self.transport.close()
            return
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        head += "" if script.until_close else "Transfer-Encoding: chunked\r\n"
        head += "Connection: close\r\n" if script.say_close else "Keep-Alive: timeout=5, max=100\r\n"
        await self._write(head.encode() + b"\r\n", script.split)
        for index in range(script.tokens):
            data = frame(event(index, script.text))
            if index == script.die_after:
                await self._write(data[: script.die_inside])
                self.transport.close()
                return
            await self._write(data, script.split)
            if script.interval:
                await asyncio.sleep(script.interval)
        await self._write(frame(b"data: [DONE]\n\n") + (b"" if script.until_close else b"0\r\n\r\n"), script.split)


_DEFAULT = Script()
_PLAIN_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_PLAIN) + _PLAIN.encode()
)


class MockEngine:
    """The engine in this process: `async with MockEngine() as engine: engine.port`."""

    def __init__(self, script: Script | None = None, *, port: int = 0, record: bool = True) -> None:
        self.script = script
        #: Scripts for the next requests, before `script`.
        self.next: list[Script] = []
        self.port = port
        self.record = record
        self.requests = 0
        self.connections = 0
        self.open: set[_Connection] = set()
        self.seen: list[Seen] = []

    async def __aenter__(self) -> MockEngine:
        await self.start()
        return self

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening and closes every connection."""
        self._server.close()
        for connection in list(self.open):
            connection.transport.abort()
        await asyncio.sleep(0)

    def close_connections(self) -> None:
        """Closes what is connected and goes on listening."""
        for connection in list(self.open):
            connection.transport.close()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def _serve(port: int) -> None:
    async with MockEngine(port=port, record=False) as engine:
        print(engine.port, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serves until killed, on the port that is said."""
    import uvloop

    uvloop.run(_serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))


if __name__ == "__main__":
    main()
