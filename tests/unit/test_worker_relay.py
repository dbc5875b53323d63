# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding an engine's stream back until its first real event, wherever the network cuts it."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import cast

import httptools
import pytest

from rbee.daemons.worker.relay import HeldRelay
from rbee.daemons.worker.words import Counts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PROGRESS = b'data: {"choices":[],"prompt_progress":{"total":9}}\n\n'
WORD = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
LAST = b'data: {"choices":[],"timings":{"cache_n":1,"prompt_n":8,"predicted_n":2,"predicted_ms":10}}\n\n'
DONE = b"data: [DONE]\n\n"


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (*parts, b""))


async def relayed(answer: bytes, *cuts: int, lost: bool = False) -> tuple[HeldRelay, bytes]:
    """What a client is sent of `answer` when it comes in pieces; `lost`: the engine dies then."""
    transport = Transport()
    relay = HeldRelay(
        "POST", lambda *_: None, cast(asyncio.Transport, transport), [], False, None, time.monotonic, None
    )
    edges = [0, *cuts, len(answer)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            relay.data(answer[start:end])
    if lost:
        relay.lost(None)
    return relay, transport.written


class Body:
    """The decoded body of an answer, as any HTTP client would have it."""

    def __init__(self, answer: bytes) -> None:
        self.data = b""
        self.whole = False
        httptools.HttpResponseParser(self).feed_data(answer)

    def on_body(self, data: bytes) -> None:
        self.data += data

    def on_message_complete(self) -> None:
        self.whole = True


@pytest.mark.parametrize(
    "parts",
    [
        (PROGRESS, PROGRESS, WORD, LAST, DONE),
        (b"data: null\n\n", PROGRESS, WORD, LAST, DONE),
        (PROGRESS + WORD, LAST + DONE),
        (WORD, LAST, DONE),
    ],
)
async def test_progress_is_dropped_wherever_the_answer_is_cut(parts: tuple[bytes, ...]) -> None:
    answer = HEAD + chunks(*parts)
    for cut in range(len(answer)):
        relay, sent = await relayed(answer, cut)
        body = Body(sent)
        assert (body.data, body.whole, relay.end) == (WORD + LAST + DONE, True, "completed"), cut
        assert relay.counts() == Counts(prompt_tokens=9, tokens=2, seconds=0.01)


async def test_nothing_is_sent_of_a_stream_that_only_made_progress() -> None:
    answer = HEAD + chunks(PROGRESS, PROGRESS, WORD)
    relay, sent = await relayed(answer[: answer.index(WORD) - 4], lost=True)
    assert (sent, relay.opened, relay.end) == (b"", False, "upstream_died")


async def test_a_stream_that_began_ends_with_an_error_frame() -> None:
    answer = HEAD + chunks(PROGRESS, WORD, LAST)
    end = answer.index(LAST) + len(LAST)
    for cut in range(answer.index(LAST), len(answer) - len(b"0\r\n\r\n")):
        relay, sent = await relayed(answer[:cut], lost=True)
        assert relay.end == "upstream_died"
        last = Body(sent).data.rstrip().rpartition(b"\n\n")[2]
        if cut in (end, end + 1):  # between a chunk and its line end nothing can be added
            assert not Body(sent).whole
        else:
            assert last.startswith(b'data: {"error":'), cut


async def test_a_refusal_is_kept_and_not_sent() -> None:
    said = b'{"error":{}}'
    head = b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(said)
    relay, sent = await relayed(head + said, 10, len(head) + 3)
    assert (sent, relay.opened, relay.status, bytes(relay.held)) == (b"", False, 400, said)


async def test_a_stream_of_nothing_still_ends() -> None:
    relay, sent = await relayed(HEAD + chunks(PROGRESS))
    assert (Body(sent).data, Body(sent).whole, relay.opened) == (b"", True, True)
