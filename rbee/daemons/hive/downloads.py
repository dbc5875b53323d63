# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads of models: one of a model at a time; who asks for the same again joins and hears the same."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from rbee.adapters import gguf, system
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.sources import Located, Source, default_id, fetch, place
from rbee.contracts.heartbeat import ModelChange
from rbee.contracts.operations.models import ModelDownload
from rbee.core.errors import Conflict, Interrupted, InvalidRequest, RbeeError
from rbee.core.records import ModelRecord

#: At most so many seconds between two progress events, and no more of them than that.
PROGRESS_EVERY = 0.2

Narrate = Callable[..., None]


@dataclass(slots=True)
class _Active:
    """A download that runs; `listeners` are the jobs that wait for it."""

    key: tuple[Any, ...]
    task: asyncio.Task[ModelRecord]
    listeners: list[Narrate] = field(default_factory=list)


class Downloads:
    """Fetches models into the catalog. Lives on one event loop."""

    def __init__(
        self, catalog: ModelCatalog, sources: Sequence[Source], on_change: Callable[[ModelChange], None]
    ) -> None:
        self._catalog = catalog
        self._sources = tuple(sources)
        self._on_change = on_change
        self._active: dict[str, _Active] = {}

    def active(self, model_id: str) -> bool:
        return model_id in self._active

    async def stop(self) -> None:
        """Cancel what runs; what was fetched stays for the next time."""
        tasks = [a.task for a in self._active.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def get(self, request: ModelDownload, narrate: Narrate) -> ModelRecord:
        """The model, there and verified. Cancelling the last who waits cancels the download (its part stays).

        Raises RbeeError: conflict when another source is being downloaded under that id, and what sources raise.
        """
        model_id = request.model_id or default_id(request.model)
        key = (request.model, request.revision, request.sha256)
        active = self._active.get(model_id)
        if active is None:
            source = next((s for s in self._sources if s.supports(request.model)), None)
            if source is None:
                raise InvalidRequest(
                    f"No source knows {request.model!r}.",
                    mend="Write hf:ORG/REPO/FILE.gguf, https://..., file:/path or builtin:NAME.",
                )
            one = _One(self, model_id, request, source)
            active = _Active(key, asyncio.create_task(one.run(), name=f"download-{model_id}"))
            self._active[model_id] = active
            active.task.add_done_callback(lambda _: self._active.pop(model_id, None))
        elif active.key != key:
            raise Conflict(
                f"Another download of {model_id!r} runs, from another source.", mend="Cancel that one or wait for it."
            )
        else:
            narrate("model_download_joined", f"{model_id} is being downloaded already.", model_id=model_id)
        return await self._wait(active, narrate)

    async def _wait(self, active: _Active, narrate: Narrate) -> ModelRecord:
        active.listeners.append(narrate)
        try:
            return await asyncio.shield(active.task)
        except asyncio.CancelledError:
            if active.task.cancelled():
                raise Interrupted("The download was cancelled.") from None
            raise
        finally:
            active.listeners.remove(narrate)
            if not active.listeners and not active.task.done():
                active.task.cancel()
                await asyncio.wait({active.task})

    def tell(self, model_id: str, name: str, message: str, **fields: Any) -> None:
        """Narrate to every job that waits for this model."""
        active = self._active.get(model_id)
        for narrate in list(active.listeners) if active else ():
            narrate(name, message, model_id=model_id, **fields)

    def changed(self, change: ModelChange) -> None:
        self._on_change(change)

    @property
    def catalog(self) -> ModelCatalog:
        return self._catalog


class _One:
    """One download, from its source's text to its record."""

    def __init__(self, downloads: Downloads, model_id: str, request: ModelDownload, source: Source) -> None:
        self.downloads, self.catalog = downloads, downloads.catalog
        self.model_id, self.request, self.source = model_id, request, source
        self.text = request.declared_source or request.model
        self.cancelled = Event()
        self._began = self._told = time.monotonic()
        self._first: int | None = None

    async def run(self) -> ModelRecord:
        tell, model_id = self.downloads.tell, self.model_id
        # A turn of the loop, so that whoever asked is listening.
        await asyncio.sleep(0)
        tell(model_id, "model_download_start", f"Downloading {model_id} from {self.source.name}.", source=self.text)
        located = await self.source.locate(self.request.model, self.request.revision)
        known = await asyncio.to_thread(self.catalog.get, model_id)
        if known is not None and self._same(known, located):
            record = await asyncio.to_thread(self._keep, known)
            tell(model_id, "model_download_exists", f"{model_id} is there already.", size_bytes=record.size_bytes)
            return record
        wanted, says = self.request.sha256, located.sha256
        if wanted and says and wanted != says:
            raise RbeeError(
                f"{self.source.name} has SHA-256 {says} for this file, wanted is {wanted}.",
                code="checksum_mismatch",
                mend="It has changed since it was locked: pin the old revision, or lock it anew.",
            )
        return await self._bring(located)

    def _same(self, known: ModelRecord, located: Located) -> bool:
        """Whether what is there is what the source has, as far as that can be told without fetching."""
        if known.status != "available" or known.source != self.text:
            return False
        digest = self.request.sha256 or located.sha256
        if digest is not None:
            return known.checksum == digest
        if located.path is not None and not self.request.declared_source:
            there = Path(known.path)
            return there.exists() and (there.samefile(located.path) or known.size_bytes == located.size)
        return known.revision == self.request.revision and known.commit == located.commit

    def _keep(self, known: ModelRecord) -> ModelRecord:
        kept = replace(known, mark=self.request.mark or known.mark, revision=self.request.revision)
        self.catalog.put(kept, system.now())
        return kept

    async def _bring(self, located: Located) -> ModelRecord:
        target = self.catalog.folder(self.model_id) / located.filename
        record = ModelRecord(
            id=self.model_id,
            name=self.model_id,
            path=str(target),
            size_bytes=located.size or 0,
            status="downloading",
            source=self.text,
            revision=self.request.revision,
            commit=located.commit,
            mark=self.request.mark,
        )
        await self._put(record)
        try:
            size, checksum = await self._bytes(located, target)
            header = await asyncio.to_thread(gguf.check_whole, target)
        except gguf.BadGguf as e:
            await asyncio.to_thread(target.unlink, missing_ok=True)
            await self._put(replace(record, status="failed", error=str(e)))
            raise
        except asyncio.CancelledError:
            self.cancelled.set()
            await self._put(
                replace(record, status="failed", error="The download was cancelled; what is there is kept.")
            )
            raise
        except Exception as e:
            with contextlib.suppress(OSError):
                await self._put(replace(record, status="failed", error=str(e)))
            raise
        done = replace(
            record,
            status="available",
            size_bytes=size,
            checksum=checksum,
            verified=bool(self.request.sha256 or located.sha256 or located.path),
            architecture=header.architecture or None,
            quantization=header.quantization,
            context_length=header.context_length or None,
            layers=header.shape.layers or None,
        )
        await self._put(done)
        await asyncio.to_thread(self._sweep, target)
        self.downloads.changed(ModelChange(action="added", model_id=self.model_id, size_gb=round(size / 1e9, 3)))
        return done

    async def _put(self, record: ModelRecord) -> None:
        await asyncio.shield(asyncio.to_thread(self.catalog.put, record, system.now()))

    async def _bytes(self, located: Located, target: Path) -> tuple[int, str]:
        if located.path is None:
            fetched = await fetch(located, target, self.request.sha256, self._progress)
            return fetched.size, fetched.sha256
        placing = asyncio.ensure_future(asyncio.to_thread(place, located.path, target, self._progress, self.cancelled))
        try:
            checksum = await asyncio.shield(placing)
        except asyncio.CancelledError:
            self.cancelled.set()
            with contextlib.suppress(RbeeError, OSError):
                await placing
            raise
        if self.request.sha256 and checksum != self.request.sha256:
            await asyncio.to_thread(target.unlink, missing_ok=True)
            raise RbeeError(
                f"{located.path} has SHA-256 {checksum}, not {self.request.sha256}.", code="checksum_mismatch"
            )
        # A file that apply pushed beside the models has done its duty.
        if located.path.parent == self.catalog.folder("x").parent / ".incoming":
            await asyncio.to_thread(located.path.unlink, missing_ok=True)
        return target.stat().st_size, checksum

    def _sweep(self, target: Path) -> None:
        """What an earlier file of this model, or an unfinished other one, has left in its folder."""
        for other in target.parent.iterdir():
            if other.name not in (target.name, "metadata.json") and not other.is_dir():
                other.unlink(missing_ok=True)

    def _progress(self, done: int, total: int | None) -> None:
        """From the loop or from a thread: narrating takes both."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now
        if now - self._told < PROGRESS_EVERY and done != total:
            return
        self._told = now
        speed = (done - self._first) / max(now - self._began, 1e-3)
        left = None if total is None or speed <= 0 else round((total - done) / speed, 1)
        of = f" of {total / 1e6:,.1f}" if total else ""
        self.downloads.tell(
            self.model_id,
            "model_download_progress",
            f"{self.model_id}: {done / 1e6:,.1f}{of} MB, {speed / 1e6:,.1f} MB/s",
            bytes_downloaded=done,
            total_bytes=total,
            speed_bytes_per_sec=int(speed),
            eta_seconds=left,
        )
