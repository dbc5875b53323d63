# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine as this process may use it: containers and cgroups set limits below what the hardware has."""

from __future__ import annotations

import math
import os
import platform
import secrets
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil

from rbee.adapters.gpu.cpu import parse_flags
from rbee.core.moments import rfc3339
from rbee.core.records import SystemInfo

_CGROUP = Path("/sys/fs/cgroup")


def now() -> str:
    """This moment, as everything is stamped."""
    return rfc3339(datetime.now(timezone.utc))


def platform_id() -> str:
    """`linux-x86_64`, `linux-arm64`, `macos-arm64`: as provider files name platforms."""
    return platform_name(sys.platform, platform.machine())


def platform_name(system: str, machine: str) -> str:
    names = {"darwin": "macos", "win32": "windows"}
    arch = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine.lower(), machine.lower())
    return f"{names.get(system, system)}-{arch}"


def cores() -> int:
    """Cores this process may keep busy: affinity and the cgroup's CPU quota counted; at least 1."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min((q for d in _cgroups() if (q := parse_cpu_max(_text(d / "cpu.max"))) is not None), default=None)
    return max(1, affine if quota is None else min(affine, quota))


def memory() -> tuple[int, int]:
    """Bytes in all and available, within the tightest memory limit of this process's cgroups."""
    seen = psutil.virtual_memory()
    total, available = int(seen.total), int(seen.available)
    for folder in _cgroups():
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if limit is None or used is None:
            continue
        total = min(total, limit)
        # Cached pages of files count as used there, and are given up on demand.
        cached = parse_stat(_text(folder / "memory.stat")).get("file", 0)
        available = min(available, max(0, limit - max(0, used - cached)))
    return total, available


def info(models: Path) -> SystemInfo:
    """The machine; `models` is any path on the disk that models go to."""
    total, available = memory()
    return SystemInfo(
        hostname=socket.gethostname(),
        os=f"{platform.system()} {platform.release()}",
        arch=platform_id().split("-", 1)[1],
        cpu_cores=cores(),
        memory_total=total,
        memory_available=available,
        disk_free=disk(models)[1],
        cpu_flags=parse_flags(_text(Path("/proc/cpuinfo"))),
    )


def uptime() -> int:
    """Seconds since the machine started."""
    return max(0, int(time.time() - psutil.boot_time()))


class CpuMeter:
    """The share of all cores that was busy, over a second or more: whoever asks more often gets no noise.

    Needs no waiting: it looks back to the last mark that is old enough. `clock` is in seconds, `seconds` tells busy
    and all CPU time of the machine so far.
    """

    def __init__(
        self, seconds: Callable[[], tuple[float, float]] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds or _cpu_seconds
        self._clock = clock
        self._before = self._last = self._seconds()
        self._marked = clock()

    def percent(self) -> float:
        """0 to 100; 0 when nothing could be told yet."""
        seen, now = self._seconds(), self._clock()
        if now - self._marked >= 1.0:
            self._before, self._last, self._marked = self._last, seen, now
        busy, total = seen[0] - self._before[0], seen[1] - self._before[1]
        return round(min(100.0, max(0.0, 100 * busy / total)), 1) if total > 0 else 0.0


def _cpu_seconds() -> tuple[float, float]:
    times = psutil.cpu_times()
    # A guest's time counts as the user's already.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return float(total - times.idle - getattr(times, "iowait", 0.0)), float(total)


_meter = CpuMeter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of one process. `started_at` in seconds since the epoch; `open_files` None where nobody tells."""

    cpu_seconds: float
    resident: int
    started_at: float
    open_files: int | None


def own_usage() -> Usage:
    """What this process takes."""
    me = psutil.Process()
    with me.oneshot():
        times = me.cpu_times()
        return Usage(
            cpu_seconds=round(times.user + times.system, 3),
            resident=int(me.memory_info().rss),
            started_at=float(me.create_time()),
            open_files=int(me.num_fds()) if hasattr(me, "num_fds") else None,
        )


def cpu_percent() -> float:
    """Share of all cores of the machine that was busy over the last second or more; does not block."""
    return _meter.percent()


def load_average() -> tuple[float, float, float]:
    """Over 1, 5 and 15 minutes; zeros where the system keeps none."""
    try:
        one, five, fifteen = os.getloadavg()
    except OSError:
        return 0.0, 0.0, 0.0
    return round(one, 2), round(five, 2), round(fifteen, 2)


def swap() -> tuple[int, int]:
    """Bytes in all and used."""
    with warnings.catch_warnings():
        # It warns where it cannot tell how much was swapped in and out, which is not asked.
        warnings.simplefilter("ignore", RuntimeWarning)
        seen = psutil.swap_memory()
    return int(seen.total), int(seen.used)


def disk(path: Path) -> tuple[int, int]:
    """Bytes in all and free for this user, of the disk that `path` is on, or will be."""
    seen = shutil.disk_usage(existing(path))
    return seen.total, seen.free


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def try_writing(folder: Path) -> str | None:
    """Write, read back and remove a small file there; why that does not go. Makes the folder; blocks on the disk."""
    said = secrets.token_bytes(4096)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-") as file:
            file.write(said)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            return None if file.read() == said else "what was written is not what is read back"
    except OSError as e:
        return e.strerror or str(e)


def parse_cpu_max(text: str) -> int | None:
    """Whole cores in a cgroup's `cpu.max` (`150000 100000` is 2); None without a limit."""
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return max(1, math.ceil(int(quota) / int(period)))


def parse_stat(text: str) -> dict[str, int]:
    """The `name number` lines of a cgroup's `memory.stat`."""
    pairs = (line.split() for line in text.splitlines())
    return {p[0]: int(p[1]) for p in pairs if len(p) == 2 and p[1].isdigit()}


def _cgroups() -> list[Path]:
    """This process's cgroup (version 2) and those above it; none where there are no cgroups."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::"):
            folder = _CGROUP / line[3:].lstrip("/")
            return [p for p in (folder, *folder.parents) if p.is_relative_to(_CGROUP)]
    return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
