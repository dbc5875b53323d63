# SPDX-License-Identifier: GPL-3.0-or-later
"""How tests wait: what a failure says."""

from __future__ import annotations

import pytest

from tests.support.waiting import eventually, until


def test_what_comes_true_is_given() -> None:
    looks = iter([0, "", None, "there"])
    assert until(lambda: next(looks)) == "there"


def test_a_failure_says_what_was_waited_for_and_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"waited 0 s in vain for the bees; last seen: \[\]"):
        until(list, "the bees", 0)


def test_without_a_name_it_is_told_in_the_checks_own_words() -> None:
    bees = 0
    with pytest.raises(AssertionError, match=r"in vain for .*lambda: bees > 2.*; last seen: False"):
        until(lambda: bees > 2, seconds=0)


def test_what_is_long_is_cut() -> None:
    with pytest.raises(AssertionError, match=r"last seen: .{1000}\.\.\. \(3002 characters\)$"):
        until(_Falsy, "it", 0)


async def test_what_must_be_awaited_is() -> None:
    looks = iter([False, "there"])

    async def look() -> object:
        return next(looks)

    assert await eventually(look) == "there"
    with pytest.raises(AssertionError, match="in vain for it; last seen: 0"):
        await eventually(lambda: 0, "it", 0)


class _Falsy:
    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "x" * 3002
