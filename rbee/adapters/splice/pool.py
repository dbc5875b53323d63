# SPDX-License-Identifier: GPL-3.0-or-later
"""Idle connections, by upstream; and a request sent on one, or on a new one when the old one had died."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from functools import partial

from .connection import Upstream, UpstreamConnection
from .errors import ConnectRefused, ConnectTimeout, UpstreamError
from .exchange import Exchange


class Pool:
    """Keep-alive connections, newest used first. One event loop; no lock, for nothing here awaits midway."""

    def __init__(self, clock: Callable[[], float], max_idle: int, idle_seconds: float) -> None:
        self._clock = clock
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._idle: dict[Upstream, deque[UpstreamConnection]] = {}
        self._connecting: set[asyncio.Task[None]] = set()

    def idle(self, upstream: Upstream) -> int:
        """How many connections to `upstream` are open and unused."""
        return len(self._idle.get(upstream, ()))

    def take(self, upstream: Upstream) -> UpstreamConnection | None:
        """An idle connection that looks alive, or None; those unused for too long are closed on the way."""
        waiting = self._idle.get(upstream)
        if not waiting:
            return None
        oldest = self._clock() - self._idle_seconds
        while waiting and waiting[0].idle_since < oldest:
            waiting.popleft().abort()
        while waiting:
            connection = waiting.pop()
            if not connection.closed and not connection.transport.is_closing():
                return connection
        return None

    def release(self, connection: UpstreamConnection) -> None:
        """Takes back a connection whose answer came whole."""
        if not connection.upstream.reuse or connection.closed or connection.transport.is_closing():
            connection.abort()
            return
        connection.resume()
        connection.used = True
        connection.idle_since = self._clock()
        waiting = self._idle.get(connection.upstream)
        if waiting is None:
            waiting = self._idle[connection.upstream] = deque()
        waiting.append(connection)
        if len(waiting) > self._max_idle:
            waiting.popleft().abort()

    def forget(self, connection: UpstreamConnection) -> None:
        """An idle connection was closed by the other side."""
        waiting = self._idle.get(connection.upstream)
        if waiting is not None:
            try:
                waiting.remove(connection)
            except ValueError:
                return
            if not waiting:
                del self._idle[connection.upstream]

    def drop(self, upstream: Upstream) -> None:
        """Closes what is idle to `upstream` (a worker that left). Busy connections are not touched."""
        for connection in self._idle.pop(upstream, ()):
            connection.abort()

    def close(self) -> None:
        """Closes everything idle, and connects no further."""
        for task in self._connecting:
            task.cancel()
        for upstream in list(self._idle):
            self.drop(upstream)

    async def connect(self, upstream: Upstream, timeout: float | None) -> UpstreamConnection:
        """A new connection. Raises ConnectRefused or ConnectTimeout."""
        loop = asyncio.get_running_loop()
        making = loop.create_connection(lambda: UpstreamConnection(self, upstream), upstream.host, upstream.port)
        try:
            _, connection = await asyncio.wait_for(making, timeout)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise ConnectTimeout(f"{upstream.host}:{upstream.port}: no connection in {timeout} s") from error
        except OSError as error:
            raise ConnectRefused(f"{upstream.host}:{upstream.port}: {error}", error.errno) from error
        except ValueError as error:  # what can be no name of a machine
            raise ConnectRefused(f"{upstream.host}:{upstream.port}: {error}") from error
        if connection.closed or connection.transport.is_closing():
            # Lost before anybody was there to hear of it: a process that is being killed takes connections so.
            raise ConnectRefused(f"{upstream.host}:{upstream.port}: reset as soon as it was made", errno.ECONNRESET)
        return connection

    def send(
        self, upstream: Upstream, exchange: Exchange, head: bytes, body: bytes, connect_timeout: float | None
    ) -> None:
        """Sends a request; the exchange hears what becomes of it, never before this returns.

        A kept connection may have been closed while the request was on its way: when it ends before the
        first byte, the request goes out once more on a fresh connection and nobody hears of it.
        What the exchange is refused with: ConnectRefused, ConnectTimeout, FirstByteTimeout, DiedBeforeFirstByte.
        """
        connection = self.take(upstream)
        if connection is None:
            self._send_fresh(upstream, exchange, head, body, connect_timeout)
        else:
            exchange.again = partial(self._send_fresh, upstream, exchange, head, body, connect_timeout)
            exchange.send(connection, head, body)

    def _send_fresh(
        self, upstream: Upstream, exchange: Exchange, head: bytes, body: bytes, connect_timeout: float | None
    ) -> None:
        sending = self._connect_and_send(upstream, exchange, head, body, connect_timeout)
        task = asyncio.get_running_loop().create_task(sending)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_and_send(
        self, upstream: Upstream, exchange: Exchange, head: bytes, body: bytes, timeout: float | None
    ) -> None:
        try:
            connection = await self.connect(upstream, timeout)
        except UpstreamError as error:
            exchange.refuse(error)
        except asyncio.CancelledError:
            exchange.refuse(ConnectRefused(f"{upstream.host}:{upstream.port}: given up"))
            raise
        else:
            if exchange.finished:  # the client left, or the time was over, while we connected
                self.release(connection)
            else:
                exchange.send(connection, head, body)
