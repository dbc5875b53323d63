# SPDX-License-Identifier: GPL-3.0-or-later
"""Models on a hive's disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rbee.contracts.operations.base import operation
from rbee.contracts.operations.workers import HiveId
from rbee.core.doc import Doc
from rbee.core.records import Mark, ModelRecord

ModelId = Annotated[str, Doc("Id of a model in the catalog.", min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelListResponse:
    models: tuple[ModelRecord, ...]


@operation(family="model", command="list", response=ModelListResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelList:
    """List the models on a hive."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGetResponse:
    model: ModelRecord


@operation(family="model", command="get", response=ModelGetResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGet:
    """Show one model."""

    hive_id: HiveId = ""
    model_id: ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeleteResponse:
    message: str
    model_id: str


@operation(family="model", command="delete", response=ModelDeleteResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDelete:
    """Delete a model from a hive's disk; refused while a worker uses it."""

    hive_id: HiveId = ""
    model_id: ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDownloadResponse:
    model_id: str
    status: str
    size_bytes: int
    checksum: str
    commit: str | None = None


@operation(family="model", command="download", response=ModelDownloadResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDownload:
    """Fetch a model from its source into the catalog: resumed when half there, verified, then published."""

    hive_id: HiveId = ""
    model: Annotated[
        str, Doc("Source: hf:ORG/REPO/FILE.gguf, https://..., file:PATH on the hive, builtin:NAME.", min_length=1)
    ]
    model_id: Annotated[str | None, Doc("Id to keep it under; default: made from the source.")] = None
    revision: Annotated[str | None, Doc("Branch, tag or commit (Hugging Face).")] = None
    sha256: Annotated[str | None, Doc("Digest it must have.", pattern=r"^[0-9a-f]{64}$")] = None
    declared_source: Annotated[
        str | None, Doc("Source to record instead of `model`, when apply pushed the file here.")
    ] = None
    mark: Annotated[Mark | None, Doc("The fleet that owns it.")] = None
