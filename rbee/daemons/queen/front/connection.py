# SPDX-License-Identifier: GPL-3.0-or-later
"""A client's connection: requests for answers are served here, bytes in and bytes out; anything else is aiohttp's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol, cast

from aiohttp import web

from rbee.adapters.splice import Hearing
from rbee.core.errors import RbeeError
from rbee.daemons.access import Listener
from rbee.daemons.queen.front.bodies import Body, ChunkedBody, SizedBody
from rbee.daemons.queen.front.dispatch import Dispatcher
from rbee.daemons.queen.front.incoming import MAX_HEAD, Incoming, check_unfinished, target_in
from rbee.daemons.queen.front.known_head import KnownHead
from rbee.daemons.queen.front.passage import Passage

#: Bytes of later requests that are taken while one is served; then the client has to wait.
_AHEAD = 64 * 1024

#: What is waited for: the next request, the rest of its head, of its body; the end of its answer; after the last
#: answer, that the client has read it and closed; nothing more.
IDLE, HEAD, BODY, SERVED, CLOSING, GONE = range(6)


class House(Protocol):
    """Whose connection it is."""

    dispatcher: Dispatcher
    #: Each connection closes after the request that it is in.
    stopping: bool

    def add(self, connection: FrontConnection) -> None: ...

    def remove(self, connection: FrontConnection) -> None: ...


class FrontConnection(asyncio.Protocol):
    """One client. Its requests are served one after the other; it is the `Tap` of each."""

    __slots__ = (
        "_body",
        "_front",
        "_hand_on",
        "_known",
        "_listener",
        "_passage",
        "_pending",
        "_reading",
        "_request",
        "_turning",
        "due",
        "paused",
        "phase",
        "received",
        "relay",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, front: House, listener: Listener, hand_on: Callable[[], web.RequestHandler]) -> None:
        self._front = front
        self._listener = listener
        self._hand_on = hand_on
        self._passage: Passage | None = None
        #: What came and is not taken yet.
        self._pending = b""
        self._request: Incoming | None = None
        #: The last head.
        self._known: KnownHead | None = None
        self._body: Body | None = None
        self._reading, self._turning, self.paused = True, False, False
        self.relay: Hearing | None = None
        self.phase = HEAD  # a client that connects has something to say
        #: When what is waited for must be there, on the front's clock; None: not thought of yet.
        self.due: float | None = None
        #: Bytes of the body so far, when its time was last thought of.
        self.received = 0

    # Of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        tcp = transport.get_extra_info("socket")
        if tcp is not None:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._front.add(self)

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase == BODY:
            self._take_body(data)
        elif phase < BODY:
            self._pending = self._pending + data if self._pending else data
            self._turn()
        elif phase == SERVED:
            self._pending += data
            if len(self._pending) > _AHEAD and self._reading:
                self._reading = False
                self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.remove(self)
        self.phase = GONE
        self._pending, self._request, self._body = b"", None, None
        relay, self.relay = self.relay, None
        if relay is not None:
            relay.client_gone()

    def pause_writing(self) -> None:
        self.paused = True
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        self.paused, self.due = False, None  # it reads, however slowly
        if self.relay is not None:
            self.relay.resume()
        self._turn()

    # Taking requests in.

    def _turn(self) -> None:
        """Takes what can be taken of `_pending`; a client that does not read its answers has no others begun."""
        if self._turning:
            return
        self._turning = True
        try:
            while self.phase < BODY and self._pending and not self.paused and self._take():
                pass
        except RbeeError as e:
            self.end_with(e)
        finally:
            self._turning = False

    def _take(self) -> bool:
        """One request, as far as it is there. False: more must come, or the rest is another's."""
        data = self._pending
        if self.phase == IDLE:
            self.phase, self.due = HEAD, None
        known, generation = self._known, self._front.dispatcher.clients.generation
        if known is not None and (again := known.again(data, self, self.transport, self._listener.token, generation)):
            self._take_request(again)
            return True
        if data[:1] in (b"\r", b"\n"):  # clients of old sent a line end after a body
            self._pending = data.lstrip(b"\r\n")
            return True
        named = target_in(data)
        if named is None:
            self._give_away()
            return False
        target, path = named
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD or path is None:
            check_unfinished(data)
            return False
        request = Incoming(target, path, self, self.transport, self._listener.token)
        if not request.read(data[: end + 4]):
            self._give_away()
            return False
        request.known = self._known = KnownHead.of(request, data[: end + 4])
        self._take_request(request)
        return True

    def _take_request(self, request: Incoming) -> None:
        """One whose head has been read."""
        data, begins = self._pending, request.begins
        request.keep_alive = request.keep_alive and not self._front.stopping
        whole = begins + request.length
        if request.chunked or len(data) < whole:
            self._request, self._pending = request, b""
            self._begin_body(request, data[begins:])
        else:
            request.body = data[begins:whole]
            self._pending = data[whole:]
            self._serve(request)

    def _begin_body(self, request: Incoming, data: bytes) -> None:
        """The rest of the body is still to come: not from anybody, and not without having been asked for."""
        dispatcher = self._front.dispatcher
        if request.client is None:
            request.sent_by(dispatcher.identify(request.headers, request.token), dispatcher.clients.generation)
        request.arrived = dispatcher.clock()
        self.phase, self.due, self.received = BODY, None, 0
        self._body = ChunkedBody() if request.chunked else SizedBody(request.length)
        if request.expects and not data:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if data:
            self._take_body(data)

    def _take_body(self, data: bytes) -> None:
        request, body = self._request, self._body
        assert request is not None
        assert body is not None
        try:
            rest = body.feed(data)
        except RbeeError as e:
            self.end_with(e)
            return
        if rest is None:
            return
        request.body = bytes(body.data)
        self._request, self._body, self._pending = None, None, rest
        self._serve(request)
        self._turn()

    @property
    def arrived(self) -> int:
        """Bytes of the body that are there."""
        return len(self._body.data) if self._body is not None else 0

    @property
    def begun(self) -> bool:
        """Whether there is something of a request."""
        return bool(self._pending) or self._request is not None

    def _give_away(self) -> None:
        """From here on the connection is aiohttp's."""
        self._front.remove(self)
        self.phase = GONE
        data, self._pending = self._pending, b""
        handler = self._hand_on()
        self.transport.set_protocol(handler)
        handler.connection_made(self.transport)
        if self.paused:
            handler.pause_writing()
        handler.data_received(data)

    # Serving them.

    def _serve(self, request: Incoming) -> None:
        self.phase = SERVED
        self._passage = passage = Passage(self._front.dispatcher, request, self._served)
        unknown = request.client is None
        passage.start()
        if unknown and passage.asked is not None:
            request.sent_by(passage.asked.client, self._front.dispatcher.clients.generation)

    def _served(self, passage: Passage) -> None:
        self._passage = None
        if self.phase == GONE or self.transport.is_closing():
            return
        refusal, relay = passage.refusal, passage.relay
        if refusal is not None:
            keep = passage.request.keep_alive and not refusal.closes and not self._front.stopping
            self.transport.write(refusal.raw(not keep))
        else:
            keep = relay is not None and not relay.closing and not (self._front.stopping and not self._pending)
        if not keep:
            self._close()
            return
        self.phase, self.due = IDLE, None
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        if self._pending:
            self._turn()

    def end_with(self, error: RbeeError) -> None:
        """Answers what is no whole request, and closes."""
        self._request, self._body, self._pending = None, None, b""
        refusal = self._front.dispatcher.turned_away(error, "", 0.0)
        self.transport.write(refusal.raw(True))
        self._close()

    def _close(self) -> None:
        """Says that nothing more comes, and reads what still does: closed at once, the client might never see the
        answer for the reset that its next bytes get."""
        self.phase, self.due, self._pending = CLOSING, None, b""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()

    # The end.

    @property
    def serving(self) -> bool:
        """Whether a request is under way, or has begun to come."""
        return self._passage is not None or self.phase == BODY

    def stop_taking(self) -> None:
        """Closes unless a request is under way, or has begun to come: that gets its answer."""
        if self.phase == IDLE or (self.phase == HEAD and not self._pending):
            self._close()

    def cut(self) -> None:
        """Ends at once what is under way, with a word where that can be said."""
        if self._passage is not None:
            self._passage.stop()
        if self.phase != GONE:
            self.transport.close()
