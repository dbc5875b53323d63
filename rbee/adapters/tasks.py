# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any, Final

#: Seconds that a task has to tidy up before it is cancelled once more.
AGAIN: Final = 10.0


async def end_tasks(*tasks: asyncio.Task[Any] | asyncio.Future[Any], again: float = AGAIN) -> None:
    """Cancels them and returns when all have ended, however they did. Raises nothing of theirs.

    A cancel can be lost when it comes in the same moment as what the task waits for: `asyncio.wait_for` before Python
    3.12 swallows it then, and a library may take it for a timeout of its own. Whoever waited for that task would wait
    for ever; so it is repeated.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # asked for, so that nobody is told that nobody asked
