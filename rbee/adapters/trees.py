# SPDX-License-Identifier: GPL-3.0-or-later
"""What processes hold and use together with all their descendants, in one pass over the process table."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes; `files` of them are mapped files, which the kernel counts as available all the same."""

    resident: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A process and its descendants. `cpu`: processor seconds of each so far, by pid and start time."""

    memory: Memory
    cpu: Mapping[tuple[int, float], float]

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(pid for pid, _ in self.cpu)


def cpu_between(before: Tree, after: Tree) -> float:
    """Processor seconds used from one look to the next, by those that were there at the second one."""
    return sum(max(0.0, used - before.cpu.get(who, 0.0)) for who, used in after.cpu.items())


class _Row(NamedTuple):
    """Of one process: `cpu` in seconds, `started` in whatever the system counts in."""

    parent: int
    started: float
    cpu: float
    resident: int


def trees(roots: Collection[int]) -> dict[int, Tree]:
    """Of each of these processes that is there. Blocks some milliseconds; nothing when `roots` is empty."""
    if not roots:
        return {}
    table = dict(_linux() if Path("/proc/self/stat").exists() else _elsewhere())
    children: dict[int, list[int]] = {}
    for pid, row in table.items():
        children.setdefault(row.parent, []).append(pid)
    return {root: _tree(root, table, children) for root in roots if root in table}


def _tree(root: int, table: Mapping[int, _Row], children: Mapping[int, list[int]]) -> Tree:
    found, waiting = {root}, [root]
    while waiting:
        # The table is read row by row: a pid given out again meanwhile must not lead round in circles.
        new = [pid for pid in children.get(waiting.pop(), ()) if pid not in found]
        found.update(new)
        waiting.extend(new)
    return Tree(
        memory=Memory(sum(table[pid].resident for pid in found), sum(_files(pid) for pid in found)),
        cpu={(pid, table[pid].started): table[pid].cpu for pid in found},
    )


def _linux() -> Iterator[tuple[int, _Row]]:
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for name in os.listdir("/proc"):  # noqa: PTH208 - hundreds of names, several times a minute
        if not name.isdecimal():
            continue
        try:
            line = Path(f"/proc/{name}/stat").read_bytes()
            # The name of the program is in brackets and may hold spaces and brackets itself.
            words = line[line.rindex(b")") + 2 :].split()
            row = _Row(int(words[1]), float(words[19]), (int(words[11]) + int(words[12])) / tick, int(words[21]) * page)
        except (OSError, ValueError, IndexError):
            continue
        yield int(name), row


def _elsewhere() -> Iterator[tuple[int, _Row]]:
    for process in psutil.process_iter(["ppid", "create_time", "cpu_times", "memory_info"]):
        said = process.info
        times, memory = said["cpu_times"], said["memory_info"]
        yield (
            process.pid,
            _Row(
                said["ppid"] or 0,
                said["create_time"] or 0.0,
                times.user + times.system if times else 0.0,
                memory.rss if memory else 0,
            ),
        )


def _files(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[2]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
