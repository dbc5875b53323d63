# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on a machine, as its hive tells it and as plan reads it. These are wire names too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rbee.core.doc import Doc

DeviceType = Literal["cpu", "cuda", "metal", "rocm", "vulkan"]
WorkerStatus = Literal["starting", "ready", "busy", "stopping", "dead", "failed"]
ModelStatus = Literal["available", "downloading", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What rbee made carries one: only marked things are ever removed, and only by their own fleet."""

    fleet: str
    spec_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A place to run a model. `id` is what `device:` in rbee.yaml says: cpu, cuda:0, metal:0."""

    id: str
    device_id: int
    device_type: DeviceType
    name: str
    vendor: str = ""
    vram_total_mb: int | None = None
    vram_free_mb: int | None = None
    vram_used_mb: int | None = None
    temperature_celsius: float | None = None
    power_usage_watts: float | None = None
    compute_capability: str | None = None
    cores: int | None = None
    in_use: bool = False
    workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A model in a hive's catalog. Sizes in bytes; `path` is on the hive."""

    id: str
    name: str
    path: str
    size_bytes: int
    status: ModelStatus
    source: str = ""
    revision: str | None = None
    commit: Annotated[str | None, Doc("Commit the revision resolved to.")] = None
    checksum: Annotated[str | None, Doc("SHA-256 of the file, hex.")] = None
    verified: bool = False
    format: str = "gguf"
    architecture: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    layers: int | None = None
    error: str | None = None
    mark: Mark | None = None
    added_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker process of a hive. `url` is what the queen is told; memory in MB."""

    worker_id: str
    model: str
    engine: str
    worker_type: str
    device: str
    port: int
    url: str
    pid: int
    status: WorkerStatus
    reason: Annotated[str | None, Doc("Why it failed or died, for a person.")] = None
    started_at: str = ""
    slots: int = 1
    context_length: int | None = None
    memory_mb: float | None = None
    mark: Mark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBinary:
    """An engine installed on a hive; `id` names engine, version and platform."""

    id: str
    engine: str
    version: str
    worker_type: str
    platform: str
    path: str
    size_bytes: int = 0
    python: Annotated[str, Doc("Interpreter that has the engine importable.")] = ""
    status: ModelStatus = "available"
    error: str | None = None
    mark: Mark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemInfo:
    """The machine. Memory and disk in bytes."""

    hostname: str
    os: str
    arch: str
    cpu_cores: int
    memory_total: int
    memory_available: int
    disk_free: int
    cpu_flags: tuple[str, ...] = field(default_factory=tuple)
