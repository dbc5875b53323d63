# SPDX-License-Identifier: GPL-3.0-or-later
"""Models on a hive's disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rbee.contracts.operations.base import operation
from rbee.contracts.operations.workers import HiveId
from rbee.core.doc import Doc
from rbee.core.records import Mark, ModelRecord

ModelId = Annotated[str, Doc("Id of a model in the catalog.", min_length=1, example="bee-tiny")]
Force = Annotated[bool, Doc("Also while a worker uses it: that worker is stopped first.")]


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
    """`chat_template` is the text that the model's file holds, read now."""

    model: ModelRecord
    chat_template: str | None = None


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
    """Delete a model from a hive's disk; refused while a worker uses it, unless forced."""

    hive_id: HiveId = ""
    model_id: ModelId
    force: Force = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNotDeleted:
    model_id: str
    error: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeleteBatchResponse:
    """Each one by itself: what could not be deleted does not keep the others."""

    deleted: tuple[str, ...]
    failed: tuple[ModelNotDeleted, ...] = ()


@operation(family="model", command="delete-batch", response=ModelDeleteBatchResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeleteBatch:
    """Delete several models from a hive's disk."""

    hive_id: HiveId = ""
    model_ids: Annotated[
        tuple[str, ...], Doc("Ids of models in the catalog.", min_items=1, max_items=10000, example=["bee-tiny"])
    ]
    force: Force = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVerifyResponse:
    """`checksum` is of what is on the disk; `expected` is what it was held against: the source's own digest where
    the source could be asked and tells one, else the one recorded when it was fetched."""

    model_id: str
    verified: bool
    checksum: str
    expected: str | None
    against: Literal["source", "recorded", "nothing"]
    size_bytes: int


@operation(family="model", command="verify", response=ModelVerifyResponse, served_by=("hive",), lane="verify")
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVerify:
    """Read a model's files and compare their SHA-256 with the source's own; a wrong one is marked failed."""

    hive_id: HiveId = ""
    model_id: ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDownloadResponse:
    model_id: str
    status: str
    size_bytes: int
    checksum: str
    commit: str | None = None


@operation(family="model", command="download", response=ModelDownloadResponse, served_by=("hive",), lane="fetch")
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDownload:
    """Fetch a model from its source into the catalog: resumed when half there, verified, then published."""

    hive_id: HiveId = ""
    model: Annotated[
        str,
        Doc(
            "Source: hf:ORG/REPO[/FILE][:QUANTIZATION], ollama:NAME:TAG, GH:OWNER/REPO@TAG, https://..., "
            "file:PATH on the hive, builtin:NAME.",
            min_length=1,
            example="builtin:bee-tiny",
        ),
    ]
    model_id: Annotated[str | None, Doc("Id to keep it under; default: made from the source.")] = None
    revision: Annotated[str | None, Doc("Branch, tag or commit (Hugging Face).")] = None
    commit: Annotated[
        str | None, Doc("Commit to take, wherever `revision` points to by now: rbee.lock's.", min_length=1)
    ] = None
    sha256: Annotated[str | None, Doc("Digest it must have.", pattern=r"^[0-9a-f]{64}$")] = None
    declared_source: Annotated[
        str | None, Doc("Source to record instead of `model`, when apply pushed the file here.")
    ] = None
    mark: Annotated[Mark | None, Doc("The fleet that owns it.")] = None
