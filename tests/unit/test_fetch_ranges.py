# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of a file: whatever comes in whatever order, every byte is fetched once and none is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters.fetch.ranges import Ranges

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


@given(PAIRS)
def test_what_was_added_is_there_and_nothing_else(pairs: list[tuple[int, int]]) -> None:
    ranges = Ranges(pairs)
    here = {n for a, b in pairs for n in range(a, b)}
    assert {n for a, b in ranges.done for n in range(a, b)} == here
    assert ranges.count == len(here)
    assert ranges.frontier == next(n for n in range(62) if n not in here)
    assert ranges.has_gaps == (ranges.count > ranges.frontier)
    ends = [end for _, end in ranges.done]
    assert all(a < b for a, b in ranges.done)
    assert all(end < start for end, (start, _) in zip(ends, ranges.done[1:], strict=False)), "neighbours are one"


@given(PAIRS, st.integers(1, 60), st.integers(1, 20))
def test_claims_cover_what_is_missing_once(pairs: list[tuple[int, int]], total: int, most: int) -> None:
    ranges = Ranges(pairs)
    here = {n for a, b in ranges.done for n in range(a, b)}
    claimed: list[int] = []
    while (found := ranges.claim(total, most)) is not None:
        assert 0 < found[1] - found[0] <= most
        claimed += range(*found)
    assert len(claimed) == len(set(claimed))
    assert set(claimed) == set(range(total)) - here
    assert claimed == sorted(claimed), "the first missing bytes come first"


def test_a_claim_that_was_let_go_is_claimed_again() -> None:
    ranges = Ranges([(0, 10)])
    first = ranges.claim(100, 20)
    assert first == (10, 30)
    assert ranges.claim(100, 20) == (30, 50)
    ranges.add(10, 15)
    ranges.release(first)
    assert ranges.claim(100, 20) == (15, 30)
    assert (ranges.wall(50), ranges.wall(20)) == (None, 30)
    assert not ranges.whole(None)
    ranges.add(0, 100)
    assert ranges.whole(100)
    assert ranges.claim(100, 20) is None
