# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks end, also those that a cancel does not reach at once."""

from __future__ import annotations

import asyncio

from rbee.adapters.tasks import end_tasks


async def swallowing(cancels: list[int]) -> None:
    """Takes the first cancel for something else, as `wait_for` may."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancels.append(1)
            if len(cancels) > 1:
                raise


async def failing() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise OSError("the disk is full")


async def test_a_cancel_that_was_swallowed_is_repeated() -> None:
    cancels: list[int] = []
    task = asyncio.ensure_future(swallowing(cancels))
    await asyncio.sleep(0)
    await asyncio.wait_for(end_tasks(task, again=0.01), 30)
    assert task.cancelled()
    assert len(cancels) == 2


async def test_all_have_ended_however_they_did() -> None:
    done = asyncio.ensure_future(asyncio.sleep(0, "x"))
    fails, waits = asyncio.ensure_future(failing()), asyncio.ensure_future(asyncio.Event().wait())
    await done
    await asyncio.wait_for(end_tasks(done, fails, waits), 30)
    assert done.result() == "x"
    assert isinstance(fails.exception(), OSError)
    assert waits.cancelled()
    await end_tasks()
