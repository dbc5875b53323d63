# SPDX-License-Identifier: GPL-3.0-or-later
"""The parser of event streams, whatever the chunks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters.sse import Event, Parser

LINE = st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=12)
EVENTS = st.lists(st.tuples(st.lists(LINE, min_size=1, max_size=3), st.integers(0, 99)), max_size=5)


def written(events: list[tuple[list[str], int]], end: str) -> bytes:
    out = [f": keepalive{end}{end}"]
    for lines, number in events:
        out += [f"id: {number}{end}", *(f"data: {line}{end}" for line in lines), end]
    return "".join(out).encode()


@given(EVENTS, st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_any_chunks_give_the_same_events(events: list[tuple[list[str], int]], end: str, data: st.DataObject) -> None:
    stream = written(events, end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser, got = Parser(), []
    for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += parser.feed(stream[a:b])
    assert got == [Event("\n".join(lines), str(number)) for lines, number in events]


def test_what_the_standard_says() -> None:
    parser = Parser()
    told = b"\xef\xbb\xbfdata:x\ndata\n\nevent: e\nid: 7\ndata:  two spaces\nretry: 5\nnonsense: 1\n\n"
    told += b"id: 8\n\ndata: y\n\nid: 9\ndata: cut"
    assert parser.feed(told) == [Event("x\n"), Event(" two spaces", "7", "e"), Event("y", "8")]
    assert parser.last_id == "8"
    assert parser.feed(b"") == []
