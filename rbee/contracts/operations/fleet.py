# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.contracts.operations.base import operation
from rbee.contracts.operations.hives import HiveSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSummary:
    """A worker for `rbee status`: the heartbeat, whether requests go to it, and why not."""

    worker: WorkerHeartbeat
    routable: bool
    age_seconds: float
    reason: str | None = None


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
