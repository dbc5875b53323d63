# SPDX-License-Identifier: GPL-3.0-or-later
"""The front's tests once more on uvloop, the loop that the queen runs on (the others run on asyncio's own)."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.integration import test_front


def cases() -> Iterator[Any]:
    """Every test of the module, with each combination of its parameters."""
    for name, test in inspect.getmembers(test_front, inspect.iscoroutinefunction):
        if not name.startswith("test_"):
            continue
        axes = [mark.args for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        for values in itertools.product(*(axis[1] for axis in axes)):
            arguments = {axis[0]: value for axis, value in zip(axes, values, strict=True)}
            label = "-".join([name.removeprefix("test_"), *(str(value)[:20] for value in values)])
            yield pytest.param(test, arguments, id=label)


@pytest.mark.parametrize(("test", "arguments"), list(cases()))
def test_on_uvloop(test: Callable[..., Coroutine[Any, Any, None]], arguments: dict[str, Any], tmp_path: Path) -> None:
    uvloop.run(test(tmp_path=tmp_path, **arguments))
