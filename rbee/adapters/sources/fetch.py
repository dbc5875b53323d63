# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to download: into `.part`, resumed by range, hashed while written, checked, then renamed."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import aiohttp

from rbee.adapters.paths import write_atomic
from rbee.adapters.sources.base import SourceFile
from rbee.contracts import codec, defaults
from rbee.core.errors import Insufficient, NotFound, RbeeError, Unauthorized, Unreachable

CHUNK = 2**20
#: Tries without a single new byte before giving up; any progress starts the count again.
TRIES = 6
#: Bytes that may wait unread: when a connection breaks, what waits is lost.
BUFFER = 2**17
#: A connection that says nothing for this long has stalled.
SILENCE = 30.0
#: Left free on the disk beside the file itself.
SPARE = 16 * 2**20

OnBytes = Callable[[int, "int | None"], None]


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Beside a `.part`: what it is the beginning of. A part of anything else is thrown away."""

    url: str
    #: Strong ETag or Last-Modified, for If-Range.
    validator: str | None = None
    size: int | None = None
    sha256: str | None = None


class _Again(Exception):
    """This try failed, the next one may not."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


async def fetch(file: SourceFile, target: Path, expected: str | None, on_bytes: OnBytes, tries: int = TRIES) -> Fetched:
    """Download `file.url` to `target` (renamed into place when whole and right).

    `expected` is the SHA-256 it must have, else what the source says. `on_bytes(done, total)` is called as they
    come. What is there of an earlier try is kept and continued, if the server still has the same file. Cancelling
    keeps the part too. Raises RbeeError: insufficient_resources (before a byte is written when the size is
    known), checksum_mismatch, not_found, unauthorized, unreachable.
    """
    download = _Download(file, target, expected or file.sha256, on_bytes, tries)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=defaults.CONNECT_TIMEOUT * 2, sock_read=SILENCE)
    # Bytes as they are in the file: no decompression.
    async with aiohttp.ClientSession(
        timeout=timeout, auto_decompress=False, headers={"Accept-Encoding": "identity"}, read_bufsize=BUFFER
    ) as session:
        return await download.run(session)


