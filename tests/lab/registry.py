# SPDX-License-Identifier: GPL-3.0-or-later
"""Which labs there are on this machine, so that several live side by side and a dead run's is found again.

One JSON file a lab under /run (as short-lived as the kernel objects it speaks of), written before anything
is made, removed after everything is gone. Allocation of numbers happens under one lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .shell import LabError, process_start, run
from .traits import Traits

REGISTRY = Path("/run/rbee-lab")
NUMBERS = range(1, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process a lab belongs to; when it is gone the lab is stale."""

    pid: int
    start: int

    @classmethod
    def this_process(cls) -> Owner:
        return cls(pid=os.getpid(), start=process_start(os.getpid()) or 0)

    def alive(self) -> bool:
        return process_start(self.pid) == self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    name: str
    index: int
    ip: str
    traits: Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRecord:
    """All that is needed to find, use or remove a lab. `number` names its kernel objects and its subnet."""

    id: str
    number: int
    directory: Path
    hosts: tuple[HostRecord, ...]
    owner: Owner | None = None
    """None for a lab made by hand, which stays until somebody takes it down."""

    @property
    def prefix(self) -> str:
        return f"rbl{self.number}"

    @property
    def subnet(self) -> str:
        """The first three numbers of its addresses."""
        return f"10.77.{self.number}"

    def stale(self) -> bool:
        return self.owner is not None and not self.owner.alive()


@contextlib.contextmanager
def locked(name: str = "lock") -> Iterator[None]:
    """Hold one of the machine-wide locks; blocks until it is free."""
    REGISTRY.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (REGISTRY / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def save(record: LabRecord) -> None:
    path = REGISTRY / f"{record.id}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**asdict(record), "directory": str(record.directory)}, indent=1))
    part.replace(path)


def forget(record: LabRecord) -> None:
    (REGISTRY / f"{record.id}.json").unlink(missing_ok=True)


def load(path: Path) -> LabRecord:
    raw = json.loads(path.read_text())
    hosts = tuple(HostRecord(**{**host, "traits": Traits(**host["traits"])}) for host in raw["hosts"])
    owner = Owner(**raw["owner"]) if raw["owner"] else None
    return LabRecord(
        id=raw["id"], number=raw["number"], directory=Path(raw["directory"]), hosts=hosts, owner=owner
    )  # fmt: skip


def records() -> list[LabRecord]:
    """Every registered lab, stale ones too. A lab taken down meanwhile is simply not among them."""
    found = []
    for path in sorted(REGISTRY.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):
            found.append(load(path))
    return found


def free_number() -> int:
    """A number no registered lab uses and whose subnet nothing on this machine knows. Call it locked.

    Each process begins to look elsewhere, so that a number just given back is not at once another's.
    """
    used = {record.number for record in records()}
    seen = "".join(run("ip", "-4", *words).stdout for words in (("addr",), ("route", "show", "table", "all")))
    for offset in range(len(NUMBERS)):
        number = NUMBERS[(os.getpid() + offset) % len(NUMBERS)]
        if number not in used and f"10.77.{number}." not in seen:
            return number
    raise LabError("no free 10.77.x.0/24 for another lab; `python -m tests.lab status` shows those there are")
