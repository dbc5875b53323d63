# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs for people: a table of many, one in lines, its narration with times. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from rbee.cli.views import units
from rbee.cli.views.problems import harmless
from rbee.contracts import codec
from rbee.contracts.jobs import ENDED, Job

_HEAD = ("JOB", "OPERATION", "STATE", "HIVE", "MADE", "TOOK", "ERROR")


def table(jobs: Sequence[Job], now: datetime) -> Iterator[str]:
    """One line a job; columns that no job has anything in are left out."""
    rows = [_HEAD, *(_row(job, now) for job in jobs)]
    shown = [i for i in range(len(_HEAD)) if any(row[i] != units.NONE for row in rows[1:]) or i < 3]
    widths = {i: max(len(row[i]) for row in rows) for i in shown}
    for row in rows:
        yield "  ".join(row[i].ljust(widths[i]) for i in shown).rstrip()


def _row(job: Job, now: datetime) -> tuple[str, ...]:
    error = harmless(job.error.error) if job.error is not None else units.NONE
    hive = harmless(hive_of(job)) or units.NONE
    made = units.age(job.created_at, now)
    return job.job_id, harmless(job.operation), job.state, hive, made, took(job, now), error


def hive_of(job: Job) -> str:
    if job.child is not None:
        return job.child.hive_id
    asked = job.request.get("hive_id")
    return asked if isinstance(asked, str) else ""


def took(job: Job, now: datetime) -> str:
    """How long it ran, or runs."""
    begin, end = _moment(job.started_at), _moment(job.ended_at) if job.state in ENDED else now
    return units.duration(max(0.0, (end - begin).total_seconds())) if begin and end else units.NONE


def _moment(said: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(said.replace("Z", "+00:00")) if said else None
    except ValueError:
        return None


def one(job: Job, now: datetime) -> Iterator[str]:
    """All that is known of it."""
    said: dict[str, Any] = {
        "job": job.job_id,
        "operation": job.operation,
        "request": _json(job.request) if job.request else "",
        "state": job.state,
        "hive": hive_of(job),
        "child": job.child.job_id if job.child is not None else "",
        "made": f"{job.created_at} ({units.age(job.created_at, now)})",
        "started": job.started_at,
        "ended": job.ended_at,
        "took": took(job, now) if job.started_at else "",
        "error": f"{job.error.error} ({job.error.code})" if job.error is not None else "",
        "result": _json(job.result) if job.result is not None else "",
    }
    if job.result is None and job.result_bytes:
        said["result"] = f"{units.size(job.result_bytes)}, kept no more"
    width = max(len(name) for name, value in said.items() if value) + 1
    for name, value in said.items():
        if value:
            yield f"{name + ':':<{width}} {harmless(str(value))}"


def line(event: dict[str, Any]) -> str:
    """An event of its narration: when, by whom it is no info, and what."""
    text = event.get("line") if event.get("event") == "worker_logs_line" else event.get("message")
    moment = str(event.get("timestamp", ""))[11:19]
    level = event.get("level", "info")
    more = f"{level}: " if level not in ("info", "debug") else ""
    return harmless(f"{moment} {more}{text or event.get('event', '')}".strip())


def _json(value: Any) -> str:
    return codec.encode(value).decode()
