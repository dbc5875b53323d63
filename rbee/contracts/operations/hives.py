# SPDX-License-Identifier: GPL-3.0-or-later
"""The hive itself and its devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rbee.contracts.operations.base import operation
from rbee.contracts.operations.workers import HiveId
from rbee.core.doc import Doc
from rbee.core.records import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceListResponse:
    devices: tuple[Device, ...]


@operation(family="device", command="list", response=DeviceListResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceList:
    """List the devices of a hive."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveCheckResponse:
    hive_id: str
    message: str


@operation(family="hive", command="check", response=HiveCheckResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class HiveCheck:
    """Ask a hive to narrate a few events: shows that jobs and streams work end to end."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveSummary:
    """A hive as the queen knows it; `last_seen` is RFC 3339 or empty."""

    hive_id: str
    url: str
    status: Literal["online", "stale", "unreachable", "unknown"]
    last_seen: str = ""
    error: str | None = None
    devices: tuple[Device, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveListResponse:
    hives: tuple[HiveSummary, ...]


@operation(family="hive", command="list", response=HiveListResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class HiveList:
    """List the hives that the queen knows."""

    status: Annotated[str | None, Doc("Only those with this status.")] = None
