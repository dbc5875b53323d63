# SPDX-License-Identifier: GPL-3.0-or-later
"""One model brought into the catalog: located, fetched or placed, checked, published."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from rbee.adapters import system
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.model_facts import described
from rbee.adapters.sources import Located, Source, unchanged
from rbee.contracts.heartbeat import ModelChange
from rbee.contracts.operations.models import ModelDownload
from rbee.core.errors import Conflict, Insufficient, RbeeError
from rbee.core.model_files import together
from rbee.core.records import ModelFile, ModelRecord
from rbee.core.redact import Redactor
from rbee.daemons.hive.models.meter import Meter
from rbee.daemons.hive.models.model_files import INCOMING, Files
from rbee.daemons.hive.models.unfinished import DownloadFolder, Unfinished

#: At least so many seconds between two progress events.
PROGRESS_EVERY = 0.2

#: Tells every job that waits, from the loop or from a thread: (event, message, fields).
Tell = Callable[..., None]


class Bringing:
    """One download, from its source's text to its record; `turn` is waited for before anything is fetched."""

    def __init__(
        self,
        catalog: ModelCatalog,
        source: Source,
        state: Unfinished,
        request: ModelDownload,
        tell: Tell,
        on_change: Callable[[ModelChange], None],
        turn: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self.catalog, self.source, self.request, self.state = catalog, source, request, state
        self.model_id = state.model_id
        self.tell, self.on_change, self.turn = tell, on_change, turn
        self.text = Redactor().text(request.declared_source or request.model)
        self.folder = DownloadFolder(catalog.folder(self.model_id))
        self.meter = Meter(state.total_bytes)
        #: Whether anything of it is on the disk, to be gone on with.
        self.begun = False
        #: The model as it was before, when it is one that works.
        self.older: ModelRecord | None = None
        self._record: ModelRecord | None = None
        self._told = 0.0

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
        located = await self.source.locate(self.request.model, self.request.commit or self.request.revision)
        holder = await asyncio.to_thread(self.catalog.holder, name)
        if holder not in (None, name):
            raise Conflict(f"{name!r} would be in the folder of the model {holder!r}.", mend="Give it another id.")
        known = await asyncio.to_thread(self.catalog.get, name)
        if known is not None and self._same(known, located):
            record = await asyncio.to_thread(self._keep, known, located)
            tell("model_download_exists", f"{name} is there already.", size_bytes=record.size_bytes)
            return record
        if known is not None and known.status == "available":
            if self.request.model_id is None and known.source != self.text:
                raise Conflict(
                    f"There is a model {name!r} already, from {known.source or 'elsewhere'}.",
                    code="model_exists",
                    mend="Give this one a model id of its own, or delete that one.",
                )
            self.older = known
        wanted, says = self.request.sha256, said_digest(located)
        if wanted and says and wanted != says:
            raise RbeeError(
                f"{self.source.name} has SHA-256 {says} for this file, wanted is {wanted}.",
                code="checksum_mismatch",
                mend=(
                    "It has changed since it was locked: name the old revision, or remove the model from rbee.lock (or "
                    "its `sha256:`) to take what is there now."
                ),
            )
        return await self._bring(located)

    def _same(self, known: ModelRecord, located: Located) -> bool:
        """Whether what is there is what the source has, as far as that can be told without fetching."""
        says = said_digest(located)
        digest = self.request.sha256 or says
        if known.status != "available":
            return False
        if digest is not None:
            # The same bytes of another place too, unless that place has others by now.
            return known.checksum == digest and (known.source == self.text or says in (None, digest))
        if known.source != self.text:
            return False
        if located.files[0].path is not None and not self.request.declared_source:
            home = Path(known.path) if known.format == "mlc" else Path(known.path).parent
            return all(f.path is not None and unchanged(f.path, home / f.filename) for f in located.files)
        return known.revision == self.request.revision and known.commit == located.commit

    def _keep(self, known: ModelRecord, located: Located) -> ModelRecord:
        mark, revision = self.request.mark or known.mark, self.request.revision
        kept = replace(known, mark=mark, source=self.text, revision=revision, commit=located.commit)
        self.catalog.put(kept, system.now())
        # An earlier try of something else is of no use any more.
        self.folder.discard()
        return kept

    async def _bring(self, located: Located) -> ModelRecord:
        record = ModelRecord(
            id=self.model_id,
            name=self.model_id,
            path=str(self._home(self.folder.path, located)),
            size_bytes=located.size or 0,
            status="downloading",
            source=self.text,
            revision=self.request.revision,
            commit=located.commit,
            format=located.format,
            mark=self.request.mark,
        )
        same = self.state.commit == located.commit
        self.state = replace(
            self.state,
            commit=located.commit,
            total_bytes=located.size,
            finished=self.state.finished if same else (),
        )
        self.meter.total = located.size
        await self.save()
        self.begun, self._record = True, record
        if self.older is None:
            await self._put(record)
        files = Files(self.catalog, self.folder, self.request, located, self._progress, self._finished)
        # A file of this machine waits for nobody's network.
        async with self.turn() if any(f.path is None for f in located.files) else contextlib.nullcontext():
            found = await files.bring(self.state.finished, self.meter)
        done = await self._checked(record, located, found)
        return await self._published(done, files.pushed)

    def _home(self, folder: Path, located: Located) -> Path:
        """What a record's `path` is: the folder of an MLC model, else the (first) file."""
        return folder if located.format == "mlc" else folder / located.files[0].filename

    async def _checked(self, record: ModelRecord, located: Located, found: list[ModelFile]) -> ModelRecord:
        """The record of the staged files. What is no model is thrown away."""
        checksum = together([(f.name, f.sha256 or "") for f in found])
        staged = replace(
            record,
            path=str(self._home(self.folder.stage, located)),
            size_bytes=sum(f.size_bytes for f in found),
            files=tuple(found) if len(found) > 1 else (),
        )
        try:
            if self.request.sha256 and checksum != self.request.sha256:
                raise RbeeError(
                    f"The files of {self.model_id} have together SHA-256 {checksum}, not {self.request.sha256}. "
                    "They were thrown away.",
                    code="checksum_mismatch",
                )
            facts = await asyncio.to_thread(described, staged)
        except RbeeError:
            await asyncio.to_thread(self.folder.discard)
            self.state = replace(self.state, finished=())
            await self.save()
            raise
        sure = self.request.sha256 or all(f.sha256 or f.md5 or f.path for f in located.files)
        return replace(facts, path=record.path, status="available", checksum=checksum, verified=bool(sure))

    async def _published(self, done: ModelRecord, pushed: list[Path]) -> ModelRecord:
        """Not cut short by a cancel; one that is cut short by the end of the hive is finished by the next."""
        self.state = replace(self.state, publishing=done, finished=())
        publishing = asyncio.ensure_future(asyncio.to_thread(self._publish, done, pushed))
        while not publishing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(publishing)
        publishing.result()
        size = round(done.size_bytes / 1e9, 3)
        self.on_change(ModelChange(action="added", model_id=self.model_id, size_gb=size))
        return done

    def _publish(self, done: ModelRecord, pushed: list[Path]) -> None:
        self.folder.save(self.state)
        self.folder.publish(done, functools.partial(self.catalog.put, now=system.now()))
        for path in pushed:
            path.unlink(missing_ok=True)
            # The folder of several, once its last has gone; that of all pushes stays, somebody may be about to use it.
            if path.parent.name != INCOMING:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()

    async def failed(self, error: str) -> None:
        """Tell in the catalog why there is no model; one that was there before stays."""
        if self._record is not None and self.older is None:
            await self._put(replace(self._record, status="failed", error=error))

    async def save(self) -> None:
        await asyncio.shield(asyncio.to_thread(self.folder.save, self.state))

    async def _put(self, record: ModelRecord) -> None:
        await asyncio.shield(asyncio.to_thread(self.catalog.put, record, system.now()))

    async def _finished(self, file: ModelFile) -> None:
        others = tuple(f for f in self.state.finished if f.name != file.name)
        self.state = replace(self.state, finished=(*others, file))
        await self.save()

    def _progress(self) -> None:
        """From the loop or from a thread: narrating takes both."""
        meter, now = self.meter, time.monotonic()
        done, total = meter.done, meter.total
        if now - self._told < PROGRESS_EVERY and done != total:
            return
        self._told = now
        if total != self.state.total_bytes:
            self.state = replace(self.state, total_bytes=total)
        speed = meter.speed
        of = f" of {total / 1e6:,.1f}" if total else ""
        self.tell(
            "model_download_progress",
            f"{self.model_id}: {done / 1e6:,.1f}{of} MB, {speed / 1e6:,.1f} MB/s",
            bytes_downloaded=done,
            total_bytes=total,
            speed_bytes_per_sec=speed,
            eta_seconds=meter.eta,
        )


def said_digest(located: Located) -> str | None:
    """The digest that the model will have, when its source tells those of all its files."""
    said = [(f.filename, f.sha256) for f in located.files if f.sha256]
    return together(said) if len(said) == len(located.files) else None
