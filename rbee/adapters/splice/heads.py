# SPDX-License-Identifier: GPL-3.0-or-later
"""The heads of requests and answers, as bytes: written, filtered and edited. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

Header: TypeAlias = "tuple[bytes | str, bytes | str]"

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Besides those: what we write ourselves, what belongs to the client's connection to us (the front has
# already decoded the body and answered `Expect`), and the client's secrets, which are for us only.
_NOT_FORWARDED = _HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-encoding",
    b"expect",
    b"authorization",
    b"x-api-key",
    b"cookie",
}
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_TARGET = re.compile(r"/[\x21-\x7e]*\Z")
_ANSWER_HOP = re.compile(rb"\r\n(?:connection|keep-alive|proxy-connection|upgrade)[ \t]*:[^\r\n]*", re.IGNORECASE)
_HOP_IN_LOWER = re.compile(rb"\r\n(?:connection|keep-alive|proxy-connection|upgrade)")
_TRANSFER_ENCODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:[^\r\n]*", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding[ \t]*:[^\r\n]*\bchunked[ \t]*\r\n", re.IGNORECASE)
_SSE = re.compile(rb"\r\ncontent-type[ \t]*:[ \t]*text/event-stream\b", re.IGNORECASE)
_ENCODED = re.compile(rb"\r\ncontent-encoding[ \t]*:[ \t]*(?!identity\b)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:", re.IGNORECASE)


#: A header line of ours: its text with CRLF, and how its name begins a line in a head in lower case.
Line: TypeAlias = "tuple[bytes, bytes]"


@lru_cache(maxsize=1024)
def _name(name: bytes | str) -> tuple[bytes, bytes]:
    raw = name.encode("latin-1", "replace") if isinstance(name, str) else name
    if not _NAME.match(raw):
        raise ValueError(f"not a header name: {raw!r}")
    return raw + b": ", b"\r\n" + raw.lower() + b":"


#: Answers' heads that are longer come rarely, and are not kept.
_COMMON = 1024


def header_line(name: bytes | str, value: bytes | str) -> Line:
    """`Name: value`. Raises ValueError when either could start a line of its own."""
    prefix, mark = _name(name)
    raw = value.encode("latin-1") if isinstance(value, str) else value
    if raw.isalnum():
        return prefix + raw + b"\r\n", mark
    if b"\n" in raw or b"\r" in raw or b"\0" in raw:
        raise ValueError(f"the value of header {prefix[:-2].decode()} holds a line break or a NUL")
    return prefix + raw + b"\r\n", mark


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Line, ...]:
    """`header_line` of each."""
    return tuple([header_line(name, value) for name, value in headers])


@lru_cache(maxsize=4096)
def _host_line(host: str, port: int) -> bytes:
    return header_line("Host", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")[0]


@lru_cache(maxsize=1024)
def _request_line(method: str, target: str) -> bytes:
    if not _TARGET.match(target):
        raise ValueError(f"not a request target: {target!r}")
    if not _NAME.match(method.encode("latin-1", "replace")):
        raise ValueError(f"not a method: {method!r}")
    return f"{method} {target} HTTP/1.1\r\n".encode("ascii")


def _nominated(headers: Sequence[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The names that a `Connection` header declares to be about this connection only."""
    values = [value for name, value in headers if name.lower() == b"connection"]
    return frozenset(token.strip().lower() for value in values for token in value.split(b",")) - {b"host"}


def request_head(
    method: str,
    target: str,
    host: str,
    port: int,
    *,
    client_headers: Sequence[tuple[bytes, bytes]] = (),
    headers: Iterable[Line] = (),
    body_length: int | None = None,
) -> bytes:
    """The head of a request to `host:port`, ready to send.

    `client_headers` (a request's `raw_headers`) go on without what is hop-by-hop, without the client's
    secrets (`Authorization`, `x-api-key`, `Cookie`) and without what we write ourselves; `headers` are
    written as given and replace the client's of the same name. Raises ValueError for a target, a name
    or a value that would break out of its line.
    """
    own = list(headers)
    drop = _NOT_FORWARDED.union([mark[2:-1] for _, mark in own]) if own else _NOT_FORWARDED
    lines = [_request_line(method, target), _host_line(host, port)]
    nominated: frozenset[bytes] = frozenset()
    for header in client_headers:
        name = header[0].lower()
        if name not in drop:
            lines.append(b"%b: %b\r\n" % header)
        elif name == b"connection" and header[1] != b"keep-alive":
            nominated = _nominated(client_headers)
    if nominated:
        lines = [line for line in lines if line.partition(b":")[0].lower() not in nominated]
    lines += [text for text, _ in own]
    if body_length is not None:
        lines.append(b"Content-Length: %d\r\n" % body_length)
    lines.append(b"\r\n")
    head = b"".join(lines)
    # The front's parser lets no line break into a client's header; checked once more here, all at once.
    if not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
        raise ValueError("a header of the client holds a line break or a NUL")
    return head


