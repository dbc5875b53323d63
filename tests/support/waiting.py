# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for what others do, the same in all tests: by looking, with a bound only so that a failure ends, and says
what never came."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

#: Seconds. Much longer than anything takes: a busy machine is no failure.
PATIENCE = 60.0
_FIRST_LOOK, _LONGEST = 0.01, 0.05
_SHOWN = 1000


def until(check: Callable[[], Any], what: str = "", seconds: float = PATIENCE) -> Any:
    """What `check()` gives, as soon as that is true. Fails after `seconds`, naming `what` and what was seen last."""
    __tracebackhide__ = True
    patience = _Patience(check, what, seconds)
    while not (found := check()):
        time.sleep(patience.pause(found))
    return found


async def eventually(check: Callable[[], Any], what: str = "", seconds: float = PATIENCE) -> Any:
    """As `until`, without holding up the loop; `check` may also give something to await."""
    __tracebackhide__ = True
    patience = _Patience(check, what, seconds)
    while not (found := await _awaited(check())):
        await asyncio.sleep(patience.pause(found))
    return found


async def _awaited(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


class _Patience:
    """Of one wait."""

    def __init__(self, check: Callable[[], Any], what: str, seconds: float) -> None:
        self._check, self._what, self._seconds = check, what, seconds
        self._end = time.monotonic() + seconds
        self._pause = _FIRST_LOOK

    def pause(self, last: Any) -> float:
        """Seconds until the next look. Raises AssertionError when that was the last one."""
        __tracebackhide__ = True
        if time.monotonic() >= self._end:
            shown = repr(last)
            if len(shown) > _SHOWN:
                shown = f"{shown[:_SHOWN]}... ({len(shown)} characters)"
            what = self._what or _source(self._check)
            raise AssertionError(f"waited {self._seconds:g} s in vain for {what}; last seen: {shown}")
        pause, self._pause = self._pause, min(self._pause * 1.5, _LONGEST)
        return pause


def _source(check: Callable[[], Any]) -> str:
    """Its own words: mostly a lambda in the line that waits."""
    try:
        return " ".join(inspect.getsource(check).split())
    except (OSError, TypeError):
        return repr(check)
