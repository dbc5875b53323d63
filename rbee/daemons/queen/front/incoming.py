# SPDX-License-Identifier: GPL-3.0-or-later
"""A request as it comes over the wire: its head, which llhttp walks, strict about it, and how its body is framed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import httptools

from rbee.adapters.splice import heads
from rbee.contracts import defaults
from rbee.daemons.queen.front.bodies import BadRequest, too_large
from rbee.daemons.queen.front.paths import INFERENCE_PATHS

if TYPE_CHECKING:
    import asyncio

    from rbee.adapters.secrets import Token
    from rbee.adapters.splice import Tap, Upstream
    from rbee.daemons.queen.admission.clients import Client
    from rbee.daemons.queen.front.known_head import KnownHead

#: The longest id of a client's that is used.
_LONGEST_ID = 128
#: The longest head of a request.
MAX_HEAD = 32 * 1024


_LINE = re.compile(rb"\r\n([^:]+):[ \t]*([^\r]*)")
_BEGIN = b"POST /v1/"
#: A request's target, as far as it is there, and what ends it.
_TARGET = re.compile(rb"([^ \r\n]*)([ \r\n]?)")
_PATHS = {path.encode(): path for path in INFERENCE_PATHS}
#: Nobody listens to the parser: it is asked whether the head is right.
_SILENT = object()
_keys: dict[str, bytes] = {}


def _first_of_each(found: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Raises BadRequest for a name that must not come twice."""
    lines: dict[bytes, bytes] = {}
    for name, value in found:
        key = name.lower()
        if key in lines and key in (b"host", b"transfer-encoding", b"content-length"):
            raise BadRequest(400, f"There are two headers {key.decode()}.")
        lines.setdefault(key, value)
    if b"connection" in lines:
        lines[b"connection"] = b",".join(value for name, value in found if name.lower() == b"connection")
    return lines


class Asks:
    """What a head says to the queen herself. `request_id` None: none that can be used."""

    __slots__ = ("deadline", "request_id", "timeout")

    def __init__(self, headers: Mapping[str, str]) -> None:
        given = headers.get("X-Request-Id")
        usable = given and given.isprintable() and len(given) <= _LONGEST_ID
        self.request_id = given if usable else None
        self.deadline = headers.get("X-Deadline")
        self.timeout = headers.get("X-Request-Timeout")

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Asks:
        if not isinstance(headers, Headers):
            return cls(headers)
        asks = headers.asks
        if asks is None:
            asks = headers.asks = cls(headers)
        return asks


