# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of one model brought to its stage: several small ones at once, a large one by several connections."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

from rbee.adapters import mlc
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.fetch import fetch
from rbee.adapters.fetch.download import Tuning
from rbee.adapters.fetch.part import SPARE, kept, no_room
from rbee.adapters.sources import Located, SourceFile, place
from rbee.contracts.operations.models import ModelDownload
from rbee.core.errors import RbeeError
from rbee.core.records import ModelFile
from rbee.daemons.hive.models.meter import Meter
from rbee.daemons.hive.models.unfinished import DownloadFolder

#: Where apply pushes to, beside the models.
INCOMING = ".incoming"
#: Small files of one model that are fetched at once.
AT_ONCE = 4


class Files:
    """Brings every file of a located model to the stage of its folder."""

    def __init__(
        self,
        catalog: ModelCatalog,
        folder: DownloadFolder,
        request: ModelDownload,
        located: Located,
        on_progress: Callable[[], None],
        on_finished: Callable[[ModelFile], Awaitable[None]],
    ) -> None:
        self._folder, self._request, self._located = folder, request, located
        self._incoming = catalog.folder("x").parent / INCOMING
        self._on_progress, self._on_finished = on_progress, on_finished
        self._meter = Meter()
        self._cancelled = Event()
        #: What apply pushed beside the models: it has done its duty once the model is published.
        self.pushed: list[Path] = []
        self._alone = len(located.files) == 1

    async def bring(self, finished: Sequence[ModelFile], meter: Meter) -> list[ModelFile]:
        """All of them, in the source's order; those `finished` before are not fetched again. Raises RbeeError."""
        self._meter = meter
        files = list(self._located.files)
        if len({f.filename for f in files}) != len(files):
            raise RbeeError("The source has two files of one name.", code="invalid_model")
        here = await asyncio.to_thread(self._prepare, finished)
        first = [f for f in files if f.filename in (mlc.CONFIG, *mlc.CACHES)] if self._located.format == "mlc" else []
        await self._several(first, here)
        if first:
            files = await asyncio.to_thread(self._with_md5, files)
        small = [f for f in files if (f.size or 0) < Tuning().parallel_from and f.filename not in here]
        await self._several(small, here)
        for file in files:
            if file.filename not in here:
                here[file.filename] = await self._one(file, Tuning())
        return [here[f.filename] for f in files]

    def _prepare(self, finished: Sequence[ModelFile]) -> dict[str, ModelFile]:
        """What is whole already, by name; and whether there is room for the rest. Raises Insufficient."""
        self._folder.stage.mkdir(parents=True, exist_ok=True)
        here, known, missing = {}, {f.name: f for f in finished}, 0
        for file in self._located.files:
            staged = known.get(file.filename)
            if staged is not None and self._reusable(file, staged):
                here[file.filename] = staged
                self._meter.start(file.filename, staged.size_bytes)
            elif file.path is None:
                (self._folder.stage / file.filename).unlink(missing_ok=True)
                have = kept(self._folder.part(file.filename))
                missing += max(0, (file.size or 0) - have)
                self._meter.start(file.filename, have)
        free = shutil.disk_usage(self._folder.path).free
        if missing and free < missing + SPARE:
            raise no_room(missing, self._folder.path, free)
        return here

    def _reusable(self, file: SourceFile, staged: ModelFile) -> bool:
        """Whether the staged file is what the source has now; a commit that is known is the same one as then."""
        path = self._folder.stage / file.filename
        whole = path.is_file() and path.stat().st_size == staged.size_bytes and file.size in (None, staged.size_bytes)
        same = staged.sha256 == file.sha256 if file.sha256 else self._located.commit is not None
        return file.path is None and whole and same

    def _with_md5(self, files: list[SourceFile]) -> list[SourceFile]:
        """An MLC model's own list tells the MD5 of each of its shards."""
        md5 = {s.name: s.md5 for s in mlc.read_folder(self._folder.stage).shards}
        return [f if f.md5 else replace(f, md5=md5.get(f.filename)) for f in files]

    async def _several(self, files: Sequence[SourceFile], here: dict[str, ModelFile]) -> None:
        """At once, within reason; the first that fails ends the others."""
        free = asyncio.Semaphore(AT_ONCE)
        tuning = Tuning() if len(files) == 1 else Tuning(connections=1)

        async def one(file: SourceFile) -> None:
            async with free:
                here[file.filename] = await self._one(file, tuning)

        tasks = [asyncio.create_task(one(f)) for f in files if f.filename not in here]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _one(self, file: SourceFile, tuning: Tuning) -> ModelFile:
        name, target = file.filename, self._folder.stage / file.filename
        expected = self._request.sha256 if self._alone else None

        def came(done: int, total: int | None) -> None:
            self._meter.set(name, done)
            if self._alone:
                self._meter.total = total
            self._on_progress()

        if file.path is None:
            fetched = await fetch(file, target, expected, came, part=self._folder.part(name), tuning=tuning)
            made = ModelFile(name=name, size_bytes=fetched.size, sha256=fetched.sha256)
        else:
            made = await self._placed(file, file.path, target, expected, came)
        await self._on_finished(made)
        return made

    async def _placed(
        self, file: SourceFile, path: Path, target: Path, expected: str | None, came: Callable[[int, int | None], None]
    ) -> ModelFile:
        pushed = self._incoming in path.parents
        placing = asyncio.ensure_future(asyncio.to_thread(place, path, target, came, self._cancelled, ours=pushed))
        try:
            checksum = await asyncio.shield(placing)
        except asyncio.CancelledError:
            self._cancelled.set()
            with contextlib.suppress(RbeeError, OSError):
                await placing
            raise
        wanted = expected or file.sha256
        if wanted and checksum != wanted:
            await asyncio.to_thread(target.unlink, missing_ok=True)
            raise RbeeError(f"{path} has SHA-256 {checksum}, not {wanted}.", code="checksum_mismatch")
        if pushed:
            self.pushed.append(path)
        size = (await asyncio.to_thread(target.stat)).st_size
        return ModelFile(name=file.filename, size_bytes=size, sha256=checksum)
