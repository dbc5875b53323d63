# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on installed engines: WorkerBinaryCatalogList, Get, Refresh. Read only: installing is apply's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from rbee.adapters.catalog import WorkerBinaryCatalog
from rbee.contracts.operations import binaries as ops
from rbee.core.errors import NotFound, RbeeError
from rbee.core.problems import did_you_mean
from rbee.core.records import WorkerBinary
from rbee.daemons.jobs import Handler, JobContext

T = TypeVar("T")


class BinaryOps:
    """The catalog of engines, made into jobs."""

    def __init__(self, binaries: WorkerBinaryCatalog) -> None:
        self._binaries = binaries

    def handlers(self) -> dict[str, Handler]:
        return {
            "WorkerBinaryCatalogList": self.list,
            "WorkerBinaryCatalogGet": self.get,
            "WorkerBinaryCatalogRefresh": self.refresh,
        }

    async def list(self, ctx: JobContext, request: ops.WorkerBinaryCatalogList) -> ops.WorkerBinaryCatalogListResponse:
        found = await self._read(self._binaries.list)
        for binary in found:
            _tell(ctx, "worker_binary_list_entry", binary)
        ctx.narrate(
            "worker_binary_list_result", f"{len(found)} engine{'' if len(found) == 1 else 's'}.", count=len(found)
        )
        return ops.WorkerBinaryCatalogListResponse(binaries=tuple(found))

    async def get(self, ctx: JobContext, request: ops.WorkerBinaryCatalogGet) -> ops.WorkerBinaryCatalogGetResponse:
        found = await self._read(self._binaries.list)
        binary = next((b for b in found if b.id == request.binary_id), None)
        if binary is None:
            raise NotFound(
                f"There is no engine {request.binary_id!r} on this hive.",
                code="binary_not_found",
                mend=did_you_mean(request.binary_id, [b.id for b in found])
                or (
                    f"It has: {', '.join(b.id for b in found)}."
                    if found
                    else "It has none: `rbee apply` installs them."
                ),
            )
        _tell(ctx, "worker_binary_get_result", binary)
        return ops.WorkerBinaryCatalogGetResponse(binary=binary)

    async def refresh(
        self, ctx: JobContext, request: ops.WorkerBinaryCatalogRefresh
    ) -> ops.WorkerBinaryCatalogRefreshResponse:
        """Against the refresh before this one, or the hive's start."""
        ctx.narrate("worker_binary_refresh_start", "Looking at the disk for engines.")
        scan = await self._read(self._binaries.refresh)
        for binary in scan.found:
            if binary.id in scan.added or binary.status == "failed":
                _tell(ctx, "worker_binary_refresh_entry", binary)
        for gone in scan.removed:
            ctx.narrate("worker_binary_refresh_removed", f"{gone} is gone.", binary_id=gone)
        ctx.narrate(
            "worker_binary_refresh_result",
            f"{len(scan.found)} found, {len(scan.added)} added, {len(scan.removed)} removed.",
            found=len(scan.found),
            added=len(scan.added),
            removed=len(scan.removed),
        )
        return ops.WorkerBinaryCatalogRefreshResponse(
            binaries_found=len(scan.found), binaries_added=len(scan.added), binaries_removed=len(scan.removed)
        )

    async def _read(self, read: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(read)
        except OSError as e:
            raise RbeeError(f"The catalog of engines cannot be read: {e}", code="catalog_unreadable") from e


def _tell(ctx: JobContext, name: str, binary: WorkerBinary) -> None:
    if binary.error:
        ctx.narrate(name, f"{binary.id}: {binary.error}", "warning", binary_id=binary.id, status=binary.status)
    else:
        text = f"{binary.id}: reads {', '.join(binary.formats) or 'nothing'}, for {binary.worker_type}"
        ctx.narrate(name, text, binary_id=binary.id, status=binary.status)