class Headers(Mapping[str, str]):
    """A head's lines by name, whatever its case; of a name that comes twice the first value. Decoded when asked for."""

    __slots__ = ("_lines", "asks", "own")

    def __init__(self, lines: dict[bytes, bytes]) -> None:
        #: Names in lower case.
        self._lines = lines
        #: Read once, also when the same head comes again: what it says to the queen; for routing, what of it is told.
        self.asks: Asks | None = None
        self.own: tuple[tuple[str, str], ...] | None = None

    # Mapping's takes any type for the default, and is two calls more.
    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        value = self._lines.get(_keys.get(name) or _key(name))
        return default if value is None else _text(value)

    def __getitem__(self, name: str) -> str:
        return _text(self._lines[_key(name)])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _key(name) in self._lines

    def of_connection(self) -> tuple[bytes, ...]:
        """What `Connection` says, in lower case: how the connection goes on, and names of headers that are about it."""
        said = self._lines.get(b"connection")
        if said is None or said == b"keep-alive":
            return ()
        return tuple(token.strip(b" \t").lower() for token in said.split(b","))

    def beginning(self, with_: bytes) -> list[tuple[str, str]]:
        """Those whose names, in lower case, begin so."""
        return [(_text(name), _text(value)) for name, value in self._lines.items() if name.startswith(with_)]

    def __iter__(self) -> Iterator[str]:
        return (_text(name) for name in self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def _key(name: str) -> bytes:
    key = _keys.get(name)
    if key is None:
        key = name.lower().encode("latin-1", "replace")
        if len(_keys) < 256:
            _keys[name] = key
    return key


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape").strip(" \t")


class Incoming:
    """A request that the raw front took in: a `ClientRequest`, and what the queen asks of it besides."""

    # What most requests have, in the class: one is made for each.
    #: The lines of the head after the first, as they came (of a known head: the first time); each begins with CRLF.
    lines = b""
    headers: Headers
    keep_alive = True
    old = False
    #: How the body is framed; `expects`: the client waits until it is asked for it. `begins`: the head's length.
    begins = 0
    length = 0
    chunked = False
    expects = False
    body = b""
    client: Client | None = None
    arrived: float | None = None
    #: Of heads that may come again.
    known: KnownHead | None = None

    def __init__(self, target: str, path: str, tap: Tap, transport: asyncio.Transport, token: Token | None) -> None:
        self.target = target
        self.path = path
        self.tap = tap
        self.transport: asyncio.Transport | None = transport
        #: What the listener wants; None: it is open.
        self.token = token

    def read(self, head: bytes) -> bool:
        """Takes in the whole head. False: it asks for more than plain HTTP (an upgrade, a body that is compressed),
        which is another's to serve. Raises BadRequest."""
        try:
            httptools.HttpRequestParser(_SILENT).feed_data(head)
        except httptools.HttpParserUpgrade:
            return False
        except httptools.HttpParserError as e:
            raise BadRequest(400, f"This is no HTTP request that could be read: {e}.") from None
        first = head.index(b"\r\n")
        version = head[first - 8 : first]
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise BadRequest(505, "This version of HTTP is not spoken here; use HTTP/1.1.")
        self.begins = len(head)
        self.lines = head[first:-4]
        # What llhttp has passed has one header on each line, and no line without a name.
        found = _LINE.findall(self.lines)
        lines = {name.lower(): value for name, value in found}
        if len(lines) < len(found):
            lines = _first_of_each(found)
        self.headers = Headers(lines)
        self.old = version == b"HTTP/1.0"
        if b"host" not in lines and not self.old:
            raise BadRequest(400, "There is no header host.")
        self.keep_alive = not self.old and b"close" not in self.headers.of_connection()
        return self._read_framing(lines)

    def sent_by(self, client: Client, generation: int) -> None:
        """Whose it is, as `Clients` of this generation have found just now: a reload may come before its body."""
        self.client = client
        if self.known is not None:
            self.known.sent_by(client, generation)

    def head_to(self, upstream: Upstream, own: Sequence[heads.Line]) -> bytes:
        """The head of this request as a worker gets it, with lines of our own."""
        for name in self.headers.of_connection():
            if name not in (b"", b"close", b"keep-alive", b"host", b"content-length"):
                own = [*own, (b"", b"\r\n%b:" % name)]
        known, marks = self.known, tuple([mark for _, mark in own])
        if known is None:
            passed = heads.passed_lines(self.lines, marks)
        elif known.passed is not None and known.passed[0] == marks:
            passed = known.passed[1]
        else:
            passed = heads.passed_lines(self.lines, marks)
            known.passed = marks, passed
        return heads.passed_on(
            self.target, upstream.host, upstream.port, lines=passed, own=own, body_length=len(self.body)
        )

    def _read_framing(self, lines: dict[bytes, bytes]) -> bool:
        """The length is not left among the headers: they are shared with requests of other lengths."""
        length = lines.pop(b"content-length", None)
        if length is not None:
            self.length = int(length)
            if self.length > defaults.MAX_BODY:
                raise too_large()
        coding = lines.get(b"transfer-encoding")
        if coding is not None:
            if self.old or length is not None or coding.strip().lower() != b"chunked":
                raise BadRequest(
                    400, "The body's framing cannot be read: Transfer-Encoding must be chunked, and alone."
                )
            self.chunked = True
        expected = lines.get(b"expect")
        if expected is not None:
            if expected.strip().lower() != b"100-continue":
                raise BadRequest(417, "This expectation cannot be met.", "expectation_failed")
            self.expects = not self.old
        return b"content-encoding" not in lines


def target_in(data: bytes) -> tuple[str, str | None] | None:
    """Target and path of the request for an answer that `data` begins with, as far as it is there; no path: it may
    become one. None: it is another kind of request, or no HTTP at all."""
    if not data.startswith(_BEGIN):
        return ("", None) if _BEGIN.startswith(data) else None
    found = _TARGET.match(data, 5)
    assert found is not None
    target = found[1]
    path = _PATHS.get(target.partition(b"?")[0])
    if path is None and (found[2] or not any(p.startswith(target) for p in _PATHS)):
        return None
    return target.decode("latin-1"), path


def check_unfinished(data: bytes) -> None:
    """Raises BadRequest for a head that is too long, or of which what came already is wrong."""
    if len(data) > MAX_HEAD:
        raise BadRequest(431, f"The request's head is longer than {MAX_HEAD} bytes.", "head_too_large")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise BadRequest(400, "A line of the request's head ends without a carriage return.")
