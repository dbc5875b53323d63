# SPDX-License-Identifier: GPL-3.0-or-later
"""One model brought into the catalog: located, fetched or placed, checked, published."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

from rbee.adapters import gguf, system
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.model_facts import described
from rbee.adapters.sources import Located, Source, SourceFile, fetch, place
from rbee.contracts.heartbeat import ModelChange
from rbee.contracts.operations.models import ModelDownload
from rbee.core.errors import Insufficient, RbeeError
from rbee.core.records import ModelRecord

#: At least so many seconds between two progress events.
PROGRESS_EVERY = 0.2

#: Tells every job that waits, from the loop or from a thread: (event, message, fields).
Tell = Callable[..., None]


class Bringing:
    """One download, from its source's text to its record."""

    def __init__(
        self,
        catalog: ModelCatalog,
        source: Source,
        request: ModelDownload,
        model_id: str,
        tell: Tell,
        on_change: Callable[[ModelChange], None],
    ) -> None:
        self.catalog, self.source, self.request, self.model_id = catalog, source, request, model_id
        self.tell, self.on_change = tell, on_change
        self.text = request.declared_source or request.model
        self.cancelled = Event()
        self._began = self._told = time.monotonic()
        self._first: int | None = None

    async def run(self) -> ModelRecord:
        """Raises RbeeError; what the disk refuses is one too."""
        try:
            return await self._run()
        except OSError as e:
            where = e.filename or self.catalog.folder(self.model_id)
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Insufficient(f"The disk is full: {where}.", mend="Make room on the hive's machine.") from e
            raise RbeeError(f"The hive's disk refuses: {e.strerror or e}: {where}.", code="disk_error") from e

    async def _run(self) -> ModelRecord:
        tell, name = self.tell, self.model_id
        # A turn of the loop, so that whoever asked is listening.
        await asyncio.sleep(0)
        tell("model_download_start", f"Downloading {name} from {self.source.name}.", source=self.text)
        located = await self.source.locate(self.request.model, self.request.revision)
        known = await asyncio.to_thread(self.catalog.get, name)
        if known is not None and self._same(known, located):
            record = await asyncio.to_thread(self._keep, known)
            tell("model_download_exists", f"{name} is there already.", size_bytes=record.size_bytes)
            return record
        wanted, says = self.request.sha256, located.files[0].sha256
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
        digest = self.request.sha256 or located.files[0].sha256
        if digest is not None:
            return known.checksum == digest
        if located.files[0].path is not None and not self.request.declared_source:
            there = Path(known.path)
            return there.exists() and (there.samefile(located.files[0].path) or known.size_bytes == located.size)
        return known.revision == self.request.revision and known.commit == located.commit

    def _keep(self, known: ModelRecord) -> ModelRecord:
        kept = replace(known, mark=self.request.mark or known.mark, revision=self.request.revision)
        self.catalog.put(kept, system.now())
        return kept

    async def _bring(self, located: Located) -> ModelRecord:
        target = self.catalog.folder(self.model_id) / located.files[0].filename
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
            size, checksum = await self._bytes(located.files[0], target)
            facts = await asyncio.to_thread(described, replace(record, size_bytes=size))
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
            facts,
            status="available",
            checksum=checksum,
            verified=bool(self.request.sha256 or located.files[0].sha256 or located.files[0].path),
        )
        await self._put(done)
        await asyncio.to_thread(self._sweep, target)
        self.on_change(ModelChange(action="added", model_id=self.model_id, size_gb=round(size / 1e9, 3)))
        return done

    async def _put(self, record: ModelRecord) -> None:
        await asyncio.shield(asyncio.to_thread(self.catalog.put, record, system.now()))

    async def _bytes(self, located: SourceFile, target: Path) -> tuple[int, str]:
        if located.path is None:
            fetched = await fetch(located, target, self.request.sha256, self._progress)
            return fetched.size, fetched.sha256
        pushed = located.path.parent == self.catalog.folder("x").parent / ".incoming"
        placing = asyncio.ensure_future(
            asyncio.to_thread(place, located.path, target, self._progress, self.cancelled, ours=pushed)
        )
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
        if pushed:
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
        self.tell(
            "model_download_progress",
            f"{self.model_id}: {done / 1e6:,.1f}{of} MB, {speed / 1e6:,.1f} MB/s",
            bytes_downloaded=done,
            total_bytes=total,
            speed_bytes_per_sec=int(speed),
            eta_seconds=left,
        )
