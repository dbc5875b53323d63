# SPDX-License-Identifier: GPL-3.0-or-later
"""The relays: an upstream's bytes written to the client's transport as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import httptools

from rbee.contracts.openai import OVERLOADED, SERVER_ERROR, TIMEOUT_ERROR, sse_error_frame

from . import heads
from .client import End, Outcome
from .errors import Stopped, UpstreamError
from .exchange import Exchange
from .heads import Header, Line
from .watch import NEVER

#: Called once with the status and the upstream's head, before anything is written; may add headers.
OnHead = Callable[[int, bytes], "Iterable[Header] | None"]

#: Called once when a relay is over; with an error when nothing of an answer was written.
Over = Callable[["Relay", "Exception | None"], None]

#: How far into a chunk that was cut short we fill up, to end the stream in order.
_MAX_FILL = 64 * 1024


class Relay(Exchange):
    """Answers go to the client as the upstream framed them: one parse and one write for each segment."""

    #: Whether the body is written bare (see `DecodingRelay`).
    decoded = False
    end: End = "completed"
    #: What the upstream did, when it died.
    reason = ""
    #: When the head of the answer was there, on `clock`.
    first_byte: float | None = None
    #: Has it looked at again, when it is due sooner than it was.
    rewatch: Callable[[Relay], None] | None = None
    _last = b""
    #: Whether an answer that was cut has all the same been ended as HTTP wants it, beyond doubt.
    _in_order = False
    #: When the whole answer must be there.
    _deadline = NEVER
    _seen = 0

    def __init__(
        self,
        method: str,
        over: Over,
        transport: asyncio.Transport,
        extra: Sequence[Line],
        closing: bool,
        on_head: OnHead | None,
        clock: Callable[[], float],
        stall_timeout: float | None,
    ) -> None:
        super().__init__(method)
        self._over: Over | None = over
        self._transport = transport
        self._write = transport.write
        self._extra = extra
        #: Whether the client's connection ends with this answer.
        self.closing = closing
        self._on_head = on_head
        self._stall = stall_timeout
        self._clock = clock
        #: Of the client's clock: when it was sent.
        self.started = clock()

    def outcome(self) -> Outcome:
        """How it went, once it is over."""
        return Outcome(
            status=self.status or 499,
            end=self.end,
            bytes=self.received,
            seconds=self._clock() - self.started,
            first_byte_seconds=None if self.first_byte is None else self.first_byte - self.started,
            reason=self.reason,
        )

    def answered(self, rest: bytes) -> None:
        self.first_byte = now = self._clock()
        self.due = self._deadline if self._stall is None else min(now + self._stall, self._deadline)
        if self._stall is not None and self.rewatch is not None:
            self.rewatch(self)
        self.closing = self.closing or self._until_close
        extra = self._extra
        if self._on_head is not None:
            try:
                more = self._on_head(self.status, self.head) or ()
                extra = [*extra, *(heads.header_line(name, value) for name, value in more)]
            except Exception as error:
                self.close()
                self.refuse(error)
                return
        head = heads.answer_head(self.head, extra, close=self.closing, decoded=self.decoded)
        self._last = rest
        self._write(head + rest if rest else head)

    def body(self, data: bytes) -> None:
        self._last = data
        self._write(data)

    def ended(self, error: UpstreamError | None) -> None:
        if error is not None:
            # The head has promised to keep it; a stream that was ended in order needs not break that.
            self.closing = self.closing or not self._in_order
            self.reason = str(error)
            if self.end == "completed":
                self.end = "upstream_died"
        self._settle(None)

    def unanswered(self, error: Exception) -> None:
        self._settle(error)

    def _settle(self, error: Exception | None) -> None:
        over, self._over = self._over, None
        if over is not None:
            over(self, error)

    def fail(self, reason: str, kind: type[UpstreamError] | None = None) -> None:
        if self.status and not self._finished:
            self._say_cut_short()
        super().fail(reason, kind)

    def client_gone(self) -> None:
        """The client left: the upstream's connection closes at once."""
        if self._finished:
            return
        self.end = "client_gone"
        self._finish()
        self.close()
        self.closing = True
        self.ended(None)

    def cancel(self) -> None:
        """We give up: both connections close at once, the client's only when it has seen a part of the answer."""
        if not self._finished:
            self.client_gone()
            if self.status:
                self._transport.abort()

    def stop(self) -> None:
        """We must end now: like an upstream that dies."""
        if self.status and not self._finished:
            self.end = "stopped"
            self.fail("stopped")
        else:
            self.fail("stopped", Stopped)

    def expect(self, first_byte: float | None, whole: float | None) -> None:
        """Sets the seconds from the start at which the head and the whole answer must be there."""
        if whole is not None:
            self._deadline = self.started + whole
        self.due = self._deadline if first_byte is None else min(self.started + first_byte, self._deadline)

    def overdue(self, now: float) -> None:
        if not self.status or self._finished:
            super().overdue(now)
        elif now >= self._deadline:
            self.end = "timed_out"
            self.fail("the answer was not whole in time")
        elif self._stall is not None:
            waits_for_client = self.connection is not None and self.connection.paused
            if self.received == self._seen and not waits_for_client:
                self.fail(f"it sent nothing for {self._stall} s")
            self._seen = self.received
            self.due = min(now + self._stall, self._deadline)

    def pause(self) -> None:
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()

    def _say_cut_short(self) -> None:
        """Ends a stream of events with an error frame; any other body is left visibly incomplete."""
        if self._transport.is_closing() or not heads.is_plain_sse(self.head):
            return
        chunked = heads.is_chunked(self.head)
        if not chunked and not self._until_close:
            return  # its length was told: nothing can be added
        chunked = chunked and not self.decoded
        ending = self._chunk_ending() if chunked else b""
        if ending is None:
            return
        if self.end == "timed_out":
            frame = sse_error_frame("The request's time was over.", TIMEOUT_ERROR, "deadline_exceeded")
        elif self.end == "stopped":
            frame = sse_error_frame("The server stopped before the answer was whole.", OVERLOADED, "stopping")
        else:
            frame = sse_error_frame("The worker stopped before the answer was whole.", SERVER_ERROR, "worker_died")
        self._in_order = chunked and (bool(ending) or not perhaps_last_chunk(self._last))
        if not self._last.endswith((b"\n\n\r\n", b"\n\r\n\r\n") if chunked else (b"\n\n", b"\n\r\n")):
            frame = b"\n\n" + frame  # ends the event, or the line, that was cut
        self._write(ending + b"%x\r\n%b\r\n0\r\n\r\n" % (len(frame), frame) if chunked else frame)

    def _chunk_ending(self) -> bytes | None:
        """What completes the chunk that was cut short: empty at a chunk's end; None where nothing can.

        The parser knows how much is missing and doesn't tell, so it is asked: it takes line feeds as data
        until the chunk is full, and between chunks it refuses them. There, the last bytes tell a chunk's
        end from a size line cut short or the last chunk begun.
        """
        missing = 0
        try:
            while missing <= _MAX_FILL:
                self._feed(b"\n")
                missing += 1
        except httptools.HttpParserError:
            pass
        if missing > _MAX_FILL or (missing == 1 and self._last.endswith(b"\r")):
            return None  # too long, or perhaps only the line feed after a whole chunk
        if missing:
            return b"\n" * missing + b"\r\n"
        last = self._last or b"\r\n"  # nothing after the head yet
        return b"" if last.endswith(b"\r\n") and last != b"0\r\n" and not last.endswith(b"\n0\r\n") else None


def perhaps_last_chunk(last: bytes) -> bool:
    """Whether these bytes, which end with a line, may be the end of a last chunk's size: told by themselves alone."""
    line = last[:-2].rpartition(b"\n")[2].partition(b";")[0].strip()
    return last == b"\r\n" or (line != b"" and not line.strip(b"0"))


class DecodingRelay(Relay):
    """For clients of HTTP/1.0, which know no chunks: the body is written bare and ends with the connection."""

    decoded = True
    _bare: tuple[bytes, ...] = ()

    def on_body(self, data: bytes) -> None:
        self._bare += (data,)

    def answered(self, rest: bytes) -> None:
        super().answered(self._take())

    def body(self, data: bytes) -> None:
        super().body(self._take())

    def _take(self) -> bytes:
        bare, self._bare = b"".join(self._bare), ()
        return bare
