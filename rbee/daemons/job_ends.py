# SPDX-License-Identifier: GPL-3.0-or-later
"""How a job's end is told."""

from __future__ import annotations

from rbee.adapters.system import now
from rbee.contracts import codec
from rbee.contracts.jobs import ENDED, ChildJob, Job, JobError
from rbee.contracts.narration import DONE
from rbee.daemons import sse


def tail(job: Job) -> bytes:
    """The last frames of an ended job's stream: its error or its cancel, then `[DONE]`."""
    if job.state not in ENDED:
        return b""
    if job.error is not None:
        return sse.frame(codec.encode(job.error)) + DONE
    if job.state == "cancelled":
        said: dict[str, str | None] = {"event": "cancelled", "action": "cancelled", "message": "The job was cancelled."}
        said |= {"timestamp": job.ended_at, "job_id": job.job_id}
        return sse.frame(codec.encode(said)) + DONE
    return DONE


def failure(message: str, code: str) -> JobError:
    """An error of this moment."""
    return JobError(error=message, code=code, timestamp=now())


def interrupted(message: str, child: ChildJob | None) -> JobError:
    """Of a job whose daemon ended; what a hive did for it may go on there."""
    more = f" What it began goes on as {child.job_id} of the hive {child.hive_id}." if child is not None else ""
    return failure(message + more, "interrupted")
