# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs of a daemon whose disk takes nothing any more: who asks still learns what became of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.store import SqliteJobStore
from rbee.contracts.jobs import Job
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.operations.fleet import QueenCheck
from rbee.core.errors import NotFound
from rbee.daemons.jobs import JobRunner
from rbee.daemons.live_job import UNWRITTEN
from rbee.daemons.narrate import JobContext


class FullDisk(SqliteJobStore):
    """Loses each write, as a store does whose transactions the disk refuses."""

    full = True

    def put(self, job: Job) -> None:
        if not self.full:
            super().put(job)

    def append(self, job_id: str, seq: int, event: bytes) -> None:
        if not self.full:
            super().append(job_id, seq, event)


async def answer(ctx: JobContext, request: Any) -> bytes:
    return b'{"checks": []}'


async def ended(runner: JobRunner) -> Job:
    job = await runner.submit(OPERATIONS["QueenCheck"], QueenCheck())
    while (found := await runner.get(job.job_id)).state in ("queued", "running"):
        await asyncio.sleep(0)
    return found


async def test_the_newest_jobs_are_told_from_memory(tmp_path: Path) -> None:
    store = FullDisk(tmp_path / "jobs.db")
    runner = JobRunner(store, {"QueenCheck": answer}, "test")
    await runner.start()
    try:
        jobs = [await ended(runner) for _ in range(UNWRITTEN + 5)]
        # A later one has been through the store: all before have been looked for in it.
        store.full = False
        last = await ended(runner)
        await store.settled()
        for job in jobs[-UNWRITTEN:]:
            assert (await runner.get(job.job_id)).state == "completed"
        for job in jobs[:5]:
            with pytest.raises(NotFound):
                await runner.get(job.job_id)
        assert (await runner.get(last.job_id)).state == "completed"
        assert (await store.get(last.job_id)) is not None
    finally:
        await runner.stop()
