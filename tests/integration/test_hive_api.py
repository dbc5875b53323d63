# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's HTTP side against a real daemon kit on loopback, through a proxy that drops streams."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.local_shell import LocalShell
from rbee.adapters.queen_api import HttpQueenApi
from rbee.adapters.store import SqliteJobStore
from rbee.contracts.operations.fleet import QueenCheck, QueenCheckResponse
from rbee.core.errors import NotFound, RbeeError, Unauthorized, Unreachable
from rbee.daemons.access import Listener
from rbee.daemons.app import Server, build
from rbee.daemons.job_routes import JobRoutes
from rbee.daemons.jobs import Handler, JobContext, JobRunner
from tests.support.ports import free_port


@contextlib.contextmanager
def daemon(path: Path, handler: Handler) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """The daemon kit's server, in a thread with a loop of its own."""
    loop, up, made = asyncio.new_event_loop(), threading.Event(), list[Any]()
    stop = asyncio.Event()

    async def serve() -> None:
        runner = JobRunner(SqliteJobStore(path), {"QueenCheck": handler}, "test")
        await runner.start()
        server = Server(build(JobRoutes(runner).routes()), [Listener("127.0.0.1", 0)])
        await server.start()
        made.append(server.urls[0])
        up.set()
        await stop.wait()
        await runner.stop()
        await server.stop(drain=1)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert up.wait(10)
    try:
        yield made[0], loop
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def api(url: str, token: str | None = None) -> HttpQueenApi:
    return HttpQueenApi(LocalShell(), url, lambda: token)


async def counting(context: JobContext, request: object) -> QueenCheckResponse:
    for i in range(20):
        context.narrate("queen_check_step", f"Step {i}", step=i)
        await asyncio.sleep(0.01)
    return QueenCheckResponse(message="ok")


def test_events_in_order_then_the_result(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    with daemon(tmp_path / "db", counting) as (url, _):
        assert api(url).run(QueenCheck(), told.append) == QueenCheckResponse(message="ok")
    assert [e["step"] for e in told] == list(range(20))
    assert {e["event"] for e in told} == {"queen_check_step"}


class Dropper:
    """A TCP proxy that cuts each connection after so many bytes of answers."""

    def __init__(self, port: int, most: int) -> None:
        self.port, self.most, self.cut = port, most, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.port)) as server, contextlib.suppress(OSError):
            server.sendall(client.recv(65536))
            left = self.most
            while left > 0 and (data := server.recv(min(left, 4096))):
                client.sendall(data)
                left -= len(data)
            self.cut += left <= 0


def test_a_dropped_stream_is_resumed_and_tells_nothing_twice(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    with daemon(tmp_path / "db", counting) as (url, _):
        proxy = Dropper(int(url.rpartition(":")[2]), 1500)
        api(proxy.url).run(QueenCheck(), told.append)
        proxy.listener.close()
    assert [e["step"] for e in told] == list(range(20))
    assert proxy.cut >= 1


@pytest.mark.parametrize(
    ("error", "code"), [(RbeeError("No.", code="made_up"), "made_up"), (ValueError("x"), "internal")]
)
def test_a_failed_job_raises_its_code(tmp_path: Path, error: Exception, code: str) -> None:
    async def fail(context: JobContext, request: object) -> QueenCheckResponse:
        raise error

    with daemon(tmp_path / "db", fail) as (url, _), pytest.raises(RbeeError) as e:
        api(url).run(QueenCheck())
    assert e.value.code == code


def forever(started: threading.Event, ended: threading.Event) -> Handler:
    async def wait(context: JobContext, request: object) -> QueenCheckResponse:
        context.narrate("queen_check_step", "begun")
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return QueenCheckResponse(message="late")

    return wait


def test_cancel_from_another_thread_reaches_the_job(tmp_path: Path) -> None:
    started, ended, caught = threading.Event(), threading.Event(), list[RbeeError]()
    with daemon(tmp_path / "db", forever(started, ended)) as (url, _):
        queen = api(url)

        def run() -> None:
            try:
                queen.run(QueenCheck())
            except RbeeError as e:
                caught.append(e)

        thread = threading.Thread(target=run)
        thread.start()
        assert started.wait(10)
        queen.cancel()
        thread.join(10)
    assert ended.is_set() and [e.code for e in caught] == ["cancelled"]


def test_an_interrupt_cancels_the_job(tmp_path: Path) -> None:
    started, ended = threading.Event(), threading.Event()

    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with daemon(tmp_path / "db", forever(started, ended)) as (url, _):
        with pytest.raises(KeyboardInterrupt):
            api(url).run(QueenCheck(), interrupt)
        assert ended.wait(10)


def answering(status: bytes, body: bytes) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def one() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

        threading.Thread(target=one, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (b"401 No", b'{"error": {"message": "no token", "code": "invalid_api_key"}}', Unauthorized, "unauthorized"),
        (b"404 No", b'{"error": {"message": "no such thing", "code": "not_found"}}', NotFound, "not_found"),
        (b"500 No", b"<html>", RbeeError, "bad_answer"),
        (b"200 OK", b"<html>", RbeeError, "bad_answer"),
    ],
)
def test_bad_answers(status: bytes, body: bytes, kind: type[RbeeError], code: str) -> None:
    for url in answering(status, body):
        with pytest.raises(kind) as e:
            api(url).info()
        assert e.value.code == code


@pytest.mark.parametrize("ask", [lambda a: a.info(), lambda a: a.reload(), lambda a: a.run(QueenCheck())])
def test_nobody_there_is_unreachable(ask: Callable[[HttpQueenApi], Any]) -> None:
    with pytest.raises(Unreachable):
        ask(api(f"http://127.0.0.1:{free_port()}"))
