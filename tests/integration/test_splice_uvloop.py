# SPDX-License-Identifier: GPL-3.0-or-later
"""The splice's tests once more on uvloop, the loop that the daemons run on (the others run on asyncio's own)."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from tests.integration import test_splice, test_splice_upstream

Case = Callable[[], Coroutine[Any, Any, None]]


def cases() -> Iterator[Any]:
    """Every test of the two modules, with each combination of its parameters."""
    for module in (test_splice, test_splice_upstream):
        for name, test in inspect.getmembers(module, inspect.iscoroutinefunction):
            if not name.startswith("test_"):
                continue
            axes = [mark.args for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
            if set(inspect.signature(test).parameters) - {axis[0] for axis in axes}:
                continue  # it takes fixtures
            for values in itertools.product(*(axis[1] for axis in axes)):
                arguments = {axis[0]: value for axis, value in zip(axes, values, strict=True)}
                label = "-".join([name.removeprefix("test_"), *(str(value)[:12] for value in values)])
                yield pytest.param(test, arguments, id=label)


@pytest.mark.parametrize(("test", "arguments"), list(cases()))
def test_on_uvloop(test: Callable[..., Coroutine[Any, Any, None]], arguments: dict[str, Any]) -> None:
    uvloop.run(test(**arguments))
