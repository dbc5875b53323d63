# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the raw front that are pure: heads taken in and passed on, bodies in chunks put together."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters.secrets import Token
from rbee.adapters.splice import Tap, Upstream, heads
from rbee.contracts import defaults
from rbee.daemons.queen.admission.clients import Client
from rbee.daemons.queen.front.bodies import BadRequest, ChunkedBody
from rbee.daemons.queen.front.errors import NoWorker
from rbee.daemons.queen.front.incoming import Headers, Incoming
from rbee.daemons.queen.front.known_head import KnownHead
from rbee.daemons.queen.scaling.starter import Loading

PATH = "/v1/completions"
WORKER = Upstream("10.0.0.7", 9300)


def taken(lines: bytes, version: str = "1.1") -> Incoming:
    # Neither is looked at before there is an answer.
    request = Incoming(PATH, PATH, cast(Tap, None), cast(asyncio.Transport, None), None)
    assert request.read(f"POST {PATH} HTTP/{version}\r\n".encode() + lines + b"\r\n")
    return request


def test_headers_are_found_whatever_their_case_and_the_first_of_two_counts() -> None:
    headers = taken(b"Host: a\r\nX-One:  1 \r\nx-one: 2\r\nX-Empty:\r\nX-Name: Zo\xc3\xab\r\n").headers
    assert headers.get("X-ONE") == headers["x-one"] == "1"
    assert headers.get("x-empty") == ""
    assert headers.get("X-Name") == "Zoë"
    assert headers.get("x-none") is None
    assert headers.get("x-none", "-") == "-"
    assert "host" in headers
    assert "hosts" not in headers
    assert sorted(headers) == ["host", "x-empty", "x-name", "x-one"]
    assert len(headers) == 4
    assert dict(headers.beginning(b"x-")) == {"x-one": "1", "x-empty": "", "x-name": "Zoë"}
    with pytest.raises(KeyError):
        headers["x-none"]
    assert Headers({}).get("a" * 500) is None


