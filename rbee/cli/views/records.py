# SPDX-License-Identifier: GPL-3.0-or-later
"""Any operation's answer for people: lists as tables, single things as named lines. Made from the types; pure.

Plain text, without a library for terminals: a hive's machine has none.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, get_args, get_origin

from rbee.cli.views import units
from rbee.cli.views.problems import harmless

#: What a table shows of types that have more than a line can hold; of others it shows all that any row says.
COLUMNS: dict[str, tuple[str, ...]] = {
    "ModelRecord": (
        "id", "status", "size_bytes", "architecture", "quantization", "parameter_count", "context_length", "added_at",
    ),
    "WorkerRecord": (
        "worker_id", "status", "model", "device", "engine", "pid", "port", "memory_mb", "requests_handled",
        "avg_tokens_per_sec", "uptime_seconds", "reason",
    ),
    "WorkerHeartbeat": (
        "worker_id", "status", "model", "hive_id", "device", "engine", "slots_busy", "slots", "requests_handled",
        "avg_tokens_per_sec",
    ),
    "Device": ("id", "name", "vendor", "vram_total_mb", "vram_free_mb", "temperature_celsius", "cores", "workers"),
    "WorkerBinary": ("id", "engine", "version", "worker_type", "platform", "size_bytes", "status"),
    "HiveSummary": ("hive_id", "status", "url", "last_seen", "models", "error"),
    "DownloadInfo": (
        "download_id", "status", "bytes_downloaded", "total_bytes", "speed_bytes_per_sec", "eta_seconds", "source",
        "error",
    ),
}  # fmt: skip
#: Columns that are left out where no row says anything.
_RARE = frozenset({"reason", "error", "cores", "vendor", "temperature_celsius", "vram_total_mb", "vram_free_mb"})


def well(answer: Any) -> bool:
    """Whether all that was asked for came true: a batch without failures, a digest that fits, a healthy hive."""
    if getattr(answer, "failed", None):
        return False
    if getattr(answer, "verified", None) is False and getattr(answer, "expected", None) is not None:
        return False
    return not (hasattr(answer, "reasons") and getattr(answer, "status", "healthy") in ("degraded", "unhealthy"))


def render(answer: Any, now: datetime) -> Iterator[str]:
    """Lines of a response: its one list as a table, or its fields, then whatever it has below them."""
    own = dataclasses.fields(answer)
    said = [(f.name, getattr(answer, f.name)) for f in own]
    if own and dataclasses.is_dataclass(said[0][1]):  # `ModelGetResponse.model`: the thing itself
        yield from _details(said[0][1], now)
        said = [(n, v) for n, v in said[1:] if not _nothing(v)]
    plain = [(n, v) for n, v in said if not _is_list(answer, n) and not dataclasses.is_dataclass(v)]
    lists = [(n, getattr(answer, n)) for n, _ in said if _is_list(answer, n)]
    if lists and len(said) - len(lists) == len(plain) and said[0][0] == lists[0][0]:
        name, rows = lists.pop(0)
        yield from table(rows, now) if rows else [f"No {units.label(name)}."]
        plain = [(n, v) for n, v in plain if not _nothing(v)]
        if plain:
            yield ""
    yield from _named(plain, now)
    for name, rows in lists:
        if rows:
            yield from ("", f"{units.label(name).capitalize()}:")
            yield from (f"  {line}" for line in table(rows, now))
    for name, inner in said:
        if dataclasses.is_dataclass(inner):
            yield from ("", f"{units.label(name).capitalize()}:")
            yield from (f"  {line}" for line in _details(inner, now))


def table(rows: Sequence[Any], now: datetime) -> Iterator[str]:
    """A header and a line for each; columns as wide as what is in them."""
    columns = _columns(rows)
    cells = [[units.label(c).upper() for c in columns]]
    cells += [[units.value(c, getattr(row, c), now) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _columns(rows: Sequence[Any]) -> list[str]:
    kind = type(rows[0])
    names = COLUMNS.get(kind.__name__)
    if names is not None:
        return [n for n in names if n not in _RARE or any(not _nothing(getattr(row, n)) for row in rows)]
    flat = [f.name for f in dataclasses.fields(kind) if not _nested(getattr(rows[0], f.name))]
    return [n for i, n in enumerate(flat) if i == 0 or any(not _nothing(getattr(row, n)) for row in rows)]


def _details(record: Any, now: datetime) -> Iterator[str]:
    """Named lines of a record; what it does not say is left out. Lists of records stand below."""
    said = [(f.name, getattr(record, f.name)) for f in dataclasses.fields(record)]
    yield from _named([(n, v) for n, v in said if not _nested(v) and not _nothing(v)], now)
    for name, inner in said:
        if _nested(inner):
            yield f"{units.label(name)}:"
            yield from (
                f"  {line}" for line in (table(inner, now) if isinstance(inner, tuple) else _details(inner, now))
            )


def _named(pairs: Sequence[tuple[str, Any]], now: datetime) -> Iterator[str]:
    width = max((len(units.label(n)) for n, _ in pairs), default=0) + 1
    for name, said in pairs:
        head = f"{units.label(name)}:".ljust(width)
        if isinstance(said, str) and "\n" in said:
            yield head.rstrip()
            yield from (f"  {harmless(line)}" for line in said.splitlines())
        elif name == "reasons" and isinstance(said, dict):
            yield from (f"{harmless(key)}: {harmless(str(why))}" for key, why in sorted(said.items()))
        else:
            yield f"{head} {units.value(name, said, now)}"


def _is_list(answer: Any, name: str) -> bool:
    """Whether the field is declared as a list of records, empty or not."""
    hint = typing.get_type_hints(type(answer))[name]
    return get_origin(hint) is tuple and bool(get_args(hint)) and dataclasses.is_dataclass(get_args(hint)[0])


def _nested(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and dataclasses.is_dataclass(value[0])
    return dataclasses.is_dataclass(value)


def _nothing(value: Any) -> bool:
    return value is None or value in ("", (), {})
