# SPDX-License-Identifier: GPL-3.0-or-later
"""The port behind which jobs are kept."""

from __future__ import annotations

from typing import Protocol

from rbee.contracts.jobs import Job, JobError, JobPage


class JobStore(Protocol):
    """Where jobs and their events stay. Writes are kept in order and never block; reads see all writes before.

    A job's `result` goes in, and comes out of `get`, as `codec.embedded` JSON: it is never taken apart.
    """

    async def open(self) -> None: ...

    def put(self, job: Job) -> None: ...

    def append(self, job_id: str, seq: int, event: bytes) -> None:
        """One that ends behind `"result":` is read with the job's result there, and the brace that is missing."""
        ...

    async def settled(self) -> None:
        """Returns when all writes before are in the file (or the disk has refused them, which is logged)."""
        ...

    async def get(self, job_id: str, *, result: bool = True) -> Job | None: ...

    async def page(self, state: str | None, limit: int, cursor: str | None) -> JobPage:
        """Without the larger results; shorter than `limit` when the jobs are large, `cursor` tells where to go on."""
        ...

    async def events(self, job_id: str, after: int, limit: int, *, large: bool = True) -> list[tuple[int, bytes]]:
        """The events behind number `after`: at most `limit`, and not many bytes at once; none only at the end.

        Without `large` an event that has the job's large result in it is left out.
        """
        ...

    async def interrupt_running(self, error: JobError) -> int: ...

    async def close(self) -> None: ...
