# SPDX-License-Identifier: GPL-3.0-or-later
"""The beginning and the end of labs: one more beside the others, and removal without a trace, also of what a dead
run left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from . import net, registry
from .base import cache_directory
from .cgroups import Cgroup
from .hosts import Host
from .registry import HostRecord, LabRecord, Owner
from .shell import LabError, run
from .traits import Traits


def register(wanted: Mapping[str, Traits], name: str | None, owner: Owner | None) -> LabRecord:
    """Note the new lab and make its bridges, in one piece against others doing the same."""
    with registry.locked():
        _collect()
        number = registry.free_number()
        hosts = tuple(
            HostRecord(name=host, index=i, ip=net.address(number, i, inner=traits.via is not None), traits=traits)
            for i, (host, traits) in enumerate(wanted.items(), 1)
        )
        identity = name or f"lab{number}"
        if any(record.id == identity for record in registry.records()):
            raise LabError(f"there is a lab {identity!r} already; take it down first or name this one differently")
        directory = cache_directory() / "labs" / identity
        record = LabRecord(id=identity, number=number, directory=directory, hosts=hosts, owner=owner)
        registry.save(record)
        try:
            net.create_bridges(record)
        except BaseException:
            remove(record)
            raise
    return record


def collect() -> list[str]:
    """Remove labs whose process is gone and traces that belong to no lab; the answer names them."""
    with registry.locked():
        return _collect()


def _collect() -> list[str]:
    gone = [record for record in registry.records() if record.stale()]
    for record in gone:
        remove(record)
    known = registry.records()
    stray = net.prefixes() - {record.prefix for record in known}
    for prefix in stray:
        _remove_kernel_objects(prefix)
    left = cache_directory() / "labs"
    kept = {record.directory for record in known}
    lost = [path for path in left.iterdir() if path not in kept] if left.is_dir() else []
    for path in lost:
        _remove_directory(path)
    return [*(record.id for record in gone), *sorted(stray), *(str(path) for path in lost)]


def remove(record: LabRecord) -> None:
    """Remove a lab, whole, half-made or half-removed; the registry forgets it last."""
    for host in record.hosts:
        with contextlib.suppress(LabError):
            Host(record, host).stop()
    _remove_kernel_objects(record.prefix)
    for host in record.hosts:
        Cgroup(net.netns(record, host)).remove()
    _remove_directory(record.directory)
    registry.forget(record)


def _remove_kernel_objects(prefix: str) -> None:
    for pid in net.pids(prefix):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    net.remove(prefix)


def _remove_directory(directory: Path) -> None:
    """Unmount what is mounted there (home disks, then a tmpfs of the lab's own), then delete it."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounts if Path(m).is_relative_to(directory)), key=len, reverse=True):
        run("umount", "--lazy", mount, check=False)
    if directory.is_dir():
        shutil.rmtree(directory)
