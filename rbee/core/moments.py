# SPDX-License-Identifier: GPL-3.0-or-later
"""Moments as rbee writes them. Pure."""

from __future__ import annotations

from datetime import datetime, timezone


def rfc3339(moment: datetime) -> str:
    """`2026-01-31T08:00:00.123Z`: UTC, milliseconds cut off, so that texts sort as moments do. One without a zone is
    UTC. Raises OverflowError near the ends of the calendar."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def epoch(text: str) -> float | None:
    """Epoch seconds of a moment that was written so, or with another offset; without a zone it is UTC. None: it is
    no moment."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except ValueError:
        return None
