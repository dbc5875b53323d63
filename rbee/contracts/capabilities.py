# SPDX-License-Identifier: GPL-3.0-or-later
"""`GET /capabilities` of a hive: what is on the machine. The queen discovers by it, plan observes by it."""

from __future__ import annotations

from dataclasses import dataclass

from rbee.core.records import Device, ModelRecord, SystemInfo, WorkerBinary, WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """`release` is the digest of the rbee that runs; `config_digest` of the hive's settings (see `configs`)."""

    hive_id: str
    fleet: str
    version: str
    release: str
    config_digest: str
    started_at: str
    url: str
    system: SystemInfo
    devices: tuple[Device, ...] = ()
    models: tuple[ModelRecord, ...] = ()
    workers: tuple[WorkerRecord, ...] = ()
    worker_binaries: tuple[WorkerBinary, ...] = ()
    queen_url: str | None = None
