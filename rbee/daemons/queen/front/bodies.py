# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies of requests that come in pieces, put together."""

from __future__ import annotations

import re
from typing import Protocol

from rbee.contracts import defaults
from rbee.core.errors import RbeeError

#: The longest line that says a chunk's size; trailers in all.
_MAX_SIZE_LINE = 256
_MAX_TRAILERS = 8 * 1024
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]*"'
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})(?:;%b(?:=(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED))
#: A field after the last chunk. What is none, or speaks of framing, may be another's idea of the next request.
_TRAILER = re.compile(rb"(?!(?i:content-length|transfer-encoding|host):)" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*")


class BadRequest(RbeeError):
    """It is no HTTP, or more of it than we take: `status` says which. The connection ends with the answer."""

    def __init__(self, status: int, message: str, code: str = "bad_http") -> None:
        super().__init__(message, code=code)
        self.status = status


def too_large() -> BadRequest:
    return BadRequest(413, f"The body is too large: at most {defaults.MAX_BODY} bytes.", "too_large")


class Body(Protocol):
    """A body that is on its way."""

    #: What is there of it.
    data: bytearray

    def feed(self, data: bytes) -> bytes | None:
        """Takes the next bytes; what follows the body once that is whole, None before. Raises BadRequest."""


class SizedBody:
    """A body of a length that was told."""

    __slots__ = ("_missing", "data")

    def __init__(self, length: int) -> None:
        self.data = bytearray()
        self._missing = length

    def feed(self, data: bytes) -> bytes | None:
        missing = self._missing
        if len(data) < missing:
            self.data += data
            self._missing = missing - len(data)
            return None
        self.data += memoryview(data)[:missing]
        return data[missing:]


class ChunkedBody:
    """A body that comes in chunks, put together; trailers are dropped. Strict, and bounded everywhere."""

    __slots__ = ("_left", "_over", "_rest", "_trailers", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._rest = b""
        #: Bytes of this chunk still to come; None: its size line is next.
        self._left: int | None = None
        self._over = False
        self._trailers = 0

    def feed(self, data: bytes) -> bytes | None:
        """Takes the next bytes; what follows the body once that is whole, None before. Raises BadRequest."""
        buffer = self._rest + data if self._rest else data
        at = 0
        while True:
            if self._left:
                taken = min(self._left, len(buffer) - at)
                self.data += memoryview(buffer)[at : at + taken]
                self._left -= taken
                at += taken
                if self._left:
                    self._rest = b""
                    return None
            end = buffer.find(b"\r\n", at, at + _MAX_SIZE_LINE if not self._over else len(buffer))
            if end < 0:
                self._rest = buffer[at:]
                if len(self._rest) > (_MAX_TRAILERS if self._over else _MAX_SIZE_LINE):
                    raise BadRequest(400, "A line between the chunks of the body is too long.")
                return None
            line, at = buffer[at:end], end + 2
            if self._next(line):
                return buffer[at:]

    def _next(self, line: bytes) -> bool:
        """A line between data: the end of a chunk, the size of one, a trailer. True: the body is whole."""
        if self._over:
            self._trailers += len(line)
            if self._trailers > _MAX_TRAILERS or (line and not _TRAILER.fullmatch(line)):
                raise BadRequest(400, "The body's trailers cannot be read.")
            return not line
        if self._left == 0:
            if line:
                raise BadRequest(400, "A chunk of the body is longer than it said.")
            self._left = None
            return False
        size = _SIZE_LINE.fullmatch(line)
        if size is None:
            raise BadRequest(400, "The size of a chunk of the body cannot be read.")
        self._left = int(size[1], 16)
        if len(self.data) + self._left > defaults.MAX_BODY:
            raise too_large()
        if not self._left:
            self._over, self._left = True, None
        return False
