# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a model takes: what is measured counts more and more, and what is left is never negative."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core.load_times import blended, guessed, left


def test_measured_times_are_blended() -> None:
    assert blended(None, 10.0) == 10.0
    assert 10.0 < blended(10.0, 20.0) < 20.0
    known: float | None = None
    for _ in range(30):
        known = blended(known, 7.0)
    assert known == pytest.approx(7.0)


def test_a_guess_grows_with_the_size() -> None:
    assert guessed(None) is None
    assert guessed(0) is None
    small, large = guessed(10**6), guessed(10**10)
    assert small is not None and large is not None and 0 < small < 5 < large


def test_what_is_left() -> None:
    assert left(5.0, 20.0, None) == 15.0
    assert left(5.0, None, 0.5) == 5.0
    assert left(5.0, 20.0, 0.9) == pytest.approx(5 / 9)
    assert left(5.0, 20.0, 0.01) == 15.0
    assert left(25.0, 20.0, None) is None
    assert left(25.0, 20.0, 1.5) == 0.0
    assert left(5.0, None, None) is None


@given(st.floats(0, 1e6), st.one_of(st.none(), st.floats(0, 1e6)), st.one_of(st.none(), st.floats(0, 2)))
def test_never_negative(elapsed: float, expected: float | None, progress: float | None) -> None:
    found = left(elapsed, expected, progress)
    assert found is None or found >= 0
