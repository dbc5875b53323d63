# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to download: into `.part`, resumed by range, hashed while written, checked, then renamed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from rbee.adapters.fetch.http import Again, Useless
from rbee.adapters.fetch.lane import Lane
from rbee.adapters.fetch.part import Digest, Origin, Part
from rbee.adapters.fetch.ranges import Range
from rbee.adapters.fetch.tuning import Tuning
from rbee.adapters.network import final, session
from rbee.adapters.sources.base import SourceFile
from rbee.adapters.tasks import end_tasks
from rbee.adapters.trouble import words
from rbee.contracts import defaults
from rbee.core.errors import RbeeError, Unreachable
from rbee.core.redact import Redactor

__all__ = ["Fetched", "Origin", "Tuning", "fetch"]

#: Tries without a single new byte before giving up; any progress starts the count again.
TRIES = 6
#: Bytes that wait unread in a connection are lost when it breaks.
BUFFER = 2**17

OnBytes = Callable[[int, "int | None"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    size: int
    sha256: str


async def fetch(
    file: SourceFile,
    target: Path,
    expected: str | None,
    on_bytes: OnBytes,
    tries: int = TRIES,
    *,
    part: Path | None = None,
    tuning: Tuning | None = None,
) -> Fetched:
    """Download `file.url` to `target` (renamed into place when whole and right; not yet synced to the disk).

    `expected` is the SHA-256 it must have, else what the source says; its MD5 is checked where that is all the source
    says. `on_bytes(done, total)` is called as they come. What is there of an earlier try, in `part` (default: beside
    the target), is kept and continued, if the server still has the same file; so it is after a kill at any moment.
    Cancelling keeps it too. Raises RbeeError: insufficient_resources (before a byte is written when the size is
    known), checksum_mismatch, wrong_length, not_found, unauthorized, download_failed, unreachable.
    """
    part = part or target.with_name(f"{target.name}.part")
    tuning = tuning or Tuning()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=defaults.CONNECT_TIMEOUT * 2, sock_read=tuning.silence)
    # Bytes as they are in the file: no decompression.
    secure, plain = not (expected or file.sha256), {"Accept-Encoding": "identity"}
    async with session(
        secure=secure, timeout=timeout, auto_decompress=False, headers=plain, read_bufsize=BUFFER
    ) as out:
        with ThreadPoolExecutor(max_workers=tuning.connections + 1, thread_name_prefix="fetch") as pool:
            download = Download(file, part, expected or file.sha256, on_bytes, tries, tuning, out, pool)
            try:
                return await download.run(target)
            finally:
                await download.close()


class Download:
    """One download; a single task uses it, its lanes are tasks of it."""

    # fmt: off
    def __init__(
        self, file: SourceFile, part: Path, expected: str | None, on_bytes: OnBytes, tries: int, tuning: Tuning,
        session: aiohttp.ClientSession, pool: ThreadPoolExecutor,
    ) -> None:
        # fmt: on
        assert file.url is not None
        self.url: str = file.url
        self.host = urlsplit(file.url).hostname or file.url
        self.file, self.expected, self.on_bytes, self.tries = file, expected, on_bytes, tries
        self.tuning, self.session, self.pool = tuning, session, pool
        self.part = Part(part, Origin(url=Redactor().text(file.url), size=file.size, sha256=expected))
        self.total: int | None = file.size
        #: Whether more than one connection has written: then the note says which ranges are here.
        self.gaps = False
        #: It says that it sends ranges, and does not (or not of this file any more).
        self.refuses_ranges = False
        self._digest = self._new_digest()
        self._hashing: asyncio.Future[None] | None = None
        self._lanes: list[asyncio.Task[None]] = []
        self._held: Range | None = None
        self._noting: asyncio.Task[None] | None = None
        self._noted = asyncio.Event()
        self._writing: set[asyncio.Task[None]] = set()

    def _new_digest(self) -> Digest:
        return Digest(self.part.path, md5=self.expected is None and self.file.md5 is not None)

    async def run(self, target: Path) -> Fetched:
        await asyncio.to_thread(self.part.take_up)
        self.gaps = self.part.ranges.has_gaps
        if self.total is None:
            self.total = self.part.origin.size
        if self.file.size is not None:
            await asyncio.to_thread(self.part.room_for, self.file.size)
        resumed = self.part.ranges.count > 0
        sha256, wrong = await self._whole()
        if wrong and resumed:
            # The beginning may have been of another file: once more, from the start.
            await self.forget()
            sha256, wrong = await self._whole()
        if wrong:
            await self.forget()
            raise RbeeError(
                f"The file from {self.host} has {wrong}. It was thrown away.",
                code="checksum_mismatch",
                mend="The source has changed or the transfer was tampered with: check the revision and digest.",
            )
        size = self.part.ranges.count
        await asyncio.to_thread(self.part.publish, target)
        return Fetched(size=size, sha256=sha256)

    async def close(self) -> None:
        """No task or thread is left, and what is here is noted."""
        await self._quiet()
        self.part.close()

    async def _quiet(self) -> None:
        await self._dismiss()
        if self._writing:
            await asyncio.wait(self._writing)
        self._digest.stop()
        if self._hashing is not None:
            await asyncio.wait({self._hashing})
            self._hashing = None

    async def _whole(self) -> tuple[str, str]:
        """Until all bytes are here and hashed: their SHA-256, and what is wrong with them, if anything."""
        failures = begun_anew = 0
        self.catch_up()
        while True:
            before = self.part.ranges.count
            try:
                await self._once()
                break
            except (aiohttp.ClientError, asyncio.TimeoutError, Again, ConnectionError, UnicodeError) as e:
                if (useless := final(e, self.host)) is not None:
                    raise useless from None
                if isinstance(e, Useless):
                    await self.forget()
                    begun_anew += 1
                barren = isinstance(e, Again) and e.barren
                failures = 1 if self.part.ranges.count > before and not barren else failures + 1
                if failures >= self.tries or begun_anew > 1:
                    raise Unreachable(
                        f"The download from {self.host} failed {failures} times in a row: {words(e)}.",
                        mend="What is there is kept; the same download continues from it.",
                    ) from None
                await asyncio.sleep(self.wait_of(e, failures))
        while self._digest.hashed < self.part.ranges.frontier:
            self.catch_up()
            assert self._hashing is not None
            await self._hashing
        return self._digest.held_against(self.expected, self.file.md5)

    def wait_of(self, error: Exception, failures: int) -> float:
        """What the server asks for; else longer each time, and not all at the same moment."""
        if isinstance(error, Again) and error.wait is not None:
            return error.wait
        longest: float = min(defaults.BACKOFF_MAX, self.tuning.backoff * 2 ** min(failures, 16))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing

    async def _once(self) -> None:
        """The first missing bytes, as long as the connection lasts; then the ranges that no other lane has taken."""
        if self.gaps:
            self._keep_noting()
        try:
            whole = await Lane(self).first()
            self._let_go()
            while not whole and not self.part.ranges.whole(self.total):
                if not await Lane(self).next():
                    # The others have the rest; what they leave is taken up after them.
                    await asyncio.gather(*self._lanes)
        finally:
            self._let_go()
            await self._dismiss()

    def _let_go(self) -> None:
        if self._held is not None:
            self.part.ranges.release(self._held)
            self._held = None

    async def spread(self, start: int, at: int) -> int | None:
        """More connections from now on, for what comes after the range that the first one goes on with; its end."""
        assert self.total is not None
        if self.tuning.connections < 2:
            return None
        hold = (
            start,
            min(at + self.tuning.block_of(self.total), self.total, self.part.ranges.wall(at) or self.total),
        )
        self._held = hold
        self.part.ranges.hold(hold)
        # Noted before a byte is written behind a gap: from now on the file's length tells nothing.
        self.gaps = True
        await asyncio.to_thread(self.save_note)
        self._keep_noting()
        self._lanes = [asyncio.create_task(self._beside()) for _ in range(self.tuning.connections - 1)]
        return hold[1]

    def alone(self) -> bool:
        """Whether the other connections have all given up: the first one may read on as far as it can."""
        return bool(self._lanes) and all(lane.done() for lane in self._lanes)

    async def _beside(self) -> None:
        """A further connection: takes ranges while there are any. Whatever it meets, the first one goes on."""
        failures = 0
        while failures < self.tries:
            try:
                if not await Lane(self).next():
                    return
                failures = 0
            except (asyncio.TimeoutError, aiohttp.ClientError, ConnectionError) as e:
                failures += 1
                await asyncio.sleep(self.wait_of(e, failures))
            except (Again, RbeeError):
                # Refused, or too many: this server wants fewer connections.
                return

    async def _dismiss(self) -> None:
        """No other lane any more; what they brought is noted."""
        lanes, self._lanes = self._lanes, []
        noting, self._noting = self._noting, None
        await end_tasks(*lanes)
        if noting is not None:
            self._noted.set()
            await asyncio.wait({noting})
            self._noted.clear()

    def _keep_noting(self) -> None:
        if self._noting is None:
            self._noting = asyncio.create_task(self._note_now_and_then())

    async def _note_now_and_then(self) -> None:
        """Until told that it is enough, and once more then."""
        ended = False
        while not ended:
            await asyncio.wait({waiting := asyncio.ensure_future(self._noted.wait())}, timeout=self.tuning.note_every)
            ended = self._noted.is_set()
            waiting.cancel()
            await asyncio.to_thread(self.save_note)

    def save_note(self) -> None:
        self.part.save_note(gaps=self.gaps)

    async def forget(self) -> None:
        """Throw away what is here, and begin again."""
        await self._quiet()
        self._held = None
        await asyncio.to_thread(self.part.forget)
        self.gaps, self.total = False, self.file.size
        self._digest = self._new_digest()

    def write(self, start: int, pieces: list[bytes]) -> asyncio.Task[None]:
        """Into the file, by a thread; not cancelled with whoever asks."""
        task = asyncio.ensure_future(self._write(start, pieces))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    async def _write(self, start: int, pieces: list[bytes]) -> None:
        size = await asyncio.get_running_loop().run_in_executor(self.pool, self.part.write, start, pieces)
        self.part.ranges.add(start, start + size)
        self._digest.offer(start, pieces)
        self.catch_up()
        self.on_bytes(self.part.ranges.count, self.total)

    def catch_up(self) -> None:
        """Let a thread hash what is here in order; one at a time."""
        frontier = self.part.ranges.frontier
        if self._digest.hashed >= frontier or (self._hashing is not None and not self._hashing.done()):
            return
        self._hashing = asyncio.get_running_loop().run_in_executor(self.pool, self._digest.catch_up, frontier)
        self._hashing.add_done_callback(self._caught_up)

    def _caught_up(self, hashed: asyncio.Future[None]) -> None:
        if hashed is self._hashing and not hashed.cancelled() and hashed.exception() is None:
            self.catch_up()
