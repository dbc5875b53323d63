# SPDX-License-Identifier: GPL-3.0-or-later
"""What should be on each machine, worked out from the Spec: complete enough that a diff needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from rbee.core.problems import Problem
from rbee.core.spec import WorkerOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWanted:
    """An engine that a hive's workers need; `binary_id` names engine, version and platform."""

    binary_id: str
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What rbee.lock keeps of a model's source: the digest of what it gave, and the commit that this was taken from
    (None where the source has none)."""

    source: str
    sha256: str
    revision: str | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWanted:
    """A model that a hive's workers need. `push_from` is a path on this machine when the hive cannot fetch it.

    `commit` is where `revision` pointed to when it was pinned: it is fetched from there, wherever that points now.
    """

    name: str
    source: str
    revision: str | None = None
    commit: str | None = None
    sha256: str | None = None
    push_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerWanted:
    """One worker process. `digest` is of everything that asks for a new process when it changes.

    One that is `on_demand` is never started by a plan: its engine and its model are brought, the queen does the rest.
    """

    worker_id: str
    spec_name: str
    model: str
    engine: str
    binary_id: str
    device: str
    options: WorkerOptions
    idle_timeout: float | None = None
    digest: str
    on_demand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveWanted:
    """A machine's hive. `config_digest` is of its settings with `release` in them."""

    name: str
    local: bool
    release: str
    config_digest: str
    token_digest: str
    engines: tuple[EngineWanted, ...] = ()
    models: tuple[ModelWanted, ...] = ()
    workers: tuple[WorkerWanted, ...] = ()
    #: Workers that the file wants but that cannot be had as it says now: what runs of them here stays as it is.
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueenWanted:
    release: str
    config_digest: str
    boot_digest: str
    token_digest: str
    hives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """`queen` is None and `hives` empty for `destroy`. `problems` are what could not be worked out."""

    fleet: str
    queen: QueenWanted | None
    hives: dict[str, HiveWanted] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    #: Models whose files stay although nothing wants them (`destroy --keep-models`).
    keep_models: bool = False
