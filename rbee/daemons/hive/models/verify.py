# SPDX-License-Identifier: GPL-3.0-or-later
"""ModelVerify: a model's files read and held against the digests they must have."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

from rbee.adapters import system
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.sources import Located
from rbee.contracts.operations.models import ModelVerifyResponse
from rbee.core.errors import Conflict, Interrupted, RbeeError
from rbee.core.model_files import together
from rbee.core.records import ModelFile, ModelRecord
from rbee.core.redact import HIDDEN
from rbee.daemons.jobs import JobContext

#: How the reason of a record that failed here begins: a later verification that finds it well takes it back.
MISMATCH = "Its files are not what they should be: "
#: Seconds that the source may take to tell its digests.
ASK_SOURCE = 30.0
PROGRESS_EVERY = 0.2
_CHUNK = 2**20

Locate = Callable[[str, "str | None"], Awaitable[Located]]
Against = Literal["source", "recorded", "nothing"]


@dataclass(frozen=True, slots=True)
class _Expected:
    """SHA-256 (or MD5, which older makers tell) by file name."""

    sha256: Mapping[str, str]
    md5: Mapping[str, str]
    against: Against


@dataclass(frozen=True, slots=True)
class _Found:
    """What the files are; `checksum` is of all of them together, as a record has it."""

    sha256: dict[str, str]
    md5: dict[str, str]
    checksum: str
    size: int


class Verifying:
    """One verification. `locate` asks a source for the files of a revision."""

    def __init__(self, ctx: JobContext, catalog: ModelCatalog, locate: Locate, record: ModelRecord) -> None:
        self._ctx = ctx
        self._catalog = catalog
        self._locate = locate
        self._record = record
        self._cancelled = Event()
        self._told = 0.0

    async def run(self) -> ModelVerifyResponse:
        """Raises RbeeError `checksum_mismatch` (the record is failed then), `model_not_available`, `disk_error`."""
        record = self._record
        if record.status != "available" and not (record.error or "").startswith(MISMATCH):
            why = record.error or f"it is {record.status}"
            raise RbeeError(f"The model {record.id!r} cannot be verified: {why}", code="model_not_available")
        expected = await self._expected()
        try:
            found = await self._read(bool(expected.md5))
        except OSError as e:
            text = f"A file of {record.id!r} cannot be read: {e.strerror or e}: {e.filename}."
            raise RbeeError(text, code="disk_error", mend="Download the model again.") from e
        expected, wrong = self._judge(expected, found)
        await self._note(expected, found, wrong)
        if wrong:
            raise RbeeError(
                f"{record.id}: {wrong}", code="checksum_mismatch", mend="Delete the model and download it again."
            )
        return ModelVerifyResponse(
            model_id=record.id,
            verified=expected.against != "nothing",
            checksum=found.checksum,
            expected=found.checksum if expected.against != "nothing" else None,
            against=expected.against,
            size_bytes=found.size,
        )

    # What they should be.

    async def _expected(self) -> _Expected:
        recorded, told = self._recorded(), await self._of_source()
        ours = {f.name for f in self._files()}
        if told is None or not ours & (told.sha256.keys() | told.md5.keys()):
            return recorded
        # Of small files a source may tell none.
        return replace(told, sha256={**recorded.sha256, **told.sha256})

    def _recorded(self) -> _Expected:
        record = self._record
        known = {f.name: f.sha256 for f in record.files if f.sha256}
        if not record.files and record.checksum:
            known = {Path(record.path).name: record.checksum}
        return _Expected(known, {}, "recorded" if known else "nothing")

    async def _of_source(self) -> _Expected | None:
        """What the source says of the very revision that is here; None when it cannot be asked.

        A person's own file may change as they like: what it was when it was taken counts. A secret of the address is
        not kept.
        """
        record = self._record
        if not record.source or record.source.startswith(("file:", "local:")) or HIDDEN in record.source:
            return None
        try:
            asked = self._locate(record.source, record.commit or record.revision)
            located = await asyncio.wait_for(asked, ASK_SOURCE)
            sha256 = {f.filename: f.sha256 for f in located.files if f.sha256}
            for file in located.files:
                if file.path is not None:
                    sha256[file.filename] = (await self._digests(file.path, False, lambda size: None))[0]
        except (RbeeError, OSError, asyncio.TimeoutError) as e:
            self._ctx.narrate(
                "model_verify_source",
                f"The source cannot be asked ({e or 'it does not answer'}); the digest of the download is taken.",
                "warning",
                model_id=record.id,
            )
            return None
        md5 = {f.filename: f.md5 for f in located.files if f.md5}
        files = self._files()
        if len(files) == len(located.files) == 1:  # whatever it is called there
            name, there = files[0].name, located.files[0].filename
            sha256, md5 = ({name: d[there]} if there in d else {} for d in (sha256, md5))
        return _Expected(sha256, md5, "source")

    # What they are.

    async def _read(self, md5: bool) -> _Found:
        files, done = self._files(), 0
        total = sum(f.size_bytes for f in files)
        folder = Path(self._record.path)
        folder = folder if self._record.format == "mlc" else folder.parent
        sha256: dict[str, str] = {}
        other: dict[str, str] = {}
        for file in files:

            def told(size: int, before: int = done, name: str = file.name) -> None:
                self._progress(before + size, total, name)

            sha256[file.name], other[file.name], size = await self._digests(folder / file.name, md5, told)
            done += size
        one = together([(f.name, sha256[f.name]) for f in files])
        return _Found(sha256, other, one, done)

    def _files(self) -> tuple[ModelFile, ...]:
        record = self._record
        return record.files or (ModelFile(name=Path(record.path).name, size_bytes=record.size_bytes),)

    async def _digests(self, path: Path, md5: bool, told: Callable[[int], None]) -> tuple[str, str, int]:
        """By a thread, which ends within a chunk when this is cancelled."""
        reading = asyncio.ensure_future(asyncio.to_thread(_digests, path, md5, told, self._cancelled))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            self._cancelled.set()
            await asyncio.wait([reading])
            reading.exception()
            raise

    def _progress(self, done: int, total: int, name: str) -> None:
        """From a thread."""
        now = time.monotonic()
        if now - self._told < PROGRESS_EVERY and done != total:
            return
        self._told = now
        self._ctx.narrate(
            "model_verify_progress",
            f"{self._record.id}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB read",
            model_id=self._record.id,
            file=name,
            bytes_verified=done,
            total_bytes=total,
        )

    # What follows.

    def _judge(self, expected: _Expected, found: _Found) -> tuple[_Expected, str]:
        """What it was held against in the end, and what is wrong, or ''."""
        wrong = _differences(expected, found)
        if wrong and expected.against == "source" and not self._record.commit:
            # No revision was pinned: the source may have another file by now.
            recorded = self._recorded()
            if recorded.sha256 and not _differences(recorded, found):
                text = "The source has another file now; what is here is what was downloaded."
                self._ctx.narrate("model_verify_source", text, "warning", model_id=self._record.id)
                return recorded, ""
        return expected, wrong

    async def _note(self, expected: _Expected, found: _Found, wrong: str) -> None:
        """Put the outcome into the record, unless it has become another meanwhile."""
        record = self._record
        if wrong:
            after = replace(record, status="failed", verified=False, error=MISMATCH + wrong)
        elif expected.against == "nothing":
            after = replace(record, checksum=record.checksum or found.checksum)
        else:
            checksum = record.checksum or found.checksum
            after = replace(record, status="available", verified=True, error=None, checksum=checksum)
        if after == record:
            return
        noted = await asyncio.to_thread(self._catalog.change, record, after, system.now())
        if not noted:
            raise Conflict(f"The model {record.id!r} was replaced or deleted while it was read.")


def _differences(expected: _Expected, found: _Found) -> str:
    """For people; '' when all is as it should be."""
    said = []
    for name, digest in found.sha256.items():
        wanted = expected.sha256.get(name)
        if wanted is not None:
            if wanted != digest:
                said.append(f"{name} has SHA-256 {digest}, expected is {wanted}.")
        elif expected.md5.get(name) not in (None, found.md5.get(name)):
            said.append(f"{name} has MD5 {found.md5[name]}, expected is {expected.md5[name]}.")
    return " ".join(said[:5]) + (f" And {len(said) - 5} more." if len(said) > 5 else "")


def _digests(path: Path, md5: bool, told: Callable[[int], None], cancelled: Event) -> tuple[str, str, int]:
    """SHA-256, MD5 where it is wanted (else ''), and how many bytes were read."""
    both: list[Any] = [hashlib.sha256(), *([hashlib.md5(usedforsecurity=False)] if md5 else [])]
    done = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            if cancelled.is_set():
                raise Interrupted("Cancelled.")
            for digest in both:
                digest.update(chunk)
            done += len(chunk)
            told(done)
    return both[0].hexdigest(), both[1].hexdigest() if md5 else "", done
