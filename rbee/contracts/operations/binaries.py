# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines installed on a hive: put there by `rbee apply`, only read here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rbee.contracts.operations.base import operation
from rbee.contracts.operations.workers import HiveId
from rbee.core.doc import Doc
from rbee.core.records import WorkerBinary


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBinaryCatalogListResponse:
    binaries: tuple[WorkerBinary, ...]


@operation(family="binary", command="list", response=WorkerBinaryCatalogListResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBinaryCatalogList:
    """List the engines installed on a hive."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBinaryCatalogGetResponse:
    binary: WorkerBinary


@operation(family="binary", command="get", response=WorkerBinaryCatalogGetResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBinaryCatalogGet:
    """Show one installed engine."""

    hive_id: HiveId = ""
    binary_id: Annotated[str, Doc("Id of the engine's binary.", min_length=1, example="llama-cpp-linux-x86_64")]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBinaryCatalogRefreshResponse:
    """Against what the hive knew before."""

    binaries_found: int
    binaries_added: int
    binaries_removed: int


@operation(family="binary", command="refresh", response=WorkerBinaryCatalogRefreshResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBinaryCatalogRefresh:
    """Look at the disk again for installed engines."""

    hive_id: HiveId = ""
