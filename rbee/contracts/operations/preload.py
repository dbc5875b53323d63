# SPDX-License-Identifier: GPL-3.0-or-later
"""Model files held in memory before a worker asks for them, so that it starts faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rbee.contracts.operations.base import operation
from rbee.contracts.operations.models import ModelId
from rbee.contracts.operations.workers import HiveId
from rbee.core.doc import Doc


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPreloadResponse:
    """`resident_bytes` were in memory at the end; `locked` ones stay there whatever else the machine does."""

    model_id: str
    size_bytes: int
    preload_time_ms: int
    resident_bytes: int
    locked: bool
    evicted: Annotated[tuple[str, ...], Doc("Models that had to go for it.")] = ()


@operation(family="preload", command="load", response=ModelPreloadResponse, served_by=("hive",), lane="load")
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPreload:
    """Read a model's files into memory, so that a worker starts faster."""

    hive_id: HiveId = ""
    model_id: ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPreloadEvictResponse:
    model_id: str
    freed_bytes: int


@operation(family="preload", command="evict", response=ModelPreloadEvictResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPreloadEvict:
    """Let go of a preloaded model."""

    hive_id: HiveId = ""
    model_id: ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPreloadStatsResponse:
    """Hits and misses are worker starts since the hive started whose model was, or was not, in memory."""

    total_size_bytes: int
    budget_bytes: int
    cached_models: tuple[str, ...]
    hit_rate: float
    hits: int
    misses: int
    evictions: int


@operation(family="preload", command="stats", response=ModelPreloadStatsResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPreloadStats:
    """Show what is preloaded, and whether it helped."""

    hive_id: HiveId = ""
