# SPDX-License-Identifier: GPL-3.0-or-later
"""Models held in memory: within a budget, the least recently used goes first, and whether it helped is counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee.adapters import pagecache, system
from rbee.adapters.keeper import Keeper
from rbee.core.errors import Conflict, Insufficient, InvalidRequest, NotFound, RbeeError
from rbee.core.records import ModelRecord

log = logging.getLogger(__name__)

#: Bytes read, bytes in all.
Progress = Callable[[int, int], None]
#: A model counts as in memory when so much of it is.
RESIDENT = 0.95


@dataclass(slots=True)
class Held:
    """A model that is, or is being, preloaded. `ready` with a keeper that holds it means locked."""

    model_id: str
    files: tuple[Path, ...]
    size: int
    stamp: tuple[tuple[int, int, int], ...]
    used_at: float
    keeper: Keeper | None = None
    ready: bool = False
    evicted: tuple[str, ...] = ()
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def locked(self) -> bool:
        return self.keeper is not None and self.keeper.holds

    def resident(self) -> int:
        """Bytes in memory; where the kernel does not tell, what was read is taken to be. Blocks."""
        total = 0
        for file, stamp in zip(self.files, self.stamp, strict=True):
            try:
                here = pagecache.resident(file)
            except OSError:
                here = 0
            total += (stamp[1] if self.ready else 0) if here is None else here
        return total

    def share(self) -> float:
        """About what share is in memory; none of a file that is another by now. Quick whatever the size. Blocks."""
        total = 0.0
        for file, stamp in zip(self.files, self.stamp, strict=True):
            try:
                there = pagecache.share(file) if file.stat().st_size == stamp[1] else 0.0
            except OSError:
                there = 0.0
            total += (float(self.ready) if there is None else there) * stamp[1]
        return total / self.size if self.size else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    hits: int = 0
    misses: int = 0
    evictions: int = 0


class Preloader:
    """Lives on one event loop. `in_use` tells whether a worker has a model open; the budget's default is half of the
    memory that is available (what is locked here counted as available)."""

    def __init__(self, in_use: Callable[[str], bool], budget_mb: int | None = None) -> None:
        self._in_use = in_use
        self._budget = None if budget_mb is None else budget_mb * 2**20
        self._held: dict[str, Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts = Counts()

    # What there is.

    async def budget(self) -> int:
        """Bytes that preloaded models may take together, now."""
        if self._budget is not None:
            return self._budget
        _, available = await asyncio.to_thread(system.memory)
        return (available + sum(h.size for h in self._held.values() if h.locked)) // 2

    def locked_bytes(self, model_id: str) -> int:
        """Of this model and of those that workers have open: their pages stay, so a worker of it needs no memory for
        them, though they do not look available."""
        locked = [h for h in self._held.values() if h.locked]
        return sum(h.size for h in locked if h.model_id == model_id or self._in_use(h.model_id))

    async def cached(self) -> dict[str, int]:
        """Bytes that are really in memory, of each preloaded model that is still there; by samples of large ones."""
        found = {}
        for held in [h for h in self._held.values() if h.ready]:
            share = await asyncio.to_thread(held.share)
            if share >= RESIDENT:
                found[held.model_id] = round(share * held.size)
        return found

    # What is done.

    async def load(self, record: ModelRecord, progress: Progress, evicting: Callable[[str], None]) -> Held:
        """The model's files in memory, once all are. Whoever asks for the same meanwhile waits for it.

        Cancelled: what was read is let go. Raises Insufficient `over_budget` when it can never fit,
        `not_enough_memory`, Conflict `model_not_ready`, RbeeError `preload_failed`.
        """
        if record.status != "available":
            why = record.error or f"it is {record.status}"
            raise Conflict(f"The model {record.id!r} is not ready: {why.rstrip('.')}.", code="model_not_ready")
        files = await asyncio.to_thread(files_of, record)
        stamp = await asyncio.to_thread(_stamp, files)
        while True:
            held = self._held.get(record.id)
            if held is None:
                held = Held(record.id, files, sum(s[1] for s in stamp), stamp, time.monotonic())
                self._held[record.id] = held
            async with held.loading:
                if self._held.get(record.id) is not held:
                    continue  # it failed, or was let go meanwhile
                if held.ready and held.stamp == stamp and await self._as_it_was(held):
                    held.used_at = time.monotonic()
                    held.evicted = ()
                    return held
                if held.ready:  # another file by now, or its lock or its pages are gone
                    await self._let_go(held)
                    continue
                return await self._fill(held, progress, evicting)

    async def _fill(self, held: Held, progress: Progress, evicting: Callable[[str], None]) -> Held:
        try:
            held.evicted = await self._room_for(held, evicting)
            held.keeper = Keeper(held.model_id)
            loop = asyncio.get_running_loop()

            def tell(done: int) -> None:
                loop.call_soon_threadsafe(progress, done, held.size)

            files = [(str(f), s[1]) for f, s in zip(held.files, held.stamp, strict=True)]
            await asyncio.to_thread(held.keeper.load, files, tell)
        except OSError as e:
            await self._let_go(held)
            raise RbeeError(f"No process can be started to read it: {e}.", code="preload_failed") from None
        except BaseException:
            await asyncio.shield(self._let_go(held))
            raise
        if self._held.get(held.model_id) is not held:
            await self._let_go(held)
            raise RbeeError(f"{held.model_id} was let go of while it was loaded.", code="preload_failed")
        held.ready = True
        held.used_at = time.monotonic()
        return held

    async def _room_for(self, held: Held, evicting: Callable[[str], None]) -> tuple[str, ...]:
        """Evicts the least recently used until `held` fits; which ones."""
        gone: list[str] = []
        budget = await self.budget()
        if held.size > budget:
            raise Insufficient(
                f"{held.model_id} has {_mb(held.size)}, and preloaded models may take {_mb(budget)} together.",
                code="over_budget",
                mend="Preload a smaller one, or raise the hive's preload budget.",
            )
        while sum(h.size for h in self._held.values()) > budget:
            others = [h for h in self._held.values() if h is not held and h.ready]
            if not others:
                raise Insufficient(
                    "Other models are being preloaded, and together they are more than the budget.",
                    code="over_budget",
                    mend="Wait for these.",
                )
            oldest = min(others, key=lambda h: h.used_at)
            evicting(oldest.model_id)
            await self.evict(oldest.model_id)
            gone.append(oldest.model_id)
        _, available = await asyncio.to_thread(system.memory)
        if held.size > available:
            raise Insufficient(
                f"{held.model_id} has {_mb(held.size)}, and only {_mb(available)} of memory are available.",
                code="not_enough_memory",
            )
        return tuple(gone)

    async def evict(self, model_id: str) -> int:
        """Let go of a model, also of one that is being loaded; the bytes that became free.

        Its pages stay while a worker has the model open. Raises NotFound `not_preloaded`.
        """
        held = self._held.get(model_id)
        if held is None:
            raise NotFound(f"The model {model_id!r} is not preloaded.", code="not_preloaded")
        before = await asyncio.to_thread(held.resident)
        if self._held.get(model_id) is not held:
            return 0
        self.counts = _plus(self.counts, evictions=1)
        await self._let_go(held)
        if not self._in_use(model_id):
            await asyncio.to_thread(_drop, held)
        return max(0, before - await asyncio.to_thread(held.resident))

    def forget(self, model_id: str) -> None:
        """The model was deleted: let go of its files. One that is not preloaded is no error."""
        if (held := self._held.get(model_id)) is not None:
            self._later(self._let_go(held))

    async def _let_go(self, held: Held) -> None:
        """Forgotten and killed before anything is awaited; a large mapping takes a moment to go."""
        if self._held.get(held.model_id) is held:
            del self._held[held.model_id]
        if held.keeper is not None:
            held.keeper.kill()
            await asyncio.to_thread(held.keeper.end)

    async def _as_it_was(self, held: Held) -> bool:
        was_locked = held.keeper is not None and held.keeper.locked
        return held.locked if was_locked else await asyncio.to_thread(held.share) >= RESIDENT

    def note_start(self, model_id: str, path: str) -> None:
        """A worker of the model starts at this moment: a hit when its files are in memory already."""
        if (held := self._held.get(model_id)) is not None:
            held.used_at = time.monotonic()
        self._later(self._count_start(held, Path(path)))

    def _later(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _count_start(self, held: Held | None, path: Path) -> None:
        files = held.files if held is not None else (path,)
        hit = held is not None and held.locked
        if not hit:
            hit = await asyncio.to_thread(_mostly_there, files, held is not None and held.ready)
        self.counts = _plus(self.counts, hits=int(hit), misses=int(not hit))

    async def stop(self) -> None:
        """Let go of everything; the pages stay in the cache while nobody needs the memory."""
        await asyncio.gather(*self._tasks, *(self._let_go(held) for held in list(self._held.values())))


def _plus(counts: Counts, *, hits: int = 0, misses: int = 0, evictions: int = 0) -> Counts:
    return Counts(hits=counts.hits + hits, misses=counts.misses + misses, evictions=counts.evictions + evictions)


def files_of(record: ModelRecord) -> tuple[Path, ...]:
    """All files of a model, split ones and those of a folder too. Raises InvalidRequest for names that lead away."""
    path = Path(record.path)
    if not record.files:
        return tuple(sorted(f for f in path.rglob("*") if f.is_file())) if path.is_dir() else (path,)
    folder = path
    if not path.is_dir():
        first = Path(record.files[0].name)
        folder = next((p for p in path.parents if p / first == path), path.parent)
    named = tuple(folder / file.name for file in record.files)
    for file in named:
        if ".." in file.parts or not file.is_relative_to(folder):
            raise InvalidRequest(f"The catalog's entry of {record.id!r} names a file outside of its folder.")
    return named


def _stamp(files: tuple[Path, ...]) -> tuple[tuple[int, int, int], ...]:
    """Inode, size and time of each file: another stamp is another file."""
    try:
        seen = [f.stat() for f in files]
    except OSError as e:
        raise RbeeError(f"A file of the model cannot be read: {e}.", code="preload_failed") from None
    return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in seen)


def _mostly_there(files: tuple[Path, ...], otherwise: bool) -> bool:
    for file in files:
        try:
            share = pagecache.share(file)
        except OSError:
            return False
        if share < RESIDENT if share is not None else not otherwise:
            return False
    return True


def _drop(held: Held) -> None:
    for file in held.files:
        try:
            pagecache.drop(file)
        except OSError as e:
            log.info("letting go of %s: %s", file, e)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