@pytest.mark.parametrize(
    ("version", "lines", "keeps"),
    [
        ("1.1", b"", True),
        ("1.1", b"Connection: close\r\n", False),
        ("1.1", b"Connection: x, close\r\n", False),
        ("1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_a_connection_is_kept_as_the_client_says(version: str, lines: bytes, keeps: bool) -> None:
    request = taken(b"Host: a\r\n" + lines, version)
    assert (request.keep_alive, request.old) == (keeps, version == "1.0")


_TOKEN = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True)
_VALUE = st.from_regex(rb"[!-~\x80-\xff]([ -~\x80-\xff]{0,20}[!-~\x80-\xff])?", fullmatch=True)
_FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"host", b"expect", b"content-encoding", b"upgrade"}


def _harmless(line: tuple[bytes, bytes]) -> bool:
    return line[0].lower() not in _FRAMING


@given(st.lists(st.tuples(_TOKEN, _VALUE).filter(_harmless), max_size=8), st.binary(max_size=20))
def test_a_head_goes_on_as_the_other_front_would_send_it(lines: list[tuple[bytes, bytes]], body: bytes) -> None:
    request = taken(b"Host: a\r\n" + b"".join(b"%b: %b\r\n" % line for line in lines))
    request.body = body
    own = [heads.header_line("X-Request-Id", "r1"), heads.header_line("Authorization", "Bearer t")]
    sent = request.head_to(WORKER, own)
    expected = heads.request_head(
        "POST", PATH, WORKER.host, WORKER.port, client_headers=lines, headers=own, body_length=len(body)
    )
    assert sent.endswith(b"\r\n\r\n")
    assert sorted(sent.split(b"\r\n")) == sorted(expected.split(b"\r\n"))
    kept = [line for line in sent.split(b"\r\n") if any(line == b"%b: %b" % one for one in lines)]
    wanted = [b"%b: %b" % one for one in lines]
    assert kept == [line for line in wanted if line in kept], "in their order"


def test_what_is_about_this_connection_only_does_not_go_on() -> None:
    request = taken(
        b"Host: a\r\nConnection: X-Hop, Host\r\nconnection: X-Two\r\nX-Hop: 1\r\nX-TWO: 2\r\nX-Stays: 3\r\n"
    )
    sent = request.head_to(WORKER, [])
    assert b"X-Hop" not in sent
    assert b"X-TWO" not in sent
    assert b"\r\nX-Stays: 3\r\n" in sent
    assert b"\r\nHost: 10.0.0.7:9300\r\n" in sent


LIKE = b"POST %b HTTP/1.1\r\nHost: a\r\ncontent-Length: %b\r\nX-One: 1\r\n\r\n"


def known(head: bytes) -> KnownHead | None:
    request = Incoming(PATH, PATH, cast(Tap, None), cast(asyncio.Transport, None), None)
    assert request.read(head)
    return KnownHead.of(request, head)


def again(head: KnownHead | None, data: bytes, token: Token | None = None) -> Incoming | None:
    assert head is not None
    return head.again(data, cast(Tap, None), cast(asyncio.Transport, None), token, 1)


def test_a_head_that_comes_again_is_known_whatever_the_bodys_length() -> None:
    head = known(LIKE % (PATH.encode(), b"12"))
    for length in (0, 7, 12, 9_999_999):
        said = LIKE % (PATH.encode(), b"%d" % length)
        request = again(head, said + b"{}...")
        assert request is not None
        fresh = taken(said.partition(b"\r\n")[2][:-2])
        assert (request.length, request.begins, request.path) == (length, len(said), PATH)
        assert dict(request.headers) == dict(fresh.headers) == {"host": "a", "x-one": "1"}
        request.body = fresh.body = b"x" * 3
        own = [heads.header_line("X-Request-Id", "r1")]
        assert request.head_to(WORKER, own) == fresh.head_to(WORKER, own) == request.head_to(WORKER, own)
        assert b"X-One" not in request.head_to(WORKER, [heads.header_line("X-One", "2")]).replace(b"X-One: 2", b"")


@pytest.mark.parametrize(
    "data",
    [
        LIKE % (PATH.encode(), b"12345678"),  # perhaps too much
        LIKE % (PATH.encode(), b"-1"),
        LIKE % (PATH.encode(), b""),
        LIKE % (PATH.encode(), b"1\r\nContent-Length: 2"),
        LIKE % (PATH.encode(), b"1\r\nTransfer-Encoding: chunked"),
        LIKE % (PATH.encode(), b"1\r\n\r\n"),
        LIKE % (PATH.encode(), "²".encode()),
        (LIKE % (PATH.encode(), b"12")).replace(b"X-One: 1", b"X-One: 2"),
        (LIKE % (PATH.encode(), b"12")).replace(b"Host", b"host"),
        (LIKE % (PATH.encode(), b"12"))[:-1],
        (LIKE % (PATH.encode(), b"12"))[:-20],
        LIKE % (b"/v1/embeddings", b"12"),
        b"",
    ],
)
def test_any_other_head_is_read(data: bytes) -> None:
    assert again(known(LIKE % (PATH.encode(), b"12")), data) is None


def test_who_sent_a_known_head_counts_until_the_clients_change() -> None:
    said = LIKE % (PATH.encode(), b"12")
    head, alice = known(said), Client(name="alice")
    assert head is not None
    head.sent_by(alice, 1)
    request = again(head, said)
    assert request is not None
    assert request.client is alice
    head.sent_by(alice, 0)
    request = again(head, said)
    assert request is not None
    assert request.client is None
    assert again(head, said, Token("another")) is None, "the listener wants something now"


def test_heads_that_are_long_or_rare_are_not_kept() -> None:
    line = b"POST %b HTTP/1.1\r\nHost: a\r\n" % PATH.encode()
    assert known(line + b"Content-Length: 1\r\n\r\n") is not None
    for more in (b"X: " + b"y" * 5000, b"Connection: close", b"Expect: 100-continue"):
        assert known(line + b"Content-Length: 1\r\n" + more + b"\r\n\r\n") is None
    assert known(line + b"Transfer-Encoding: chunked\r\n\r\n") is None


def _fed(pieces: Sequence[bytes]) -> tuple[bytes, bytes | None]:
    body, rest = ChunkedBody(), None
    for number, piece in enumerate(pieces):
        rest = body.feed(piece)
        if rest is not None:
            return bytes(body.data), rest + b"".join(pieces[number + 1 :])
    return bytes(body.data), None


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"]),
    st.binary(max_size=30),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_chunks_are_put_together_wherever_they_are_cut(
    chunks: list[bytes], trailers: bytes, after: bytes, cuts: list[int]
) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n" + trailers + b"\r\n"
    whole = wire + after
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert _fed(pieces) == (b"".join(chunks), after)
    assert _fed([wire[:-1]])[1] is None


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b" 1\r\na\r\n",
        b"+1\r\na\r\n",
        b"1 1\r\na\r\n",
        b"\r\n",
        b"1\na\r\n\r\n",
        b"f" * 16 + b"\r\n",
        b"1\r\nab\r\n",
        b"1;" + b"a" * 300,
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"0\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n",
        b"0\r\nContent-Length: 3\r\n\r\n",
        b"0 \r\n\r\n",
        b'1;a="\r\na\r\n',
        b"0\r\n" + b"A: b\r\n" * 3000,
        b"%x\r\n" % (defaults.MAX_BODY + 1),
    ],
)
def test_chunks_that_cannot_be_read_are_refused(wire: bytes) -> None:
    with pytest.raises(BadRequest):
        _fed([wire])
    with pytest.raises(BadRequest):
        _fed([wire[i : i + 1] for i in range(len(wire))])


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_no_bytes_between_chunks_do_anything_else(wire: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    try:
        _fed([wire[a:b] for a, b in itertools.pairwise(edges)])
    except BadRequest as error:
        assert error.status in (400, 413)


STARTING = Loading(progress=0.4, eta_seconds=3.2)


@pytest.mark.parametrize(
    ("reasons", "loading", "not_started", "said"),
    [
        ((), None, (), "No worker is ready for the model 'm': no worker runs it."),
        (("a: busy.", "b: busy"), None, (), "No worker is ready for the model 'm': a, b: busy."),
        (
            ("a: unloaded: it was idle",), None, ("a: no room", "b: no room"),
            "No worker is ready for the model 'm': a, b: no room.",
        ),
        (("a: unloaded",), Loading(), (), "The model 'm' is being started: come again in a moment."),
        (("a: starting",), STARTING, (), "The model 'm' is being started: 40% of it are loaded, about 3 s are left."),
        ((), Loading(eta_seconds=0.1), ("a: it broke",),
         "The model 'm' is being started: about 1 s are left. Until now: a: it broke."),
        ((), Loading(state="queued"), (), "The model 'm' waits until there is room for it, or its hive is there."),
    ],
)  # fmt: skip
def test_nobody_is_ready_and_why_or_how_long(
    reasons: tuple[str, ...], loading: Loading | None, not_started: tuple[str, ...], said: str
) -> None:
    assert str(NoWorker(("m",), reasons, loading, not_started)) == said
