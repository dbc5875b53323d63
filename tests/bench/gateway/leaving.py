# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.gateway.leaving [--clients 500]`: how soon an engine hears that a client has left.

Each client asks for a stream that never ends, reads its first event and closes its connection; half of them ask for a
whole answer and leave while the engine works on it. The engine stands in this process, so that one clock tells both
moments. A gateway that does not close its connection to the engine lets it generate for nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httptools
import uvloop

from tests.support.mock_engine import event

from . import load
from .__main__ import free_port, pin, process, wait_for
from .contenders import CONTENDERS, WHOLE, Contender, Setup

RESULTS = Path(__file__).parents[1] / "results" / "leaving.json"
#: Goals: milliseconds of the 99th of a hundred, and of the slowest.
GOAL, SLOWEST = 50.0, 100.0
#: Who waits longer than this was never told.
_NEVER = 10.0
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Engine(asyncio.Protocol):
    """Begins a stream and goes on with it, or says nothing at all; `heard` gets the moment when its client is gone."""

    heard: asyncio.Future[float]

    def __init__(self, asked: asyncio.Queue[Engine]) -> None:
        self._asked = asked
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.heard = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._asked.put_nowait(self)
        if json.loads(self._body)["stream"]:
            self._transport.write(_HEAD)
            self._go_on()

    def _go_on(self) -> None:
        said = event(0)
        self._transport.write(b"%x\r\n%b\r\n" % (len(said), said))
        self._next = asyncio.get_running_loop().call_later(0.02, self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next is not None:
            self._next.cancel()
        if not self.heard.done():
            self.heard.set_result(time.perf_counter())


async def leave(port: int, engines: asyncio.Queue[Engine], stream: bool) -> float:
    """Milliseconds from a client's leaving until its engine hears of it; those of _NEVER when it does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(load.request(stream))
    engine = await asyncio.wait_for(engines.get(), 10)
    if stream:
        await reader.readuntil(b"data: ")
    left = time.perf_counter()
    writer.transport.abort()
    try:
        return (await asyncio.wait_for(engine.heard, _NEVER) - left) * 1e3
    except asyncio.TimeoutError:
        return _NEVER * 1e3


async def one(contender: Contender, clients: int) -> list[float]:
    """Sorted milliseconds of so many clients of one gateway, one after the other."""
    engines: asyncio.Queue[Engine] = asyncio.Queue()
    server = await asyncio.get_running_loop().create_server(lambda: Engine(engines), "127.0.0.1", 0)
    engine_port = int(server.sockets[0].getsockname()[1])

    async def all_leave(port: int) -> list[float]:
        return sorted([await leave(port, engines, bool(number % 2)) for number in range(clients)])

    if contender.argv is None:
        return await all_leave(engine_port)
    return await _behind(contender, engine_port, all_leave)


async def _behind(contender: Contender, engine_port: int, work: Callable[[int], Awaitable[list[float]]]) -> list[float]:
    assert contender.argv is not None
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(engine_port, free_port(), Path(folder))
        with process(contender.argv(setup), 0) as started:
            await asyncio.to_thread(wait_for, setup.port, started, contender.patience)
            return await work(setup.port)


def told(found: Sequence[float]) -> dict[str, float]:
    """Of sorted milliseconds."""
    return {f"p{share * 100:g}_ms": found[int((len(found) - 1) * share)] for share in (0.5, 0.99, 1.0)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway.leaving", description=__doc__)
    parser.add_argument("--clients", type=int, default=500)
    asked = parser.parse_args()
    pin(os.getpid(), 1)
    figures: dict[str, dict[str, float]] = {}
    for contender in CONTENDERS:
        if contender.name in ("direct", "nginx", WHOLE) and not contender.missing(print):
            print(f"{contender.name}: {asked.clients} clients leave", file=sys.stderr)
            figures[contender.name] = told(uvloop.run(one(contender, asked.clients)))
    for name, found in figures.items():
        print(f"{name}: " + ", ".join(f"{what} {figure:.2f}" for what, figure in found.items()))
    print(f"goals: the queen's p99 under {GOAL:g} ms, her slowest under {SLOWEST:g} ms")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
