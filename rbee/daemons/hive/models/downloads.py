# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads of models: one of a model at a time; who asks for the same again joins and hears the same.

A download outlives the jobs that wait for it in one way only: what is on the disk. It can be paused, gone on with by
anyone and given up; over a restart of the hive a paused one stays paused, one that ran is told as failed and goes on
when somebody asks for it again: a hive never begins to fetch by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rbee.adapters import system
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.sources import Located, Source, source_for
from rbee.contracts import defaults
from rbee.contracts.heartbeat import ModelChange
from rbee.contracts.operations.downloads import DownloadInfo
from rbee.contracts.operations.models import ModelDownload
from rbee.core.errors import Conflict, Interrupted, NotFound, RbeeError
from rbee.core.problems import did_you_mean
from rbee.core.records import DownloadProgress, ModelRecord
from rbee.daemons.hive.models.bringing import Bringing
from rbee.daemons.hive.models.download import RUNNING, Download, key_of, usable_id, without_secrets
from rbee.daemons.hive.models.unfinished import DownloadFolder, Unfinished, find_unfinished
from rbee.daemons.logs import current_job

log = logging.getLogger(__name__)

Narrate = Callable[..., None]
ENDED = "The hive ended during the download; download it again, or resume it, to go on."
CANCELLED = "The download was cancelled; what is there is kept."


