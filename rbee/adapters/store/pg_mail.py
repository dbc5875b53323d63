# SPDX-License-Identifier: GPL-3.0-or-later
"""What other queens tell by way of PostgreSQL: heard on a connection of its own, handed on in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from rbee.adapters.store.pg_link import Link, close, is_away, words
from rbee.adapters.store.pg_rows import CHANNEL
from rbee.contracts import defaults

log = logging.getLogger(__name__)

_Hear = Callable[[bytes], None]
#: A connection that says nothing is asked whether it is still there.
_PING_EVERY = 10.0
_PING_TIMEOUT = 5.0
_BACKOFF_MAX = 2.0
#: Notes that wait to be handed on, at most: then it is simpler to look at the whole again.
_MOST = 50_000


class Mail:
    """Belongs to one event loop. `letter` fetches what was too long for a note, by its number."""

    def __init__(self, link: Link, holder: str, letter: Callable[[int], Awaitable[str | None]]) -> None:
        self._link = link
        self._holder = holder
        self._letter = letter
        self._hearers: dict[str, list[_Hear]] = {}
        self._notes: asyncio.Queue[str | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self.listening = asyncio.Event()
        self._closing = False

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._listen(), name="store-listener"),
            loop.create_task(self._deliver(), name="store-mail"),
        ]

    async def close(self) -> None:
        # Before Python 3.12 `wait_for` may swallow a cancel that comes just as it ends.
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def subscribe(self, topic: str, hear: _Hear) -> Callable[[], None]:
        self._hearers.setdefault(topic, []).append(hear)
        return lambda: self._hearers[topic].remove(hear)

    async def _listen(self) -> None:
        wait = defaults.BACKOFF_FIRST
        while not self._closing:
            db: asyncpg.Connection[Any] | None = None
            try:
                db = await self._link.connect()
                await db.add_listener(CHANNEL, self._heard)
                wait = defaults.BACKOFF_FIRST
                self._notes.put_nowait(None)  # whatever was said before, nobody heard it
                self.listening.set()
                await self._stay(db)
            except Exception as e:
                if not is_away(e):
                    log.warning("%s cannot be listened to: %s", self._link.name, words(e))
            finally:
                self.listening.clear()
                await close(db)
            await asyncio.sleep(wait)
            wait = min(wait * 2, _BACKOFF_MAX)

    async def _stay(self, db: asyncpg.Connection[Any]) -> None:
        """Until the connection is lost."""
        loop = asyncio.get_running_loop()
        look = asyncio.Event()
        db.add_termination_listener(lambda _: look.set())
        while not db.is_closed() and not self._closing:
            timer = loop.call_later(_PING_EVERY, look.set)
            try:
                await look.wait()
            finally:
                timer.cancel()
            look.clear()
            if not db.is_closed():
                await db.execute("SELECT 1", timeout=_PING_TIMEOUT)

    def _heard(self, db: object, pid: int, channel: str, payload: object) -> None:
        if self._notes.qsize() < _MOST:
            self._notes.put_nowait(str(payload))
        elif self._notes.qsize() == _MOST:
            self._notes.put_nowait(None)

    async def _deliver(self) -> None:
        while not self._closing:
            note = await self._notes.get()
            if note is None:
                for topic in list(self._hearers):
                    self._hand(topic, b"")
                continue
            holder, _, rest = note.partition("\n")
            topic, _, said = rest.partition("\n")
            if holder == self._holder or topic.lstrip("@") not in self._hearers:
                continue
            if topic.startswith("@"):
                topic = topic[1:]
                said = await self._fetch(said)
            self._hand(topic, said.encode())

    async def _fetch(self, said: str) -> str:
        """Empty when it cannot be had: who hears it looks for itself."""
        try:
            return await self._letter(int(said)) or ""
        except Exception as e:
            log.warning("a letter in %s cannot be read: %s", self._link.name, words(e))
            return ""

    def _hand(self, topic: str, data: bytes) -> None:
        for hear in list(self._hearers.get(topic, ())):
            try:
                hear(data)
            except Exception:
                log.exception("what %s tells of %s was not understood", self._link.name, topic)
