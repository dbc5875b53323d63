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
_TRANSFER_ENCODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:[^\r\n]*", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding[ \t]*:[^\r\n]*\bchunked[ \t]*\r\n", re.IGNORECASE)
_SSE = re.compile(rb"\r\ncontent-type[ \t]*:[ \t]*text/event-stream\b", re.IGNORECASE)
_ENCODED = re.compile(rb"\r\ncontent-encoding[ \t]*:[ \t]*(?!identity\b)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:", re.IGNORECASE)


def header_line(name: bytes | str, value: bytes | str) -> bytes:
    """`Name: value` and CRLF. Raises ValueError when either could start a line of its own."""
    raw_name = name.encode("latin-1") if isinstance(name, str) else name
    raw_value = value.encode("latin-1") if isinstance(value, str) else value
    if not _NAME.match(raw_name):
        raise ValueError(f"not a header name: {raw_name!r}")
    if b"\n" in raw_value or b"\r" in raw_value or b"\0" in raw_value:
        raise ValueError(f"the value of header {raw_name.decode()} holds a line break or a NUL")
    return b"%b: %b\r\n" % (raw_name, raw_value)


@lru_cache(maxsize=4096)
def _host_line(host: str, port: int) -> bytes:
    return header_line("Host", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _nominated(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The names that a `Connection` header declares to be about this connection only."""
    values = [value for name, value in headers if name.lower() == b"connection"]
    return frozenset(token.strip().lower() for value in values for token in value.split(b","))


def request_head(
    method: str,
    target: str,
    host: str,
    port: int,
    *,
    client_headers: Sequence[tuple[bytes, bytes]] = (),
    headers: Iterable[Header] = (),
    body_length: int | None = None,
) -> bytes:
    """The head of a request to `host:port`, ready to send.

    `client_headers` (a request's `raw_headers`) go on without what is hop-by-hop, without the client's
    secrets (`Authorization`, `x-api-key`, `Cookie`) and without what we write ourselves; `headers` are
    written as given and replace the client's of the same name. Raises ValueError for a target, a name
    or a value that would break out of its line.
    """
    if not _TARGET.match(target):
        raise ValueError(f"not a request target: {target!r}")
    if not _NAME.match(method.encode("latin-1", "replace")):
        raise ValueError(f"not a method: {method!r}")
    lines = [f"{method} {target} HTTP/1.1\r\n".encode("ascii"), _host_line(host, port)]
    drop = _NOT_FORWARDED
    own = [header_line(name, value) for name, value in headers]
    if own:
        drop = drop | {line[: line.index(b":")].lower() for line in own}
    nominated: frozenset[bytes] | None = None
    for name, value in client_headers:
        lower = name.lower()
        if lower == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            nominated = _nominated(client_headers)
        if lower not in drop:
            lines.append(b"%b: %b\r\n" % (name, value))
    if nominated:
        lines = [*lines[:2], *(x for x in lines[2:] if x[: x.index(b":")].lower() not in nominated)]
    lines += own
    if body_length is not None:
        lines.append(b"Content-Length: %d\r\n" % body_length)
    lines.append(b"\r\n")
    head = b"".join(lines)
    # The front's parser lets no line break into a client's header; checked once more here, all at once.
    if not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
        raise ValueError("a header of the client holds a line break or a NUL")
    return head


def answer_head(head: bytes, extra: list[bytes], *, close: bool, decoded: bool = False) -> bytes:
    """An upstream's head as the client gets it: `extra` lines put in once, hop-by-hop lines out.

    A line of `extra` replaces the upstream's lines of that name. `close` tells the client that the
    connection ends with this answer; `decoded` drops `Transfer-Encoding` (the body follows bare).
    """
    lower = head.lower()
    if b"\r\nconnection" in lower or b"\r\nkeep-alive" in lower or b"\r\nupgrade" in lower or b"\r\nproxy-c" in lower:
        head = _ANSWER_HOP.sub(b"", head)
    if decoded:
        head = _TRANSFER_ENCODING.sub(b"", head)
    for line in extra:
        name = line[: line.index(b":")].lower()
        if b"\r\n" + name in lower:
            head = re.sub(rb"\r\n" + re.escape(name) + rb"[ \t]*:[^\r\n]*", b"", head, flags=re.IGNORECASE)
    if not head.startswith(b"HTTP/1.1 "):
        head = b"HTTP/1.1 " + head[head.index(b" ") + 1 :]
    first = head.index(b"\r\n") + 2
    closing = b"Connection: close\r\n" if close else b""
    return b"".join((head[:first], *extra, closing, head[first:]))


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