_DROPPED = b"|".join(re.escape(name) for name in sorted(_NOT_FORWARDED))


@lru_cache(maxsize=256)
def _dropping(own: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """Finds the lines of a head that do not go on when these names (in lower case) are written by us."""
    names = b"|".join([_DROPPED, *map(re.escape, own)])
    return re.compile(rb"\r\n(?:" + names + rb"):[^\r\n]*", re.IGNORECASE)


def passed_lines(lines: bytes, marks: tuple[bytes, ...]) -> bytes:
    """What goes on of a client's header lines (each begins with CRLF, and a strict parser has found nothing wrong with
    them), untouched: not what `request_head` leaves out, nor what these marks are of."""
    return _dropping(tuple([mark[2:-1] for mark in marks])).sub(b"", lines)


def passed_on(target: str, host: str, port: int, *, lines: bytes, own: Sequence[Line], body_length: int) -> bytes:
    """`request_head` of a POST, from the client's lines as `passed_lines` gives them."""
    return b"".join(
        [
            _request_line("POST", target),
            _host_line(host, port),
            *[text for text, _ in own],
            b"Content-Length: %d" % body_length,
            lines,
            b"\r\n\r\n",
        ]
    )


def answer_head(head: bytes, extra: Sequence[Line], *, close: bool, decoded: bool = False) -> bytes:
    """An upstream's head as the client gets it: `extra` lines put in once, hop-by-hop lines out.

    A line of `extra` replaces the upstream's lines of that name. `close` tells the client that the
    connection ends with this answer; `decoded` drops `Transfer-Encoding` (the body follows bare).
    """
    parts = _answer_parts if len(head) <= _COMMON else _answer_parts.__wrapped__
    first, rest = parts(head, tuple([mark for _, mark in extra]), decoded)
    texts = [text for text, _ in extra]
    if close:
        texts.append(b"Connection: close\r\n")
    return b"%b%b%b" % (first, b"".join(texts), rest)


@lru_cache(maxsize=256)
def _answer_parts(head: bytes, marks: tuple[bytes, ...], decoded: bool) -> tuple[bytes, bytes]:
    """What stays of the head: its first line, and all others. An engine's heads are the same again and again."""
    lower = head.lower()
    if _HOP_IN_LOWER.search(lower):
        head = _ANSWER_HOP.sub(b"", head)
    if decoded:
        head = _TRANSFER_ENCODING.sub(b"", head)
    for mark in marks:
        if mark in lower:
            head = re.sub(re.escape(mark) + rb"[^\r\n]*", b"", head, flags=re.IGNORECASE)
    if not head.startswith(b"HTTP/1.1 "):
        head = b"HTTP/1.1 " + head[head.index(b" ") + 1 :]
    first = head.index(b"\r\n") + 2
    return head[:first], head[first:]


def is_chunked(head: bytes) -> bool:
    """Whether the body after this head is in chunks."""
    return _CHUNKED.search(head) is not None


def is_plain_sse(head: bytes) -> bool:
    """Whether the body is a stream of events that nothing has compressed."""
    return _SSE.search(head) is not None and _ENCODED.search(head) is None


def has_length(head: bytes) -> bool:
    """Whether the head tells the length of the body."""
    return _LENGTH.search(head) is not None


def parse_headers(head: bytes) -> list[tuple[str, str]]:
    """The header lines of an answer's head, in order; names in lower case."""
    pairs = (line.partition(b":") for line in head[: head.index(b"\r\n\r\n")].split(b"\r\n")[1:])
    return [(name.decode("latin-1").strip().lower(), value.decode("latin-1").strip()) for name, _, value in pairs]
