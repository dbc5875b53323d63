# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection of a download: asks for a range, and pours what comes into the part while it watches the speed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic
from typing import Protocol

import aiohttp

from rbee.adapters.fetch.http import Again, Sent, Useless, read_answer, total_of_416
from rbee.adapters.fetch.part import Part
from rbee.adapters.fetch.tuning import Tuning
from rbee.adapters.sources.base import SourceFile
from rbee.core.errors import RbeeError

#: Bytes read that may wait for the disk.
_BACKLOG = 8 * 2**20


class Work(Protocol):
    """What a connection needs of the download that it is one of."""

    url: str
    host: str
    file: SourceFile
    expected: str | None
    tuning: Tuning
    session: aiohttp.ClientSession
    part: Part
    total: int | None
    refuses_ranges: bool

    def alone(self) -> bool: ...

    async def spread(self, start: int, at: int) -> int | None: ...

    def save_note(self) -> None: ...

    async def forget(self) -> None: ...

    def write(self, start: int, pieces: list[bytes]) -> asyncio.Task[None]: ...


class Lane:
    """One answer of the server. `first` is the connection that every download has, `next` takes a range of the rest."""

    def __init__(self, download: Work) -> None:
        self._d = download
        #: Where it ends before the file does, because others have what follows.
        self.end: int | None = None
        self._pace = _Pace(download.tuning.silence, download.tuning.floor)

    async def first(self) -> bool:
        """From the first missing byte on; True when that was all of the file that there is."""
        d, ranges = self._d, self._d.part.ranges
        start = ranges.frontier
        if d.expected is not None and ranges.whole(d.total):
            return True
        async with d.session.get(d.url, headers=self._headers(start, None)) as answer:
            if answer.status == 416 and start and start == total_of_416(answer):
                d.total = start
                return True
            sent = read_answer(answer, d.host)
            if sent.start != start or (start and self._changed(sent)):
                await d.forget()
                if sent.start:
                    raise Again(f"the server sent another range, from {sent.start}")
                start = 0
            await self._expect(answer, sent, start)
            end = await self._pour(answer, start, d.part.ranges.wall(start + 1), self._may_spread(sent))
            if d.total is None:
                d.total = end
                return True
            if end < (d.total if self.end is None else self.end):
                raise Again(f"it ended after {end} of {d.total} bytes")
            return False

    async def next(self) -> bool:
        """The first range that nobody has; False when there is none."""
        d = self._d
        total = d.total
        claimed = d.part.ranges.claim(total, d.tuning.block_of(total)) if total is not None else None
        if claimed is None:
            return False
        start, end = claimed
        try:
            async with d.session.get(d.url, headers=self._headers(start, end)) as answer:
                sent = read_answer(answer, d.host)
                d.refuses_ranges = d.refuses_ranges or answer.status == 200
                if answer.status != 206 or sent.start != start or self._changed(sent):
                    raise Again("the server does not send the range that it was asked for")
                if await self._pour(answer, start, end) < end:
                    raise aiohttp.ClientPayloadError("the range ended early")
        finally:
            d.part.ranges.release(claimed)
        return True

    def _headers(self, start: int, end: int | None) -> dict[str, str]:
        headers = dict(self._d.file.headers)
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            # With a digest to tell in the end, each node of a server may call the same file what it likes.
            if self._d.part.origin.validator and self._d.expected is None:
                headers["If-Range"] = self._d.part.origin.validator
        return headers

    def _changed(self, sent: Sent) -> bool:
        """Whether this is of another file than what is here; for servers that do not know If-Range."""
        origin = self._d.part.origin
        both = self._d.expected is None and None not in (origin.validator, sent.validator)
        other = both and origin.validator != sent.validator
        return other or (None not in (origin.size, sent.total) and origin.size != sent.total)

    async def _expect(self, answer: aiohttp.ClientResponse, sent: Sent, start: int) -> None:
        """Check what comes against what the source said and the disk has; note it."""
        d = self._d
        total = sent.total
        if total is None and answer.content_length is not None:
            total = start + answer.content_length
        said = d.file.size
        if said is not None and total is not None and said != total:
            raise RbeeError(f"{d.host} sends {total} bytes, its index says {said}.", code="wrong_length")
        d.total = said if total is None else total
        d.part.origin = replace(d.part.origin, validator=sent.validator, size=total, sha256=d.expected)
        if total is not None:
            await asyncio.to_thread(d.part.room_for, total)
        await asyncio.to_thread(d.save_note)
        d.part.open()

    def _may_spread(self, sent: Sent) -> bool:
        """Whether several connections would get parts of one and the same file."""
        d = self._d
        known = sent.strong or (sent.validator is not None and d.expected is not None)
        return (
            sent.ranges and known and not d.refuses_ranges and d.total is not None and d.total >= d.tuning.parallel_from
        )

    async def _pour(self, answer: aiohttp.ClientResponse, start: int, end: int | None, may_spread: bool = False) -> int:
        """Read on while what came before is written and hashed by threads; where it ended."""
        d, pace, sink = self._d, self._pace, _Sink(self._d, start)
        self.end = end
        try:
            while self.end is None or sink.at < self.end:
                piece = await pace.read(answer.content)
                if not piece:
                    break
                if d.total is not None and sink.at + len(piece) > d.total:
                    if d.expected is not None:
                        # What comes behind the file is left; the digest tells whether it is the file.
                        sink.add(piece[: d.total - sink.at])
                        break
                    raise Useless(f"the server sent more than {d.total} bytes")
                if self.end is not None and d.alone():
                    self.end = d.part.ranges.wall(sink.at + 1)
                sink.add(piece if self.end is None else piece[: self.end - sink.at])
                await sink.room()
                if may_spread and pace.slower_than(d.tuning.fast, d.tuning.probe):
                    may_spread, self.end = False, await d.spread(start, sink.at)
        finally:
            # What came before a break or a cancel is kept too.
            await sink.drained()
        sink.check()
        return sink.at


