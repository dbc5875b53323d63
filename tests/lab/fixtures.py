# SPDX-License-Identifier: GPL-3.0-or-later
"""Labs as pytest fixtures. `tests/lab` has them by its conftest; elsewhere: `from tests.lab.fixtures import lab`.

Where there can be no lab the test is skipped with the reason, unless RBEE_LAB=require, as in CI.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

import pytest

from .lab import Lab
from .shell import LabUnavailable


def lab_or_skip(hosts: int, traits: Mapping[str, str] | None = None) -> Lab:
    """`Lab.up` for a fixture of any scope, which then calls `down` (or uses it as a context manager)."""
    try:
        return Lab.up(hosts, traits)
    except LabUnavailable as reason:
        if os.environ.get("RBEE_LAB") == "require":
            pytest.fail(f"RBEE_LAB=require, but {reason}", pytrace=False)
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three plain hosts that all tests of the run share: leave them on, healed, and without your processes."""
    with lab_or_skip(3) as made:
        yield made


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """`make_lab(2, {"h2": "nopython"})`: labs of this test's own, removed after it."""
    made: list[Lab] = []

    def make(hosts: int = 1, traits: Mapping[str, str] | None = None) -> Lab:
        made.append(lab_or_skip(hosts, traits))
        return made[-1]

    yield make
    for one in reversed(made):
        one.down()
