# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon's skeleton: routes as a table, listeners with an access rule each, a graceful stop, the event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from rbee.contracts import defaults
from rbee.core.errors import NotFound, RbeeError
from rbee.daemons.access import Access, Listener
from rbee.daemons.middleware import WebHandler, error_body, guard

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """A row of a daemon's table: `access` stands beside the path it is for."""

    method: str
    path: str
    handler: WebHandler
    access: Access = "token"


def build(routes: Iterable[Route], *, max_body: int = defaults.MAX_BODY) -> web.Application:
    """An application of these routes; whatever is not in the table is a 404 or 405 with rbee's error body."""
    app = web.Application(client_max_size=max_body)
    methods: dict[str, list[str]] = {}
    for route in routes:
        handler = guard(route.handler, route.access)
        if route.method == "GET":
            app.router.add_get(route.path, handler, allow_head=True)
        else:
            app.router.add_route(route.method, route.path, handler)
        methods.setdefault(route.path, []).append(route.method)
    for path, known in methods.items():
        app.router.add_route("*", path, guard(_only(known), "token"))
    app.router.add_route("*", "/{tail:(?s:.*)}", guard(_no_such_path, "token"))
    return app


def _only(methods: Sequence[str]) -> WebHandler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        body = error_body(f"{request.path} knows no {request.method}.", 405, "method_not_allowed")
        allow = {"Allow": ", ".join(methods)}
        return web.Response(body=body, status=405, content_type="application/json", headers=allow)

    return refuse


async def _no_such_path(request: web.Request) -> web.StreamResponse:
    raise NotFound(f"There is nothing at {request.path}.")


class _Connection(web.RequestHandler):
    """aiohttp's connection, which also knows the listener that it came in by, and whether a handler is at work."""

    __slots__ = ("busy", "listener")

    busy: bool
    listener: Listener

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What never reached a route (it is no HTTP, a header is too long) gets an error body like all else."""
        super().handle_error(request, status, exc, message)
        said = "This is no HTTP request that could be read." if status == 400 else "Something went wrong inside."
        body = error_body(said, status, "bad_http" if status == 400 else "internal")
        answer = web.Response(body=body, status=status, content_type="application/json")
        answer.force_close()
        return answer


class Front(Protocol):
    """What takes connections in before the application does, and hands on to it what it does not serve itself."""

    @property
    def busy(self) -> bool:
        """Whether a request is under way on a connection of its own."""

    def connection(self, listener: Listener, hand_on: Callable[[], web.RequestHandler]) -> asyncio.Protocol:
        """For a new connection; `hand_on` makes the application's."""

    def stop_taking(self) -> None:
        """Connections without a request close, each other one after the request that it is in."""

    def cut(self) -> None:
        """What is still under way ends now."""


class Server:
    """Serves one application on several listeners, behind a front where one is given. Not restartable."""

    def __init__(self, app: web.Application, listeners: Sequence[Listener], front: Front | None = None) -> None:
        self.app = app
        self.listeners = tuple(listeners)
        self._front = front
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        self._servers: list[asyncio.Server] = []
        self._ports: list[int] = []

    @property
    def ports(self) -> list[int]:
        """The port of each listener, in their order; known once started."""
        return list(self._ports)

    @property
    def urls(self) -> list[str]:
        """The base URL of each listener, in their order."""
        return [
            f"http://{f'[{x.host}]' if ':' in x.host else x.host}:{port}"
            for x, port in zip(self.listeners, self._ports, strict=True)
        ]

    async def start(self) -> None:
        """Listens on every address, or on none: raises RbeeError (code `address_in_use`, `cannot_listen`)."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        for listener in self.listeners:
            try:
                server = await loop.create_server(
                    self._connections(loop, listener), listener.host, listener.port, backlog=1024
                )
            except OSError as e:
                await self.stop(drain=0)
                raise _cannot_listen(listener, e) from None
            self._servers.append(server)
            self._ports.append(_port(server.sockets))
            for place in server.sockets:
                _notice_the_dead(place.fileno())

    def _connections(self, loop: asyncio.AbstractEventLoop, listener: Listener) -> Callable[[], asyncio.Protocol]:
        server = self._runner.server
        assert server is not None

        # No access log: aiohttp takes None for that, though its types do not say so.
        settings: dict[str, Any] = {"access_log": None, "keepalive_timeout": 75.0, "max_field_size": 16 * 1024}

        def connection() -> web.RequestHandler:
            made = _Connection(server, loop=loop, **settings)
            made.listener = listener
            made.busy = False
            return made

        front = self._front
        return connection if front is None else lambda: front.connection(listener, connection)

    async def stop(self, drain: float = defaults.DAEMON_DRAIN) -> None:
        """Takes no more connections, lets requests in flight end for at most `drain` seconds, then closes."""
        for server in self._servers:
            server.close()
        inner = self._runner.server
        if inner is not None:
            await asyncio.sleep(0)  # what has just arrived is taken
            inner.pre_shutdown()  # each connection closes after the request it is in
            if self._front is not None:
                self._front.stop_taking()
            clock = asyncio.get_running_loop().time
            deadline = clock() + drain
            # Nobody tells when a connection is done.
            while clock() < deadline and self._busy(inner):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            if self._front is not None:
                self._front.cut()
                await asyncio.sleep(0)
        await self._runner.cleanup()
        self._servers.clear()

    def _busy(self, inner: web.Server) -> bool:
        if self._front is not None and self._front.busy:
            return True
        return any(c.busy for c in inner.connections if isinstance(c, _Connection))


def _port(sockets: Sequence[Any]) -> int:
    return int(sockets[0].getsockname()[1])


def _notice_the_dead(listening: int) -> None:
    """Connections that this socket accepts end when their other side is silently gone (its power, its network): an
    idle one after a minute, one with unsent bytes after `CLIENT_GONE`, not after the quarter of an hour that is
    usual. Accepted sockets inherit it, so it costs a request nothing."""
    known = {
        "TCP_KEEPIDLE": 30,
        "TCP_KEEPINTVL": 10,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": int(defaults.CLIENT_GONE * 1000),  # Linux only
    }
    with socket.socket(fileno=os.dup(listening)) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in known.items():
            if (option := getattr(socket, name, None)) is not None:
                same.setsockopt(socket.IPPROTO_TCP, option, value)


def _cannot_listen(listener: Listener, error: OSError) -> RbeeError:
    where = f"{listener.host}:{listener.port}"
    if error.errno == errno.EADDRINUSE:
        return RbeeError(f"Cannot listen on {where}: the port is taken.", code="address_in_use")
    return RbeeError(f"Cannot listen on {where}: {error.strerror or error}.", code="cannot_listen")


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.bind((host, 0))
        return int(s.getsockname()[1])


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it can be had, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run(main: Callable[[asyncio.Event], Awaitable[None]], hangup: Callable[[], None] = lambda: None) -> None:
    """Runs `main(stop)` to its end. SIGTERM and SIGINT set `stop`; a second one ends the process at once.

    SIGHUP calls `hangup`, on the loop; it never ends a daemon, not even one that has nothing to read again.
    """
    loop = new_loop()
    asyncio.set_event_loop(loop)
    stop = asyncio.Event()

    def asked(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("stopping: %s", signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    loop.add_signal_handler(signal.SIGHUP, hangup)
    try:
        loop.run_until_complete(main(stop))
    finally:
        left = [t for t in asyncio.all_tasks(loop) if not t.done()]
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
