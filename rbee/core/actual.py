# SPDX-License-Identifier: GPL-3.0-or-later
"""What was seen: each machine and the queen, or `Unknown` where nothing could be seen.

Unknown is not absent. A machine that could not be observed yields a problem and no action.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from rbee.core.digest import digest
from rbee.core.problems import Problem
from rbee.core.records import Device, ModelRecord, WorkerBinary, WorkerRecord
from rbee.core.spec import Ssh

ALIVE = frozenset({"starting", "ready", "busy"})
#: Of a worker that is as it shall be: one unloaded for want of requests is started again when it is asked for.
IN_PLACE = ALIVE | {"unloaded"}


def in_place(worker: WorkerRecord) -> bool:
    """Whether a worker is as it shall be, or will be in a moment without anyone's help: one whose process is being
    ended only to be unloaded, or started anew, has not gone."""
    return worker.status in IN_PLACE or (worker.status == "stopping" and worker.next in IN_PLACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Could not be observed; `why` and `mend` are for people."""

    why: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveLive:
    """A hive's daemon that answered."""

    fleet: str
    release: str
    config_digest: str
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveActual:
    """A machine that was observed. `live` is None when no hive daemon of ours runs there.

    `problems` are what keeps the machine from being a hive (no Python, a missing library): each with its mend.
    `token_digest` and `releases` are what is on disk; models and workers come from the daemon, or from disk
    where it does not run. `address` is empty for this machine, `platform` for one that could not be looked into.
    """

    address: str
    platform: str
    controller_address: str | None = None
    live: HiveLive | None = None
    releases: tuple[str, ...] = ()
    #: Of the releases that bear a mark, whose they are.
    release_fleets: dict[str, str] = field(default_factory=dict)
    token_digest: str | None = None
    devices: tuple[Device, ...] = ()
    models: tuple[ModelRecord, ...] = ()
    workers: tuple[WorkerRecord, ...] = ()
    binaries: tuple[WorkerBinary, ...] = ()
    memory_available: int = 0
    memory_total: int = 0
    cpu_flags: tuple[str, ...] = ()
    missing_libraries: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTo:
    """A hive that the queen's settings name; `ssh` is how the apply that registered it reached it."""

    hive_id: str
    url: str
    online: bool
    ssh: Ssh | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueenActual:
    """The queen on this machine. The digests are of its settings: all, and those that need a restart."""

    running: bool
    fleet: str = ""
    release: str = ""
    config_digest: str = ""
    boot_digest: str = ""
    token_digest: str | None = None
    hives: tuple[KnownTo, ...] = ()
    #: How many workers her settings name: she starts them when they are wanted.
    workers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """The whole fleet as it was seen at one time."""

    queen: QueenActual | Unknown
    hives: dict[str, HiveActual | Unknown] = field(default_factory=dict)


def fingerprint(actual: Actual, itself: Collection[tuple[str, str, str]] = ()) -> str:
    """Digest of what a plan is made from; what changes by itself (free memory, ready or busy) is left out, and so are
    the workers that the queen starts and stops: `itself` are their hives, ids and digests."""

    def hive(name: str, seen: HiveActual | Unknown) -> Any:
        if isinstance(seen, Unknown):
            return "unknown"
        return {
            "address": seen.address,
            "live": seen.live,
            "releases": sorted(seen.releases),
            "release_fleets": seen.release_fleets,
            "token": seen.token_digest,
            "models": sorted((m.id, m.status, m.checksum or "", m.source) for m in seen.models),
            "workers": sorted(
                (w.worker_id, in_place(w), w.mark.spec_digest if w.mark else "", w.idle_timeout or 0)
                for w in seen.workers
                if w.mark is None or (name, w.worker_id, w.mark.spec_digest) not in itself
            ),
            "binaries": sorted((b.id, b.status) for b in seen.binaries),
            "problems": sorted(p.summary for p in seen.problems),
        }

    queen = actual.queen if isinstance(actual.queen, QueenActual) else "unknown"
    return digest({"queen": queen, "hives": {name: hive(name, seen) for name, seen in actual.hives.items()}}, 64)
