# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on models: ModelList, ModelGet, ModelDelete, ModelDeleteBatch, ModelVerify, ModelDownload."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.model_facts import template_of
from rbee.adapters.process import Step
from rbee.contracts.heartbeat import ModelChange
from rbee.contracts.operations import models as ops
from rbee.core.errors import Conflict, NotFound, RbeeError
from rbee.core.problems import did_you_mean
from rbee.core.records import ModelRecord
from rbee.daemons.hive.models.downloads import Downloads
from rbee.daemons.hive.models.verify import Verifying
from rbee.daemons.hive.workers.managed import Managed
from rbee.daemons.hive.workers.supervisor import Supervisor
from rbee.daemons.jobs import Handler, JobContext

#: So many are told one by one; the answer has them all.
TOLD = 100


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
            "ModelDeleteBatch": self.delete_batch,
            "ModelVerify": self.verify,
            "ModelDownload": self.download,
        }

    async def list(self, ctx: JobContext, request: ops.ModelList) -> bytes:
        """A ModelListResponse in JSON. The first hundred are told one by one too."""
        try:
            found, made = await asyncio.to_thread(self._catalog.listed, self._downloads.going())
        except OSError as e:
            raise _disk(e) from e
        for record in found[:TOLD]:
            ctx.narrate(
                "model_list_entry",
                f"{record.id}: {record.size_bytes / 1e6:,.1f} MB, {record.status}",
                model_id=record.id,
                size_bytes=record.size_bytes,
                status=record.status,
            )
        rest = f", {len(found) - TOLD} more than told here" if len(found) > TOLD else ""
        text = f"{len(found)} model{'' if len(found) == 1 else 's'}{rest}." if found else "No models."
        ctx.narrate("model_list_result", text, count=len(found))
        return made

    def _as_now(self, record: ModelRecord) -> ModelRecord:
        """With how far its download is; one that is to replace a model leaves that one `available` until then."""
        progress = self._downloads.progress(record.id)
        return record if progress is None else replace(record, download_progress=progress)

    async def get(self, ctx: JobContext, request: ops.ModelGet) -> ops.ModelGetResponse:
        record = self._as_now(await self._known(request.model_id))
        template = None
        if record.chat_template and record.status == "available":
            template = await asyncio.to_thread(template_of, record)
        ctx.narrate(
            "model_get_result",
            f"{record.id}: {record.size_bytes / 1e6:,.1f} MB, {record.status}",
            model_id=record.id,
            size_bytes=record.size_bytes,
            status=record.status,
        )
        return ops.ModelGetResponse(model=record, chat_template=template)

    async def delete(self, ctx: JobContext, request: ops.ModelDelete) -> ops.ModelDeleteResponse:
        """Refused while it is being downloaded, and, unless forced, while a worker has it open or is to open it
        again."""
        try:
            record = await self._known(request.model_id)
            await self._delete(ctx, record, force=request.force, told=True)
        except RbeeError as e:
            ctx.narrate("model_delete_error", e.message, "error", model_id=request.model_id, code=e.code)
            raise
        return ops.ModelDeleteResponse(message=f"Deleted {record.id}.", model_id=record.id)

    async def delete_batch(self, ctx: JobContext, request: ops.ModelDeleteBatch) -> ops.ModelDeleteBatchResponse:
        """Each by itself, in the order given; the first hundred are told one by one."""
        wanted = tuple(dict.fromkeys(request.model_ids))
        ctx.narrate("model_delete_batch_start", f"Deleting {len(wanted)} models.", count=len(wanted))
        deleted: list[str] = []
        failed: list[ops.ModelNotDeleted] = []
        for number, model_id in enumerate(wanted):
            told = number < TOLD
            try:
                record = await self._known(model_id, hint=False)
                await self._delete(ctx, record, force=request.force, told=told)
                deleted.append(model_id)
            except RbeeError as e:
                failed.append(ops.ModelNotDeleted(model_id=model_id, error=str(e), code=e.code))
                if told:
                    ctx.narrate("model_delete_error", e.message, "error", model_id=model_id, code=e.code)
        ctx.narrate(
            "model_delete_batch_complete",
            f"Deleted {len(deleted)} of {len(wanted)} models.",
            "warning" if failed else "info",
            deleted=len(deleted),
            failed=len(failed),
        )
        return ops.ModelDeleteBatchResponse(deleted=tuple(deleted), failed=tuple(failed))

    async def _delete(self, ctx: JobContext, record: ModelRecord, *, force: bool, told: bool) -> None:
        if told:
            ctx.narrate("model_delete_start", f"Deleting {record.id}.", model_id=record.id)
        self._not_downloading(record.id)
        # While these are stopped another may have been started.
        while users := self._supervisor.using(record.id):
            if not force:
                # An unloaded one has nothing open, but comes back with the model that it was given.
                who = ", ".join(f"{w.id} (unloaded)" if w.state.status == "unloaded" else w.id for w in users)
                raise Conflict(
                    f"The model {record.id!r} is used by {who}.",
                    code="model_in_use",
                    mend="Remove these workers first, or force it, which removes them too.",
                )
            await self._stop(ctx, record.id, users)
        self._not_downloading(record.id)
        try:
            await asyncio.to_thread(self._catalog.remove, record.id)
        except OSError as e:
            raise _disk(e) from e
        self._downloads.changed(ModelChange(action="removed", model_id=record.id, size_gb=record.size_bytes / 1e9))
        if told:
            text = f"Deleted {record.id}: {record.size_bytes / 1e6:,.1f} MB are free."
            ctx.narrate("model_delete_complete", text, model_id=record.id, size_bytes=record.size_bytes)

    def _not_downloading(self, model_id: str) -> None:
        if self._downloads.active(model_id):
            raise Conflict(
                f"The model {model_id!r} is being downloaded.", code="model_in_use", mend="Cancel that first."
            )

    async def _stop(self, ctx: JobContext, model_id: str, users: Sequence[Managed]) -> None:
        """Stop the workers that use it, at once; a cancelled job leaves none half stopped."""

        def one(worker: Managed) -> asyncio.Future[None]:
            fields: dict[str, Any] = {"model_id": model_id, "worker_id": worker.id, "pid": worker.state.pid}
            ctx.narrate("model_delete_worker_stop", f"Stopping worker {worker.id}, which uses it.", **fields)

            def step(name: Step) -> None:
                text = "Asked it to end; it may finish its requests." if name == "sigterm" else "It did not go: killed."
                ctx.narrate(f"model_delete_worker_{name}", text, **fields)

            return asyncio.ensure_future(self._supervisor.end(worker, step))

        await asyncio.shield(asyncio.gather(*(one(worker) for worker in users)))

    async def verify(self, ctx: JobContext, request: ops.ModelVerify) -> ops.ModelVerifyResponse:
        """Reads every byte of it."""
        model_id = request.model_id
        try:
            known = await self._known(model_id)
            self._not_downloading(model_id)
            text = f"Verifying {model_id}: {known.size_bytes / 1e6:,.1f} MB."
            ctx.narrate("model_verify_start", text, model_id=model_id, size_bytes=known.size_bytes)
            # What is written of it, not what is seen of its files: those are looked at now.
            record = await asyncio.to_thread(self._catalog.written, model_id) or known
            done = await Verifying(ctx, self._catalog, self._downloads.locate, record).run()
        except RbeeError as e:
            ctx.narrate("model_verify_error", e.message, "error", model_id=model_id, code=e.code)
            raise
        held = {"source": "what its source says", "recorded": "what was downloaded", "nothing": "nothing"}
        ctx.narrate(
            "model_verify_complete",
            f"{model_id} was held against {held[done.against]}: SHA-256 {done.checksum}.",
            "info" if done.verified else "warning",
            model_id=model_id,
            verified=done.verified,
            against=done.against,
            checksum=done.checksum,
            size_bytes=done.size_bytes,
        )
        return done

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

    async def _known(self, model_id: str, *, hint: bool = True) -> ModelRecord:
        """Raises NotFound; with `hint` it says which are there."""

        def look() -> ModelRecord:
            record = self._catalog.get(model_id)
            if record is not None:
                return record
            known = [m.id for m in self._catalog.list()] if hint else []
            raise NotFound(
                f"There is no model {model_id!r} on this hive.",
                code="model_not_found",
                mend=did_you_mean(model_id, known),
            )

        try:
            return await asyncio.to_thread(look)
        except OSError as e:
            raise _disk(e) from e


def _disk(e: OSError) -> RbeeError:
    return RbeeError(f"The hive's disk refuses: {e.strerror or e}: {e.filename}.", code="disk_error")
