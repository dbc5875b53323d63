# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on models: ModelList, ModelGet, ModelDelete, ModelDownload."""

from __future__ import annotations

import asyncio

from rbee.adapters.catalog import ModelCatalog
from rbee.contracts.heartbeat import ModelChange
from rbee.contracts.operations import models as ops
from rbee.core.errors import Conflict, NotFound, RbeeError
from rbee.core.problems import did_you_mean
from rbee.core.records import ModelRecord
from rbee.daemons.hive.downloads import Downloads
from rbee.daemons.hive.supervisor import Supervisor
from rbee.daemons.jobs import Handler, JobContext


class ModelOps:
    """The catalog, made into jobs."""

    def __init__(self, catalog: ModelCatalog, downloads: Downloads, supervisor: Supervisor) -> None:
        self._catalog = catalog
        self._downloads = downloads
        self._supervisor = supervisor

    def handlers(self) -> dict[str, Handler]:
        return {
            "ModelList": self.list,
            "ModelGet": self.get,
            "ModelDelete": self.delete,
            "ModelDownload": self.download,
        }

    async def list(self, ctx: JobContext, request: ops.ModelList) -> ops.ModelListResponse:
        found = await asyncio.to_thread(self._catalog.list)
        ctx.narrate("model_list_result", f"{len(found)} model{'' if len(found) == 1 else 's'}.", count=len(found))
        return ops.ModelListResponse(models=tuple(found))

    async def get(self, ctx: JobContext, request: ops.ModelGet) -> ops.ModelGetResponse:
        return ops.ModelGetResponse(model=await self._known(request.model_id))

    async def delete(self, ctx: JobContext, request: ops.ModelDelete) -> ops.ModelDeleteResponse:
        """Refused while a worker has it open, or is to open it again, and while it is being downloaded."""
        record = await self._known(request.model_id)
        ctx.narrate("model_delete_start", f"Deleting {record.id}.", model_id=record.id)
        if users := self._supervisor.using(record.id):
            who = ", ".join(w.id for w in users)
            raise Conflict(f"The model {record.id!r} is used by {who}.", code="model_in_use", mend="Stop these first.")
        if self._downloads.active(record.id):
            raise Conflict(
                f"The model {record.id!r} is being downloaded.", code="model_in_use", mend="Cancel that first."
            )
        await asyncio.to_thread(self._catalog.remove, record.id)
        self._downloads.changed(ModelChange(action="removed", model_id=record.id, size_gb=record.size_bytes / 1e9))
        ctx.narrate("model_delete_complete", f"Deleted {record.id}.", model_id=record.id, size_bytes=record.size_bytes)
        return ops.ModelDeleteResponse(message=f"Deleted {record.id}.", model_id=record.id)

    async def download(self, ctx: JobContext, request: ops.ModelDownload) -> ops.ModelDownloadResponse:
        try:
            record = await self._downloads.get(request, ctx.narrate)
        except RbeeError as e:
            ctx.narrate("model_download_error", e.message, "error", model=request.model, code=e.code)
            raise
        ctx.narrate(
            "model_download_complete",
            f"{record.id} is there: {record.size_bytes / 1e6:,.1f} MB, SHA-256 {record.checksum}.",
            model_id=record.id,
            size_bytes=record.size_bytes,
            checksum=record.checksum,
        )
        return ops.ModelDownloadResponse(
            model_id=record.id,
            status=record.status,
            size_bytes=record.size_bytes,
            checksum=record.checksum or "",
            commit=record.commit,
        )

    async def _known(self, model_id: str) -> ModelRecord:
        record = await asyncio.to_thread(self._catalog.get, model_id)
        if record is None:
            known = [m.id for m in await asyncio.to_thread(self._catalog.list)]
            raise NotFound(
                f"There is no model {model_id!r} on this hive.",
                code="model_not_found",
                mend=did_you_mean(model_id, known),
            )
        return record
