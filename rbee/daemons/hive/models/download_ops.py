# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on downloads: DownloadList, DownloadPause, DownloadResume, DownloadCancel."""

from __future__ import annotations

from rbee.contracts.operations import downloads as ops
from rbee.daemons.hive.models.downloads import Downloads
from rbee.daemons.jobs import Handler, JobContext


class DownloadOps:
    """The downloads, made into jobs."""

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads

    def handlers(self) -> dict[str, Handler]:
        return {
            "DownloadList": self.list,
            "DownloadPause": self.pause,
            "DownloadResume": self.resume,
            "DownloadCancel": self.cancel,
        }

    async def list(self, ctx: JobContext, request: ops.DownloadList) -> ops.DownloadListResponse:
        found = self._downloads.list()
        ctx.narrate("download_list_result", f"{len(found)} download{'' if len(found) == 1 else 's'}.", count=len(found))
        return ops.DownloadListResponse(downloads=found)

    async def pause(self, ctx: JobContext, request: ops.DownloadPause) -> ops.DownloadPauseResponse:
        paused = await self._downloads.pause(request.download_id)
        ctx.narrate(
            "model_download_paused",
            f"{paused.model_id} is paused at {paused.bytes_here / 1e6:,.1f} MB.",
            model_id=paused.model_id,
            bytes_downloaded=paused.bytes_here,
        )
        return ops.DownloadPauseResponse(
            download_id=paused.id, status=paused.status, bytes_downloaded=paused.bytes_here
        )

    async def resume(self, ctx: JobContext, request: ops.DownloadResume) -> ops.DownloadResumeResponse:
        """Answers when it runs again, not when it has ended: DownloadList and ModelGet tell how far it is."""
        resumed = await self._downloads.resume(request.download_id)
        ctx.narrate(
            "model_download_resumed",
            f"{resumed.model_id} goes on from {resumed.bytes_here / 1e6:,.1f} MB.",
            model_id=resumed.model_id,
            bytes_downloaded=resumed.bytes_here,
        )
        return ops.DownloadResumeResponse(
            download_id=resumed.id, status=resumed.status, bytes_downloaded=resumed.bytes_here
        )

    async def cancel(self, ctx: JobContext, request: ops.DownloadCancel) -> ops.DownloadCancelResponse:
        download = self._downloads.find(request.download_id)
        thrown = await self._downloads.cancel(request.download_id)
        ctx.narrate(
            "model_download_cancelled",
            f"The download of {download.model_id} was given up; {thrown / 1e6:,.1f} MB were thrown away.",
            model_id=download.model_id,
            bytes_downloaded=thrown,
        )
        return ops.DownloadCancelResponse(download_id=download.id, bytes_downloaded=thrown)