class _Download:
    """One download; a single task uses it."""

    def __init__(self, file: SourceFile, target: Path, expected: str | None, on_bytes: OnBytes, tries: int) -> None:
        assert file.url is not None
        self.tries = tries
        self.file, self.target, self.expected, self.on_bytes = file, target, expected, on_bytes
        self.url = file.url
        self.host = urlsplit(file.url).hostname or file.url
        self.part = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")
        self.origin = Origin(url=self.url, size=file.size, sha256=expected)
        self.done = 0
        self.hash: _Hash = hashlib.sha256()

    async def run(self, session: aiohttp.ClientSession) -> Fetched:
        await asyncio.to_thread(self._take_up)
        if self.file.size is not None:
            await asyncio.to_thread(self._room_for, self.file.size)
        resumed = self.done > 0
        await self._until_whole(session)
        digest = self.hash.hexdigest()
        if self.expected is not None and digest != self.expected and resumed:
            # The beginning may have been of another file: once more, from the start.
            self._forget()
            await self._until_whole(session)
            digest = self.hash.hexdigest()
        if self.expected is not None and digest != self.expected:
            self._forget()
            raise RbeeError(
                f"The file from {self.host} has SHA-256 {digest}, not {self.expected}. It was thrown away.",
                code="checksum_mismatch",
                mend="The source has changed or the transfer was tampered with: check the revision and digest.",
            )
        await asyncio.to_thread(self._publish)
        return Fetched(size=self.done, sha256=digest)

    async def _until_whole(self, session: aiohttp.ClientSession) -> None:
        failures = 0
        while True:
            before = self.done
            try:
                await self._once(session)
                return
            except (aiohttp.ClientError, asyncio.TimeoutError, _Again, ConnectionError) as e:
                failures = 1 if self.done > before else failures + 1
                if failures >= self.tries:
                    raise Unreachable(
                        f"The download from {self.host} failed {failures} times in a row: {_reason(e)}.",
                        mend="What is there is kept; the same download continues from it.",
                    ) from None
                said = e.wait if isinstance(e, _Again) else None
                await asyncio.sleep(said or min(defaults.BACKOFF_MAX, defaults.BACKOFF_FIRST * 2**failures))

    async def _once(self, session: aiohttp.ClientSession) -> None:
        headers = dict(self.file.headers)
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            if self.origin.validator:
                headers["If-Range"] = self.origin.validator
        async with session.get(self.url, headers=headers) as answer:
            if answer.status == 416 and self.done == _total_of(answer):
                return
            self._refuse(answer)
            starts = _range_start(answer) if answer.status == 206 else 0
            if starts != self.done:
                self._forget()
                if starts:
                    raise _Again(f"the server sent a range from {starts}")
            total = await asyncio.to_thread(self._expect, answer, starts)
            await self._pour(answer, total)
            if total is not None and self.done != total:
                raise _Again(f"it ended after {self.done} of {total} bytes")

    def _refuse(self, answer: aiohttp.ClientResponse) -> None:
        status = answer.status
        if status in (200, 206):
            return
        if status in (408, 425, 429) or status >= 500:
            wait = answer.headers.get("Retry-After", "")
            raise _Again(f"{self.host} answers {status}", min(float(wait), 60.0) if wait.isdigit() else None)
        if status == 416:
            self._forget()
            raise _Again("the server has fewer bytes than are here already")
        if status in (401, 403):
            raise Unauthorized(f"{self.host} answers {status}: it wants a token, or refuses the one given.")
        if status in (404, 410):
            raise NotFound(f"{self.host} has no such file ({status}).", mend="Check the source.")
        raise RbeeError(f"{self.host} answers {status} {answer.reason}.", code="download_failed")

    def _expect(self, answer: aiohttp.ClientResponse, starts: int) -> int | None:
        """Note what comes, check it against what the source said, check the disk; the whole size if known."""
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise RbeeError(f"{self.host} sends the file compressed, though asked not to.", code="download_failed")
        total = starts + answer.content_length if answer.content_length is not None else None
        said = self.file.size
        if said is not None and total is not None and said != total:
            raise RbeeError(f"{self.host} sends {total} bytes, its index says {said}.", code="wrong_length")
        tag = answer.headers.get("ETag")
        validator = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
        self.origin = Origin(url=self.url, validator=validator, size=total, sha256=self.expected)
        if total is not None:
            self._room_for(total)
        write_atomic(self.note, codec.encode_pretty(self.origin), 0o600)
        return total or said

    async def _pour(self, answer: aiohttp.ClientResponse, total: int | None) -> None:
        """Read on while the former piece is hashed and written by a thread."""
        writing: asyncio.Future[None] | None = None
        file = self.part.open("ab")
        try:
            async for piece in answer.content.iter_chunked(CHUNK):
                if writing is not None:
                    await writing
                if total is not None and self.done + len(piece) > total:
                    self._forget()
                    raise _Again(f"the server sent more than {total} bytes")
                self.done += len(piece)
                writing = asyncio.ensure_future(asyncio.to_thread(self._write, file, piece))
                self.on_bytes(self.done, total)
            if writing is not None:
                await writing
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Insufficient(
                    f"The disk of {self.part.parent} is full.", mend="Make room; it continues."
                ) from None
            raise
        finally:
            # Also when cancelled: `done` counts what a thread is still writing.
            try:
                if writing is not None:
                    await asyncio.wait([writing])
            finally:
                file.close()

    def _write(self, file: IO[Any], piece: bytes) -> None:
        file.write(piece)
        file.flush()
        self.hash.update(piece)

    def _room_for(self, total: int) -> None:
        self.part.parent.mkdir(parents=True, exist_ok=True)
        free, need = shutil.disk_usage(self.part.parent).free, total - self.done
        if free < need + SPARE:
            raise Insufficient(
                f"The download needs {need / 1e6:.1f} MB more, {self.part.parent} has {free / 1e6:.1f} MB free.",
                mend="Make room, or delete models that are not used.",
            )

    def _take_up(self) -> None:
        """Continue an earlier try, if it was of the same file and the rest can be told to belong to it."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        try:
            known = codec.decode(Origin, self.note.read_bytes())
        except (OSError, codec.CodecError):
            return self._forget()
        same = known.sha256 == self.expected if self.expected else known.url == self.url and known.validator is not None
        if not same or not self.part.is_file():
            return self._forget()
        self.origin = known
        with self.part.open("rb") as f:
            while piece := f.read(CHUNK):
                self.hash.update(piece)
                self.done += len(piece)
        return None

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.done, self.hash = 0, hashlib.sha256()

    def _publish(self) -> None:
        with self.part.open("rb") as f:
            os.fsync(f.fileno())
        self.part.replace(self.target)
        self.note.unlink(missing_ok=True)


def _range_start(answer: aiohttp.ClientResponse) -> int:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found.group(1)) if found else -1


def _total_of(answer: aiohttp.ClientResponse) -> int | None:
    found = re.match(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
    return int(found.group(1)) if found else None


def _reason(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "it stalled"
    return str(error) or type(error).__name__
