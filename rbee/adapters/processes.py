# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of the machine. Their command lines are never read: they may hold secrets of others."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import psutil

from rbee.adapters.trees import trees

#: Seconds between the two looks that a share of CPU needs.
WINDOW = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A process as it is now. `cpu_percent` is of one core, over the last `WINDOW` seconds; memory in bytes."""

    pid: int
    name: str
    memory: int
    status: str
    user: str = ""
    cpu_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class Listing:
    """The largest first; `total` counts also those beyond the limit."""

    processes: tuple[Listed, ...]
    total: int = 0


@dataclass(slots=True)
class _Seen:
    process: psutil.Process
    listed: Listed
    cpu: float = field(default=0.0)


def table(name: str | None, limit: int, pause: Callable[[], None] = lambda: time.sleep(WINDOW)) -> Listing:
    """The processes whose name contains `name` (in any case), the largest first, `limit` at most.

    Blocks for the `pause`: CPU is what a process has used between two looks, as the first look alone would tell
    its average since it started. Only those that are shown are looked at twice. One that ends meanwhile is left
    out; what this user may not see of another's process is empty or 0.
    """
    wanted = (name or "").casefold()
    found = [seen for seen in _all() if wanted in seen.listed.name.casefold()]
    found.sort(key=lambda seen: (-seen.listed.memory, seen.listed.pid))
    shown = found[:limit]
    for seen in shown:
        seen.cpu = _cpu(seen.process) or 0.0
    began = time.monotonic()
    pause()
    listed = []
    for seen in shown:
        cpu = _cpu(seen.process)
        if cpu is None:
            continue
        percent = max(0.0, cpu - seen.cpu) / (time.monotonic() - began) * 100
        was = seen.listed
        listed.append(
            Listed(
                pid=was.pid,
                name=was.name,
                memory=was.memory,
                status=was.status,
                user=was.user,
                cpu_percent=round(percent, 1),
            )
        )
    return Listing(tuple(listed), len(found))


def _all() -> list[_Seen]:
    found = []
    for process in psutil.process_iter(["pid", "name", "username", "memory_info", "status"]):
        info = process.info
        memory = info["memory_info"]
        found.append(
            _Seen(
                process,
                Listed(
                    pid=info["pid"],
                    name=info["name"] or "",
                    memory=memory.rss if memory else 0,
                    status=info["status"] or "",
                    user=info["username"] or "",
                ),
            )
        )
    return found


def _cpu(process: psutil.Process) -> float | None:
    """Seconds of CPU that it has used; 0 for another user's where that is hidden, None when it has ended."""
    try:
        times = process.cpu_times()
    except psutil.AccessDenied:
        return 0.0
    except psutil.Error:
        return None
    return float(times.user + times.system)


def owners(roots: Mapping[int, str]) -> dict[int, str]:
    """Every process in the tree of one of `roots` (pid to owner), with that owner; one pass over the process table."""
    return {pid: roots[root] for root, tree in trees(roots.keys()).items() for pid in tree.pids}


def names(pids: Collection[int]) -> dict[int, str]:
    """The names of those that are there."""
    found = {}
    for pid in pids:
        try:
            found[pid] = psutil.Process(pid).name()
        except psutil.Error:
            continue
    return found


def resident(pids: Collection[int]) -> dict[int, int]:
    """Resident bytes of those that are there."""
    found = {}
    for pid in pids:
        try:
            found[pid] = int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            continue
    return found
