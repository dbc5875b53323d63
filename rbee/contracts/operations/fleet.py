# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rbee.contracts.decisions import DecisionRecord
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.contracts.operations.base import operation
from rbee.contracts.operations.hives import HiveSummary
from rbee.core.doc import Doc


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTrouble:
    """Why the queen could not start a worker when it was wanted."""

    why: str
    times: Annotated[int, Doc("Tries in a row that failed.")] = 1
    retry_seconds: Annotated[float, Doc("Nobody tries again before; 0: as soon as it is wanted.")] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSummary:
    """A worker for `rbee status`: the heartbeat, whether requests go to it, and why not."""

    worker: WorkerHeartbeat
    routable: bool
    age_seconds: float
    reason: str | None = None
    trouble: Annotated[StartTrouble | None, Doc("Of one that does not run: why not, when it was last wanted.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWorker:
    """A worker of rbee.yaml that is not there. `on_demand`: as it shall be, the queen starts it when it is wanted;
    `missing`: it should always be there; `starting`: it is being started; `failed`: that did not work."""

    worker_id: str
    model: str
    hive_id: str
    device: str
    engine: str
    state: Literal["on_demand", "missing", "starting", "failed"]
    trouble: Annotated[StartTrouble | None, Doc("Of an on-demand one: there was no room for one replica more.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusResponse:
    fleet: str
    version: str
    uptime_seconds: float
    hives: tuple[HiveSummary, ...]
    workers: tuple[WorkerSummary, ...]
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    requests_total: int = 0
    requests_active: int = 0
    planned: Annotated[tuple[PlannedWorker, ...], Doc("Workers of rbee.yaml beyond those in `workers`.")] = ()


@operation(family="", command="status", response=StatusResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Show the fleet as the queen sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueenCheckResponse:
    message: str


@operation(family="queen", command="check", response=QueenCheckResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class QueenCheck:
    """Ask the queen to narrate a few events: shows that jobs and streams work end to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueenStopResponse:
    """What was stopped before her, or goes on without her; she ends once this is told. The hive of her own machine
    ends with her."""

    hives_stopped: tuple[str, ...]
    workers_stopped: int
    #: `hive: why` of what could not be stopped.
    failed: tuple[str, ...] = ()
    hives_left: Annotated[tuple[str, ...], Doc("Those that answered last; without `cascade` only.")] = ()
    workers_left: Annotated[tuple[str, ...], Doc("Those that run; without `cascade` only.")] = ()


@operation(family="queen", command="stop", response=QueenStopResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class QueenStop:
    """Stop the queen: new requests are refused with 503, those in flight end. Hives and workers go on by default."""

    cascade: Annotated[bool, Doc("Stop all workers and hives of the fleet first.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestExplainResponse:
    decision: DecisionRecord


@operation(family="", command="explain", response=RequestExplainResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestExplain:
    """Tell why a request went where it went: what was known of it, of each worker, and the terms of the choice."""

    request_id: Annotated[
        str, Doc("`X-Request-Id` of its answer.", min_length=1, max_length=128, argument=True, example="req1")
    ]
