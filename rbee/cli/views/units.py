# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of wire types in words for people, by the unit that the field's name ends with. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from rbee.cli.views.problems import harmless

NONE = "-"


def size(count: float) -> str:
    """Bytes in powers of ten, as disks and sources count: `1.2 GB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def mebibytes(count: float) -> str:
    """Memory, counted in MB of 2^20 bytes."""
    return f"{count / 1024:.1f} GiB" if count >= 10_000 else f"{count:.0f} MiB"


def duration(seconds: float) -> str:
    """The two largest units: `3d4h`, `5m20s`; `0.4s`."""
    if 0 < seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f}s"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}d{h}h" if days else f"{h}h{m:02}m" if h else f"{m}m{s:02}s" if m else f"{s}s"


def age(moment: str, now: datetime) -> str:
    """How long ago an RFC 3339 time was; the text itself when it is none."""
    try:
        then = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    except ValueError:
        return harmless(moment)
    if then.tzinfo is None:
        then = then.replace(tzinfo=timezone.utc)
    seconds = int((now - then).total_seconds())
    return f"{duration(seconds)} ago" if seconds >= 1 else "now"


#: Ends of fields' names, the longest first, and how such a value is told.
_UNITS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("_bytes_per_sec", lambda v: f"{size(v)}/s"),
    ("_bytes", size),
    ("bytes_downloaded", size),
    ("_mb", mebibytes),
    ("_gb", lambda v: f"{v:.1f} GB"),
    ("_seconds", duration),
    ("_ms", lambda v: f"{v:,} ms"),
    ("_percent", lambda v: f"{v:.0f} %"),
    ("_celsius", lambda v: f"{v:.0f} °C"),
    ("_watts", lambda v: f"{v:.0f} W"),
    ("hit_rate", lambda v: f"{v:.0%}"),
    ("idle_timeout", duration),
)
_MOMENTS = ("_at", "last_seen", "last_accessed", "last_health_check")
_DROPPED = ("_bytes_per_sec", "_bytes", "_mb", "_gb", "_seconds", "_ms", "_percent", "_celsius", "_watts", "_at")


def label(name: str) -> str:
    """A field's name without its unit: `size_bytes` -> `size`."""
    end = next((e for e in _DROPPED if name.endswith(e)), "")
    return name.removesuffix(end).replace("_", " ")


def value(name: str, said: Any, now: datetime) -> str:
    """One line for a scalar, a list of scalars or a mapping of them."""
    if said is None or said == "" or said == () or said == {}:
        return NONE
    if isinstance(said, bool):
        return "yes" if said else "no"
    if isinstance(said, (int, float)):
        told = next((how for end, how in _UNITS if name.endswith(end)), None)
        return told(said) if told else f"{said:.2f}".rstrip("0").rstrip(".") if isinstance(said, float) else str(said)
    if isinstance(said, str):
        return age(said, now) if name.endswith(_MOMENTS) else harmless(said)
    if isinstance(said, dict):
        return ", ".join(f"{harmless(str(k))}={value('', v, now)}" for k, v in sorted(said.items()))
    if isinstance(said, (tuple, list)):
        return ", ".join(value(name, v, now) for v in said)
    return harmless(str(said))
