# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on preloaded models: ModelPreload, ModelPreloadEvict, ModelPreloadStats."""

from __future__ import annotations

import asyncio
import time

from rbee.adapters.catalog import ModelCatalog
from rbee.contracts.operations import preload as ops
from rbee.core.errors import NotFound, RbeeError
from rbee.core.problems import did_you_mean
from rbee.core.records import ModelRecord
from rbee.daemons.hive.models.preload import Held, Preloader
from rbee.daemons.jobs import Handler, JobContext

#: Seconds between two `model_preload_progress` events.
TELL_EVERY = 0.5


class PreloadOps:
    """The preloader, made into jobs."""

    def __init__(self, models: ModelCatalog, preloader: Preloader) -> None:
        self._models = models
        self._preloader = preloader

    def handlers(self) -> dict[str, Handler]:
        return {"ModelPreload": self.load, "ModelPreloadEvict": self.evict, "ModelPreloadStats": self.stats}

    async def load(self, ctx: JobContext, request: ops.ModelPreload) -> ops.ModelPreloadResponse:
        """Cancelled, the reading ends at once and nothing is held."""
        record = await self._known(request.model_id)
        size = record.size_bytes
        ctx.narrate("model_preload_start", f"Reading {record.id} into memory.", model_id=record.id, size_bytes=size)
        began = time.monotonic()
        try:
            held = await self._preloader.load(
                record, _Progress(ctx, record.id), lambda other: _evicting(ctx, record.id, other)
            )
        except RbeeError as e:
            ctx.narrate("model_preload_error", e.message, "error", model_id=record.id, code=e.code)
            raise
        return await self._loaded(ctx, held, round((time.monotonic() - began) * 1000))

    async def _loaded(self, ctx: JobContext, held: Held, took_ms: int) -> ops.ModelPreloadResponse:
        resident = await asyncio.to_thread(held.resident)
        kept = "locked there" if held.locked else "kept there while nobody else needs the memory"
        ctx.narrate(
            "model_preload_complete",
            f"{held.model_id} is in memory ({resident / 1e6:,.1f} MB), {kept}.",
            model_id=held.model_id,
            size_bytes=held.size,
            resident_bytes=resident,
            locked=held.locked,
            preload_time_ms=took_ms,
        )
        return ops.ModelPreloadResponse(
            model_id=held.model_id,
            size_bytes=held.size,
            preload_time_ms=took_ms,
            resident_bytes=resident,
            locked=held.locked,
            evicted=held.evicted,
        )

    async def evict(self, ctx: JobContext, request: ops.ModelPreloadEvict) -> ops.ModelPreloadEvictResponse:
        model_id = request.model_id
        ctx.narrate("model_preload_evict_start", f"Letting go of {model_id}.", model_id=model_id)
        freed = await asyncio.shield(self._preloader.evict(model_id))
        text = f"Let go of {model_id}; {freed / 1e6:,.1f} MB are free."
        ctx.narrate("model_preload_evict_complete", text, model_id=model_id, freed_bytes=freed)
        return ops.ModelPreloadEvictResponse(model_id=model_id, freed_bytes=freed)

    async def stats(self, ctx: JobContext, request: ops.ModelPreloadStats) -> ops.ModelPreloadStatsResponse:
        cached = await self._preloader.cached()
        counts = self._preloader.counts
        starts = counts.hits + counts.misses
        ctx.narrate(
            "model_preload_stats",
            f"{len(cached)} models in memory; {counts.hits} of {starts} worker starts found theirs there.",
            models=len(cached),
            hits=counts.hits,
            misses=counts.misses,
        )
        return ops.ModelPreloadStatsResponse(
            total_size_bytes=sum(cached.values()),
            budget_bytes=await self._preloader.budget(),
            cached_models=tuple(sorted(cached)),
            hit_rate=round(counts.hits / starts, 4) if starts else 0.0,
            hits=counts.hits,
            misses=counts.misses,
            evictions=counts.evictions,
        )

    async def _known(self, model_id: str) -> ModelRecord:
        record = await asyncio.to_thread(self._models.get, model_id)
        if record is None:
            known = [m.id for m in await asyncio.to_thread(self._models.list)]
            raise NotFound(
                f"There is no model {model_id!r} on this hive.",
                code="model_not_found",
                mend=did_you_mean(model_id, known),
            )
        return record


class _Progress:
    """Narrates the first and the last step, and between them not more often than anyone reads."""

    def __init__(self, ctx: JobContext, model_id: str) -> None:
        self._ctx = ctx
        self._model_id = model_id
        self._began = time.monotonic()
        self._told_at = 0.0

    def __call__(self, done: int, size: int) -> None:
        now = time.monotonic()
        if now - self._told_at < TELL_EVERY and done < size:
            return
        self._told_at = now
        percent = 100.0 * done / size if size else 100.0
        self._ctx.narrate(
            "model_preload_progress",
            f"{self._model_id}: {done / 1e6:,.0f} of {size / 1e6:,.0f} MB ({percent:.0f} %).",
            model_id=self._model_id,
            bytes_loaded=done,
            total_bytes=size,
            percent=round(percent, 1),
            speed_bytes_per_sec=round(done / max(now - self._began, 0.001)),
        )


def _evicting(ctx: JobContext, model_id: str, other: str) -> None:
    text = f"Letting go of {other}, used least recently, to make room for {model_id}."
    ctx.narrate("model_preload_evicted", text, model_id=model_id, evicted=other)
