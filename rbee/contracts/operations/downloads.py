# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads of models: what runs, what waits, what was left unfinished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rbee.contracts.operations.base import operation
from rbee.contracts.operations.workers import HiveId
from rbee.core.doc import Doc

DownloadStatus = Literal["queued", "downloading", "paused", "completed", "failed"]
DownloadId = Annotated[str, Doc("Id of the download, or of its model.", min_length=1, example="bee-tiny")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadInfo:
    """One download. Sizes in bytes, `eta_seconds` and `total_bytes` None while nobody can know them."""

    download_id: str
    model_id: str
    source: str
    status: DownloadStatus
    bytes_downloaded: int = 0
    total_bytes: int | None = None
    speed_bytes_per_sec: int = 0
    eta_seconds: float | None = None
    started_at: str = ""
    job_ids: Annotated[tuple[str, ...], Doc("Jobs that wait for it.")] = ()
    error: Annotated[str | None, Doc("Why it failed, for a person.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadListResponse:
    downloads: tuple[DownloadInfo, ...]


@operation(family="download", command="list", response=DownloadListResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadList:
    """List the downloads of a hive: running, queued, paused, and failed ones that can go on."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadPauseResponse:
    download_id: str
    status: DownloadStatus
    bytes_downloaded: int


@operation(family="download", command="pause", response=DownloadPauseResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadPause:
    """Pause a download; what is there stays, also over a restart of the hive."""

    hive_id: HiveId = ""
    download_id: DownloadId


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadResumeResponse:
    download_id: str
    status: DownloadStatus
    bytes_downloaded: int


@operation(family="download", command="resume", response=DownloadResumeResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadResume:
    """Go on with a download that is paused or has failed, from where it stopped."""

    hive_id: HiveId = ""
    download_id: DownloadId


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadCancelResponse:
    download_id: str
    bytes_downloaded: int


@operation(family="download", command="cancel", response=DownloadCancelResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadCancel:
    """Give a download up: the jobs that wait for it end, and what was fetched is thrown away."""

    hive_id: HiveId = ""
    download_id: DownloadId