class _Sink:
    """Writes what comes, in order; what comes meanwhile goes with the next write."""

    def __init__(self, download: Work, start: int) -> None:
        self._d = download
        #: Up to where bytes have come, and up to where they are written or being written.
        self.at = self.written = start
        self._pending: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._failed: BaseException | None = None

    def add(self, piece: bytes) -> None:
        self._pending.append(piece)
        self.at += len(piece)
        if self._task is None:
            self._start()

    async def room(self) -> None:
        """Returns when not too much waits. Raises what the disk said."""
        self.check()
        while self._task is not None and self.at - self.written >= _BACKLOG:
            await asyncio.wait({self._task})
        self.check()

    async def drained(self) -> None:
        while self._task is not None:
            await asyncio.wait({self._task})

    def check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _start(self) -> None:
        pieces, self._pending = self._pending, []
        self._task = self._d.write(self.written, pieces)
        self.written = self.at
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task, self._failed = None, task.exception()
        if self._pending and self._failed is None:
            self._start()


class _Pace:
    """How fast a connection is, by the time spent waiting for it: a slow disk is not its fault."""

    def __init__(self, silence: float, floor: float) -> None:
        self._silence, self._floor = silence, floor
        #: Bytes and seconds, since the last look at the floor and since the last at the top.
        self._low = self._high = (0, 0.0)
        self._looked = monotonic()
        self._broken: Exception | None = None

    async def read(self, content: aiohttp.StreamReader) -> bytes:
        """The next bytes; empty at the end. Raises Again when it has been too slow for too long.

        A connection that broke raises what broke it after all that it brought: who is cut off early, each time, gets
        on nevertheless.
        """
        if self._broken is not None:
            raise self._broken
        began = monotonic()
        try:
            piece = await content.readany()
        except (aiohttp.ClientError, ConnectionError) as e:
            piece, self._broken = _left_in(content), e
            if not piece:
                raise
        waited = monotonic() - began
        self._low = (self._low[0] + len(piece), self._low[1] + waited)
        self._high = (self._high[0] + len(piece), self._high[1] + waited)
        if piece and self._low[1] >= self._silence:
            count, seconds = self._low
            if count < self._floor * seconds:
                raise Again(f"it brought {count} bytes in {seconds:.0f} s", barren=True)
            self._low = (0, 0.0)
        return piece

    def slower_than(self, fast: float, every: float) -> bool:
        """Looked at from time to time; False between."""
        now = monotonic()
        if now - self._looked < every:
            return False
        count, seconds = self._high
        self._looked, self._high = now, (0, 0.0)
        return count < fast * max(seconds, 1e-9)


def _left_in(content: aiohttp.StreamReader) -> bytes:
    """What came before the connection broke: a reader that was told of the break keeps it to itself."""
    content.set_exception(None)  # type: ignore[arg-type] # there is no other way to the bytes; None is its beginning
    return content.read_nowait()
