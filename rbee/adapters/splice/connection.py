# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to upstreams: TCP, who owns one, and who hears what comes on it."""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple, Protocol, cast

#: A machine that lost its power or its network says no goodbye: it is given up after about half a minute in which
#: its kernel answers nothing. A live one may be silent for as long as it likes.
_DEAD_PEER = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", 15),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 30_000),  # for what was sent and is not acknowledged; Linux
        )
        if hasattr(socket, name)
    ),
]


class Upstream(NamedTuple):
    """Where to connect. `reuse` False: a fresh connection for every request (an engine that closes after each)."""

    host: str
    port: int
    reuse: bool = True


class Taker(Protocol):
    """Who hears what comes on a connection that was taken: an `Exchange`."""

    def data(self, data: bytes) -> None: ...

    def lost(self, exc: Exception | None) -> None: ...


class Keeper(Protocol):
    """Who keeps connections that nobody uses, and makes new ones: the pool."""

    def release(self, connection: UpstreamConnection) -> None: ...

    def forget(self, connection: UpstreamConnection) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One TCP connection to an upstream. Owned by the pool while idle, by one `Exchange` while busy."""

    __slots__ = ("closed", "exchange", "idle_since", "paused", "pool", "transport", "upstream", "used")

    transport: asyncio.Transport

    def __init__(self, pool: Keeper, upstream: Upstream) -> None:
        self.pool = pool
        self.upstream = upstream
        self.exchange: Taker | None = None
        self.closed = False
        self.paused = False
        self.used = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # asyncio's signature is for pipes too
        tcp = transport.get_extra_info("socket")
        for level, name, value in _DEAD_PEER if tcp is not None else ():
            tcp.setsockopt(level, name, value)

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.data(data)
        else:
            self.abort()  # nothing was asked

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.lost(exc)
        else:
            self.pool.forget(self)

    def pause(self) -> None:
        """Stops reading: the upstream is to wait."""
        if not self.paused and not self.closed and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self.paused and not self.closed and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        """Closes at once; what was not sent yet is dropped. The exchange hears nothing of it."""
        self.exchange = None
        if not self.closed:
            self.transport.abort()
