# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on a machine, as its hive tells it and as plan reads it. These are wire names too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rbee.core.doc import Doc

DeviceType = Literal["cpu", "cuda", "metal", "rocm", "vulkan"]
WorkerStatus = Literal["starting", "ready", "busy", "stopping", "dead", "failed", "unloaded"]
HealthStatus = Literal["healthy", "unhealthy", "unknown"]
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
    fan_speed_percent: float | None = None
    utilization_percent: float | None = None
    compute_capability: str | None = None
    cores: int | None = None
    in_use: bool = False
    workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One of a model's files; `name` is relative to the model's folder. `sha256` in hex, where it is known."""

    name: str
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadProgress:
    """How far a download is; None for what nobody can know yet."""

    bytes_downloaded: int
    total_bytes: int | None
    speed_bytes_per_sec: int
    eta_seconds: float | None
    started_at: str
    source_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A model in a hive's catalog. Sizes in bytes; `path` is on the hive: the file, the first of a split model's
    files, or the folder of an MLC model. What a model does not say is None."""

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
    heads: int | None = None
    kv_heads: int | None = None
    embedding_length: int | None = None
    parameters: Annotated[int | None, Doc("Weights, counted.")] = None
    parameter_count: Annotated[str | None, Doc("The same for a person: 1.2B.")] = None
    tokenizer: str | None = None
    chat_template: Annotated[bool, Doc("Whether it has one; ModelGet shows it.")] = False
    gguf_version: int | None = None
    tensor_count: int | None = None
    kv_count: int | None = None
    files: Annotated[tuple[ModelFile, ...], Doc("All of them, when it has several.")] = ()
    download_progress: Annotated[DownloadProgress | None, Doc("While it is being downloaded.")] = None
    error: str | None = None
    mark: Mark | None = None
    added_at: str = ""
    updated_at: str = ""
    last_accessed: str = ""


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
    next: Annotated[
        Literal["unloaded", "starting"] | None,
        Doc("While its process is being ended, what it will be then; none: it goes for good."),
    ] = None
    started_at: str = ""
    slots: int = 1
    context_length: int | None = None
    memory_mb: float | None = None
    vram_mb: Annotated[int | None, Doc("Of a GPU worker, as its driver tells by process.")] = None
    cpu_percent: Annotated[float | None, Doc("Of one core; worker and engine together.")] = None
    predicted_memory_mb: Annotated[float | None, Doc("What it was granted at its start.")] = None
    queen_url: str | None = None
    health_url: str = ""
    health_status: HealthStatus = "unknown"
    last_health_check: str = ""
    last_seen: Annotated[str, Doc("When it last answered.")] = ""
    uptime_seconds: int = 0
    restarts: int = 0
    last_end: Annotated[str | None, Doc("Why the process before this one ended.")] = None
    slots_busy: int = 0
    requests_handled: int = 0
    tokens_generated: int = 0
    avg_tokens_per_sec: float = 0.0
    errors: int = 0
    idle_timeout: float | None = None
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
    formats: Annotated[tuple[str, ...], Doc("Model formats it reads.")] = ()
    added_at: str = ""
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
