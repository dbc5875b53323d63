# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs of queen and hive: how one is made, read, streamed and cancelled (CONTRACTS section 4)."""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rbee.core.errors import InvalidRequest

JobState = Literal["queued", "running", "completed", "failed", "cancelled"]
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
#: Header of `POST /v1/jobs`: the caller's own name for what is asked. Asked again under it, it is the same job, as long
#: as that is kept.
KEY_HEADER: Final = "Idempotency-Key"
KEY_PATTERN: Final = "^[!-~]{1,255}$"


def job_of(key: str) -> str:
    """The id of the job that is made under this key: whoever gave the key knows it before anybody has answered.

    Raises InvalidRequest for what is no key.
    """
    if re.fullmatch(KEY_PATTERN[1:-1], key) is None:
        raise InvalidRequest(f"`{KEY_HEADER}` must be 1 to 255 visible characters of ASCII.")
    # It has the form of the others, so that nobody needs to tell them apart.
    return f"job-{uuid.UUID(bytes=hashlib.sha256(key.encode()).digest()[:16], version=4)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAccepted:
    """Answer 202 of `POST /v1/jobs`."""

    job_id: str
    sse_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    error: str
    code: str
    timestamp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildJob:
    """The job on a hive that does a queen's job."""

    hive_id: str
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Answer of `GET /v1/jobs/{id}`. Times are RFC 3339; `result` is the operation's response as JSON.

    A list of jobs leaves large results out (`result` null, `result_bytes` says how large): ask for the job itself.
    """

    job_id: str
    operation: str
    state: JobState
    created_at: str
    request: dict[str, Any] = field(default_factory=dict)
    started_at: str | None = None
    ended_at: str | None = None
    result: Any = None
    result_bytes: int | None = None
    error: JobError | None = None
    child: ChildJob | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Answer of `GET /v1/jobs`, newest first; `cursor` asks for the next page."""

    jobs: tuple[Job, ...]
    cursor: str | None = None
