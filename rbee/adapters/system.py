# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine as this process may use it: containers and cgroups set limits below what the hardware has."""

from __future__ import annotations

import math
import os
import platform
import shutil
import socket
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import psutil

from rbee.adapters.gpu.cpu import parse_flags
from rbee.core.records import SystemInfo

_CGROUP = Path("/sys/fs/cgroup")


def now() -> str:
    """RFC 3339, UTC, milliseconds, with Z."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


def info(disk: Path) -> SystemInfo:
    """The machine; `disk` is any path on the disk that models go to."""
    total, available = memory()
    while not disk.exists():
        disk = disk.parent
    return SystemInfo(
        hostname=socket.gethostname(),
        os=f"{platform.system()} {platform.release()}",
        arch=platform_id().split("-", 1)[1],
        cpu_cores=cores(),
        memory_total=total,
        memory_available=available,
        disk_free=shutil.disk_usage(disk).free,
        cpu_flags=parse_flags(_text(Path("/proc/cpuinfo"))),
    )


def uptime() -> int:
    """Seconds since the machine started."""
    return max(0, int(time.time() - psutil.boot_time()))


def cpu_percent() -> float:
    """Share of all cores that was busy since the last call; does not block, the first call says 0."""
    return float(psutil.cpu_percent(interval=None))


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
