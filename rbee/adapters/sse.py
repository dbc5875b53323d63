# SPDX-License-Identifier: GPL-3.0-or-later
"""Server-sent events as the standard says them: bytes in, whatever their chunks; events out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """`id` is the last one that the stream said, as a reader sends it back in `Last-Event-ID`."""

    data: str
    id: str = ""
    event: str = "message"


class Parser:
    """Keeps the unfinished part of a stream between calls of `feed`."""

    def __init__(self) -> None:
        #: The line that has not ended yet, in the pieces that it came in: one may be many megabytes long.
        self._rest: list[bytes] = []
        self._after_cr = False
        self._data: list[str] = []
        self._event = ""
        self._first = True
        self._id = ""
        #: Survives a reconnect: give the next parser the same one.
        self.last_id = ""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete now."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
            if not chunk:
                return []
        self._after_cr = chunk.endswith(b"\r")
        *lines, rest = _LINE_END.split(chunk) if b"\r" in chunk else chunk.split(b"\n")
        self._rest.append(rest)
        if lines:
            lines[0] = b"".join((*self._rest[:-1], lines[0]))
            self._rest = [rest]
        return [event for event in map(self._line, lines) if event is not None]

    def _line(self, line: bytes) -> Event | None:
        text = line.decode("utf-8", "replace")
        if self._first:
            self._first = False
            text = text.removeprefix("\ufeff")
        if not text:
            return self._dispatch()
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Event | None:
        # Only now: an event that is cut off after its id was not told, and must come again.
        self.last_id = self._id or self.last_id
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return Event("\n".join(data), self.last_id, event or "message") if data else None