class Downloads:
    """Fetches models into the catalog. Lives on one event loop."""

    def __init__(
        self,
        catalog: ModelCatalog,
        sources: Sequence[Source],
        on_change: Callable[[ModelChange], None],
        at_once: int = defaults.DOWNLOADS,
    ) -> None:
        self._catalog = catalog
        self._sources = tuple(sources)
        self._on_change = on_change
        self._downloads: dict[str, Download] = {}
        self._free = asyncio.Semaphore(at_once)
        #: The hive is ending: what is cut short now is told as that.
        self.closing = False

    def recover(self, root: Path) -> None:
        """At start, before anything else asks: finish what was being published, know what was left. Blocks."""
        for folder, state in find_unfinished(root):
            try:
                left = self._taken_over(folder, state)
            except OSError as e:
                log.error("the download of %s cannot be taken over: %s", state.model_id, e)
                continue
            if left is not None:
                self._downloads[left.model_id] = left
        for record in self._catalog.list():
            known = self._downloads.get(record.id)
            if record.status == "downloading" and (known is None or known.status == "failed"):
                self._catalog.put(replace(record, status="failed", error=ENDED), system.now())

    def _taken_over(self, folder: DownloadFolder, state: Unfinished) -> Download | None:
        if state.publishing is not None:
            folder.publish(state.publishing, functools.partial(self._catalog.put, now=system.now()))
            return None
        if state.status in RUNNING:
            state = replace(state, status="failed", error=ENDED)
            folder.save(state)
        if state.total_bytes is None:
            state = replace(state, total_bytes=folder.total())
        return Download(state, folder.kept())

    def active(self, model_id: str) -> bool:
        """Whether it runs, waits for its turn or is paused."""
        found = self._downloads.get(model_id)
        return found is not None and found.status != "failed"

    def progress(self, model_id: str) -> DownloadProgress | None:
        """How far the download of a model is; None when none runs."""
        return self._downloads[model_id].progress() if self.active(model_id) else None

    def going(self) -> dict[str, DownloadProgress]:
        """How far each is that runs, by its model."""
        found = {model_id: self.progress(model_id) for model_id in self._downloads}
        return {model_id: progress for model_id, progress in found.items() if progress is not None}

    def list(self) -> tuple[DownloadInfo, ...]:
        """The oldest first."""
        return tuple(sorted((d.info() for d in self._downloads.values()), key=lambda i: (i.started_at, i.model_id)))

    async def locate(self, source: str, revision: str | None) -> Located:
        """Ask a model's source what it has now. Raises RbeeError."""
        return await source_for(source, self._sources).locate(source, revision)

    def changed(self, change: ModelChange) -> None:
        """A model came or went by other ways than a download; what is left of a failed one goes with its model."""
        if change.action == "removed" and not self.active(change.model_id):
            self._downloads.pop(change.model_id, None)
        self._on_change(change)

    async def stop(self) -> None:
        """Cut short what runs; what was fetched stays for the next time."""
        self.closing = True
        await asyncio.gather(*(d.halt() for d in list(self._downloads.values())))

    async def get(self, request: ModelDownload, narrate: Narrate) -> ModelRecord:
        """The model, there and verified. Cancelling the last who waits cancels the download (its part stays).

        Raises RbeeError: conflict when another source is being downloaded under that id, download_cancelled when
        somebody gives it up meanwhile, and what sources raise.
        """
        model_id = usable_id(request, self._downloads)
        found = self._downloads.get(model_id)
        if found is None or found.status == "failed":
            source = source_for(request.model, self._sources)
            found = self._new(model_id, request, found)
            self._start(found, source)
        elif found.key != key_of(request):
            raise Conflict(
                f"Another download of {model_id!r} is {found.status}, from another source.",
                mend="Cancel that one or wait for it.",
            )
        else:
            found.request = request
            narrate("model_download_joined", f"{model_id} is being downloaded already.", model_id=model_id)
            if found.status == "paused":
                narrate("model_download_paused", f"{model_id} is paused; waiting for its resume.", model_id=model_id)
        return await self._wait(found, narrate)

    async def _wait(self, download: Download, narrate: Narrate) -> ModelRecord:
        waiter = download.join(current_job.get(), narrate)
        try:
            return await asyncio.shield(download.result)
        except asyncio.CancelledError:
            if download.result.cancelled():
                raise Interrupted("The download was cancelled.") from None
            raise
        finally:
            download.leave(waiter)
            if not (download.waiting or download.detached):
                await download.halt()

    def _new(self, model_id: str, request: ModelDownload, before: Download | None) -> Download:
        kept, now = without_secrets(request), system.now()
        state = Unfinished(model_id=model_id, request=kept, status="downloading", started_at=now)
        if before is not None and before.key == key_of(request):
            left = before.state
            state = replace(state, started_at=left.started_at, commit=left.commit, finished=left.finished)
        made = Download(state, before.bytes_here if before else 0, request)
        made.was_kept = before is not None
        self._downloads[model_id] = made
        return made

    def _start(self, download: Download, source: Source) -> None:
        tell = functools.partial(self._tell, download)
        turn = functools.partial(self._turn, download)
        download.state = replace(download.state, status="downloading", error=None)
        download.begin(Bringing(self._catalog, source, download.state, download.request, tell, self._on_change, turn))
        download.task = asyncio.create_task(self._run(download), name=f"download-{download.model_id}")

    @contextlib.asynccontextmanager
    async def _turn(self, download: Download) -> AsyncIterator[None]:
        """So many fetch at once; the others wait, and say so."""
        if self._free.locked():
            await download.set("queued")
            told = f"{download.model_id} waits for its turn: {defaults.DOWNLOADS} downloads run."
            self._tell(download, "model_download_queued", told)
        async with self._free:
            if download.status == "queued":
                await download.set("downloading")
            yield

    async def _run(self, download: Download) -> None:
        bringing = download.bringing
        assert bringing is not None
        try:
            record = await bringing.run()
        except asyncio.CancelledError:
            if download.intent == "pause":
                # A disk that takes no note of it: it is paused until the hive ends.
                with contextlib.suppress(OSError):
                    await download.set("paused")
            elif download.intent != "cancel":
                await self._failed(download, ENDED if self.closing else CANCELLED)
                download.result.cancel()
        except Exception as e:
            await self._failed(download, str(e))
            download.fail(e)
        else:
            self._downloads.pop(download.model_id, None)
            if not download.result.done():
                download.result.set_result(record)

    async def _failed(self, download: Download, error: str) -> None:
        """Kept and listed when anything of it is on the disk."""
        bringing = download.bringing
        assert bringing is not None
        with contextlib.suppress(OSError):
            await bringing.failed(error)
        if bringing.begun or download.was_kept:
            # A full disk takes no note of it; it can still be listed, gone on with and given up.
            with contextlib.suppress(OSError):
                await download.set("failed", error)
            return
        if self._downloads.get(download.model_id) is download:
            self._downloads.pop(download.model_id)

    def find(self, download_id: str) -> Download:
        """By its id or its model's. Raises NotFound."""
        for download in self._downloads.values():
            if download_id in (download.model_id, download.id):
                return download
        raise NotFound(
            f"There is no download {download_id!r} on this hive.",
            code="download_not_found",
            mend=did_you_mean(download_id, list(self._downloads)),
        )

    async def pause(self, download_id: str) -> Download:
        """Jobs that wait for it go on waiting. Raises NotFound, Conflict when it does not run."""
        download = self.find(download_id)
        if download.status == "failed":
            raise Conflict(f"The download of {download.model_id!r} has failed: it does not run.", code="not_running")
        if not download.is_paused():
            await download.halt("pause")
            if not download.is_paused():
                raise Conflict(f"The download of {download.model_id!r} has just ended.", code="not_running")
            text = f"{download.model_id} is paused; waiting for its resume."
            self._tell(download, "model_download_paused", text, bytes_downloaded=download.bytes_here)
        return download

    async def resume(self, download_id: str) -> Download:
        """Go on with one that is paused or failed, whoever began it. Raises NotFound, Conflict, InvalidRequest."""
        download = self.find(download_id)
        if download.status in RUNNING:
            return download
        if "[redacted]" in download.request.model:
            raise Conflict(
                f"The source of {download.model_id!r} holds a secret, which is not kept over a restart.",
                code="secret_needed",
                mend="Download it again with its source: it goes on from what is there.",
            )
        source = source_for(download.request.model, self._sources)
        download.detached = not download.waiting
        if download.status == "failed":
            download.again()
        self._start(download, source)
        with contextlib.suppress(OSError):  # its run meets the same disk, and tells
            await download.set("downloading")
        text = f"{download.model_id} goes on."
        self._tell(download, "model_download_resumed", text, bytes_downloaded=download.bytes_here)
        return download

    async def cancel(self, download_id: str) -> int:
        """Give it up and throw away what was fetched, not a model that was there before; how many bytes that was.

        Raises NotFound, Conflict when it has just ended.
        """
        download = self.find(download_id)
        await download.halt("cancel")
        if self._downloads.get(download.model_id) is not download:
            raise Conflict(f"The download of {download.model_id!r} has just ended.", code="not_running")
        here = await asyncio.to_thread(self._discard, download.model_id)
        self._downloads.pop(download.model_id, None)
        text = f"The download of {download.model_id} was given up."
        self._tell(download, "model_download_cancelled", text, bytes_downloaded=here)
        download.fail(RbeeError(text, code="download_cancelled"))
        return here

    def _discard(self, model_id: str) -> int:
        folder = DownloadFolder(self._catalog.folder(model_id))
        here = folder.kept()
        known = self._catalog.get(model_id)
        if known is not None and known.status == "available":
            folder.discard()
        else:
            self._catalog.remove(model_id)
        return here

    def _tell(self, download: Download, name: str, message: str, **fields: Any) -> None:
        for narrate in download.narrates():
            narrate(name, message, model_id=download.model_id, **fields)
