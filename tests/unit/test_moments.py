# SPDX-License-Identifier: GPL-3.0-or-later
"""Moments as texts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from rbee.core.moments import epoch, rfc3339

EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 31, 8, 0, 0, 123_999, timezone.utc), "2026-01-31T08:00:00.123Z"),
        (datetime(2026, 1, 31, 8, 0, 0, tzinfo=timezone.utc), "2026-01-31T08:00:00.000Z"),
        (datetime(2026, 1, 31, 1, 30, tzinfo=EAST), "2026-01-30T23:30:00.000Z"),
        (datetime(2026, 1, 31, 8), "2026-01-31T08:00:00.000Z"),
    ],
)
def test_a_moment_is_utc_to_the_millisecond(moment: datetime, text: str) -> None:
    assert rfc3339(moment) == text


def test_a_moment_before_the_calendar_is_none() -> None:
    with pytest.raises(OverflowError):
        rfc3339(datetime(1, 1, 1, tzinfo=EAST))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01.500Z", 1.5),
        ("2026-01-31T08:00:00Z", 1769846400.0),
        ("2026-01-31T10:00:00+02:00", 1769846400.0),
        ("2026-01-31T08:00:00", 1769846400.0),
        ("", None),
        ("yesterday", None),
        ("0001-01-01T00:00:00+23:00", -62135679600.0),
    ],
)
def test_a_moment_is_read_back(text: str, seconds: float | None) -> None:
    assert epoch(text) == seconds
