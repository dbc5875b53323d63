# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's front: all its connections, their time limits, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from rbee.daemons.access import Listener
from rbee.daemons.queen.front.bodies import BadRequest
from rbee.daemons.queen.front.connection import BODY, CLOSING, HEAD, SERVED, FrontConnection
from rbee.daemons.queen.front.dispatch import Dispatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a client may take, in seconds; each is noticed up to `look` late."""

    #: Between its requests.
    idle: float = 75.0
    #: For the head of one, once it is connected or has begun it.
    head: float = 30.0
    #: For the body; and again as long as each time this many bytes of it came.
    body: float = 60.0
    body_bytes: int = 64 * 1024
    #: To close, after its last answer.
    closing: float = 5.0
    #: To read anything of an answer that is ready for it.
    reading: float = 600.0
    look: float = 1.0


class Front:
    """Takes in the connections of all listeners. One clock for all their limits: a timer for each costs more."""

    def __init__(self, dispatcher: Dispatcher, clock: Callable[[], float], patience: Patience | None = None) -> None:
        self.dispatcher = dispatcher
        self.stopping = False
        self._clock = clock
        self._patience = patience or Patience()
        self._connections: set[FrontConnection] = set()
        self._ticking = False

    def connection(self, listener: Listener, hand_on: Callable[[], web.RequestHandler]) -> FrontConnection:
        """For a new connection; `hand_on` makes aiohttp's."""
        return FrontConnection(self, listener, hand_on)

    def add(self, connection: FrontConnection) -> None:
        """It is open."""
        self._connections.add(connection)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self._patience.look, self._tick)

    def remove(self, connection: FrontConnection) -> None:
        """It is lost, or another's."""
        self._connections.discard(connection)

    # The limits.

    def _tick(self) -> None:
        now = self._clock()
        for connection in list(self._connections):
            if connection.phase == SERVED and not connection.paused:
                connection.due = None
            elif connection.due is None:
                connection.due = now + self._time_for(connection.phase)
                connection.received = connection.arrived
            elif now >= connection.due:
                self._overdue(connection, now)
        if self._connections:
            asyncio.get_running_loop().call_later(self._patience.look, self._tick)
        else:
            self._ticking = False

    def _time_for(self, phase: int) -> float:
        given = self._patience
        return (given.idle, given.head, given.body, given.reading, given.closing, 0.0)[phase]

    def _overdue(self, connection: FrontConnection, now: float) -> None:
        phase = connection.phase
        if phase == BODY and connection.arrived - connection.received >= self._patience.body_bytes:
            connection.due, connection.received = now + self._patience.body, connection.arrived
        elif phase in (HEAD, BODY) and connection.begun:
            connection.end_with(BadRequest(408, "The request did not come in time.", "request_timeout"))
        elif phase in (SERVED, CLOSING):
            connection.transport.abort()
        else:
            connection.transport.close()

    # The end.

    @property
    def busy(self) -> bool:
        """Whether a request is under way, or has begun to come."""
        return any(connection.serving for connection in self._connections)

    def stop_taking(self) -> None:
        """Connections without a request close, each other one after the request that it is in."""
        self.stopping = True
        for connection in list(self._connections):
            connection.stop_taking()

    def cut(self) -> None:
        """What is still under way ends now: streams with an error frame, what has no answer yet with 503."""
        for connection in list(self._connections):
            connection.cut()
