# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's heartbeat, straight to the queen: at every change (a few a second at most) and every interval.

It never blocks serving and outlives any absence of the queen. A queen that knows a newer worker of the same id says
so in her answer. This one then goes on serving what it has and telling her: it gets no requests of hers, takes the
other's place when that one goes, and only its own hive may end it (a clock that was set back must not).
"""

from __future__ import annotations

import asyncio
import logging
import random
from urllib.parse import urljoin

import aiohttp

from rbee.adapters.secrets import Token
from rbee.adapters.tasks import end_tasks
from rbee.adapters.trouble import words
from rbee.contracts import codec, defaults
from rbee.daemons.worker.state import WorkerState

log = logging.getLogger(__name__)

#: At most one heartbeat in this many seconds; what changes meanwhile goes into the next.
SHORTEST = 0.25
#: While the model is being loaded she is told so often how far it is.
LOADING = 1.0
#: A queen that restarted hears of everybody within so many seconds, even where no hive tells her.
LONGEST_WAIT = 4.0


class Heartbeat:
    """Tells the queen at `queen_url`; one kept connection. `start` once, `stop` once."""

    def __init__(self, queen_url: str, token: Token | None, state: WorkerState, interval: float) -> None:
        self._url = urljoin(queen_url.rstrip("/") + "/", "v1/worker-heartbeat")
        self._headers = {"Content-Type": "application/json", **(token.header if token is not None else {})}
        self._state = state
        self._interval = interval
        self._news, self._urgent = asyncio.Event(), asyncio.Event()
        self._said = ""
        self._one_by_one = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._reached: bool | None = None
        #: What the queen last said of us.
        self.standing = "ok"

    def start(self) -> None:
        """Begins; the first heartbeat goes out at once."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=defaults.HEARTBEAT_TIMEOUT), trust_env=False
        )
        self._state.listen(self._heard)
        self._task = asyncio.create_task(self._run())

    async def say_now(self) -> None:
        """One heartbeat, waited for at most a second: the last one, when stopping."""
        try:
            await asyncio.wait_for(self._send(), 1.0)
        except (asyncio.TimeoutError, TimeoutError):
            pass

    async def stop(self) -> None:
        if self._task is not None:
            await end_tasks(self._task, again=1.0)
        if self._session is not None:
            await self._session.close()

    async def _run(self) -> None:
        backoff = defaults.BACKOFF_FIRST
        while True:
            self._news.clear()
            self._urgent.clear()
            self._said = self._phase()
            if await self._send():
                backoff = defaults.BACKOFF_FIRST
                await self._pause()
            else:
                await asyncio.sleep(backoff * random.uniform(0.8, 1.0))  # noqa: S311 - not all of a fleet at once
                backoff = min(backoff * 2, LONGEST_WAIT)

    def _phase(self) -> str:
        status = self._state.status
        return "serving" if status in ("ready", "busy") else status

    def _heard(self) -> None:
        self._news.set()
        if self._phase() != self._said:
            self._urgent.set()

    async def _pause(self) -> None:
        """Until there is something to say: another phase at once, another load at most every `SHORTEST` seconds."""
        interval = min(self._interval, LOADING) if self._state.phase == "starting" else self._interval
        for news, longest in ((self._urgent, SHORTEST), (self._news, interval)):
            try:
                await asyncio.wait_for(news.wait(), longest)
            except (asyncio.TimeoutError, TimeoutError):
                continue
            return

    async def _send(self) -> bool:
        """Whether the queen took it. Says only what changed in the log, not every try."""
        assert self._session is not None
        try:
            # One at a time: the last one and a sudden one share the connection, in order.
            async with (
                self._one_by_one,
                self._session.post(
                    self._url, data=codec.encode(self._state.heartbeat()), headers=self._headers
                ) as answer,
            ):
                self._heed(await answer.read())
                taken, why = answer.status < 300, f"it answered {answer.status}"
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as e:  # a host that is no name, too
            taken, why = False, words(e)
        if taken is not self._reached:
            self._reached = taken
            log.log(logging.INFO if taken else logging.WARNING, "queen: %s", "reached" if taken else why)
        return taken

    def _heed(self, body: bytes) -> None:
        """Notes what the queen says of us; the log has each change of it once."""
        try:
            said = codec.decode(dict[str, object], body)
        except codec.CodecError:
            return
        standing, reason = said.get("status"), said.get("reason")
        if isinstance(standing, str) and standing != self.standing:
            self.standing = standing[:40]
            level = logging.INFO if standing == "ok" else logging.WARNING
            log.log(level, "queen: says %s%s", self.standing, f": {str(reason)[:300]}" if reason else "")
