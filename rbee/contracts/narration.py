# SPDX-License-Identifier: GPL-3.0-or-later
"""Narration: what a job tells while it works, for people (`message`) and for programs (the typed fields)."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Level = Literal["debug", "info", "warning", "error"]

#: Last frame of every event stream.
DONE = b"data: [DONE]\n\n"


class Event(TypedDict, total=False):
    """One narration event; any further keys are the event's own typed fields (numbers stay numbers)."""

    event: str
    action: str
    message: str
    timestamp: str
    job_id: str
    actor: str
    level: Level


def narration(
    name: str, message: str, *, timestamp: str, job_id: str, actor: str, level: Level = "info", **fields: Any
) -> dict[str, Any]:
    """An event ready to be stored: `event` and `action` carry the same name, as the seeds' clients read either."""
    return {
        "event": name,
        "action": name,
        "message": message,
        "timestamp": timestamp,
        "job_id": job_id,
        "actor": actor,
        "level": level,
        **fields,
    }
