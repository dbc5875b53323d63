# SPDX-License-Identifier: GPL-3.0-or-later
"""A job as it is written down: made once, on the event loop, for either database."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee.contracts import codec
from rbee.contracts.jobs import Job
from rbee.core.errors import InvalidRequest

#: Results larger than this are kept apart from the jobs.
LARGE = 256 * 2**10
#: Results larger than this are left out of a list of jobs.
RESULT_IN_PAGE = 16 * 2**10
#: Bytes of jobs in one page, and of events read at once, about: at least one is given.
PAGE_BYTES = 4 * 2**20
EVENT_BYTES = 256 * 2**10
#: End of an event without its result; no JSON ends so.
CUT = b'"result":'


@dataclass(frozen=True, slots=True)
class Written:
    job_id: str
    state: str
    operation: str
    hive_id: str
    created_at: str
    #: The job as JSON, without its result.
    text: str
    result: bytes | memoryview | None

    @property
    def large(self) -> bool:
        return self.result is not None and len(self.result) > LARGE


def written(job: Job) -> Written:
    asked = job.request.get("hive_id")
    hive_id = job.child.hive_id if job.child is not None else asked if isinstance(asked, str) else ""
    return Written(
        job_id=job.job_id,
        state=job.state,
        operation=job.operation,
        hive_id=hive_id,
        created_at=job.created_at,
        text=codec.encode(replace(job, result=None)).decode(),
        result=None if job.result is None else codec.json_of(job.result),
    )


def read(text: str, result: bytes | None) -> Job:
    """A job as it is kept; its result (of a job kept by an older release: already in it) is not taken apart."""
    job = codec.decode(Job, text)
    return job if result is None else replace(job, result=codec.embedded(result))


def place_of(cursor: str | None) -> int:
    """Jobs of the next page have a smaller number. Raises InvalidRequest for a cursor that no store gave."""
    if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise InvalidRequest("This is not a cursor of this list.")
    return int(cursor) if cursor else 2**62
