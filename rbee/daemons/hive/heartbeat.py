# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hive tells its queen: every interval, and at once when something changes. Only to a queen that asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from rbee.adapters import system
from rbee.adapters.paths import write_atomic
from rbee.adapters.tasks import end_tasks
from rbee.contracts import codec, defaults
from rbee.contracts.heartbeat import CapabilityChanges, HiveHeartbeat, ModelChange, MonitorData, WorkerChange
from rbee.core.errors import InvalidRequest, Unauthorized
from rbee.daemons.access import is_loopback

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownQueen:
    """What is kept on disk, so that a hive that restarts goes on without being discovered again."""

    queen_url: str
    #: Whether it may be shown the fleet's token.
    trusted: bool = False


class Heartbeat:
    """One task at most. Changes wait until the queen has taken them; of one model or worker only the last counts."""

    def __init__(
        self,
        hive_id: str,
        interval: float,
        kept: Path,
        headers: dict[str, str],
        monitor: Callable[[], Awaitable[MonitorData]],
    ) -> None:
        self._hive_id = hive_id
        self._interval = interval
        self._kept = kept
        self._headers = headers
        self._monitor = monitor
        self._models: dict[str, ModelChange] = {}
        self._workers: dict[str, WorkerChange] = {}
        self._news = asyncio.Event()
        #: The queen has asked again: no need to wait longer for her.
        self._knocked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Two queens at once must not get two tasks, of which one would be forgotten.
        self._changing = asyncio.Lock()
        self.queen_url: str | None = None
        self.trusted = False
        self.sent = 0
        self.failures = 0
        #: When the queen stopped taking heartbeats, RFC 3339; None while she does.
        self.failing_since: str | None = None

    async def start(self) -> None:
        """Go on with the queen that the hive before this one knew, if it knew one."""
        try:
            known = codec.decode(KnownQueen, await asyncio.to_thread(self._kept.read_bytes))
        except (OSError, codec.CodecError):
            return
        self._begin(known)

    async def discovered(self, queen_url: str, trusted: bool) -> None:
        """A queen asks for heartbeats. The same one again starts nothing anew, but one that had not taken them is up
        now, and is sent one at once; another takes her place.

        `trusted`: the asker has shown the token, or the settings name this queen. Anyone else on this machine (or
        a web page in its browser) may only name a queen of this machine, and that one is sent no token. Raises
        InvalidRequest for what is no address, Unauthorized.
        """
        url = queen_url.rstrip("/")
        host = _host_of(url)
        if host is None:
            raise InvalidRequest("queen_url must be http://HOST:PORT.")
        if not trusted and not is_loopback(host):
            raise Unauthorized("Only who shows the fleet's token may send heartbeats to another machine.")
        async with self._changing:
            if url == self.queen_url and self.trusted >= trusted:
                self._knocked.set()
                return
            await self.stop()
            known = KnownQueen(queen_url=url, trusted=trusted)
            self._begin(known)
        try:
            await asyncio.to_thread(write_atomic, self._kept, codec.encode_pretty(known), 0o600)
        except OSError as e:  # a full disk; the queen will say it again to the hive after this one
            log.warning("the queen's address cannot be kept: %s", e)

    async def stop(self) -> None:
        if self._task is not None:
            await end_tasks(self._task, again=1.0)
            self._task = None

    def model_changed(self, change: ModelChange) -> None:
        self._models[change.model_id] = change
        self._news.set()

    def worker_changed(self, change: WorkerChange) -> None:
        self._workers[change.worker_id] = change
        self._news.set()

    def _begin(self, known: KnownQueen) -> None:
        self.queen_url, self.trusted = known.queen_url, known.trusted
        headers = self._headers if known.trusted else {}
        self._task = asyncio.create_task(self._run(known.queen_url, headers), name="hive-heartbeat")

    async def _run(self, url: str, token: dict[str, str]) -> None:
        timeout = aiohttp.ClientTimeout(total=defaults.HEARTBEAT_TIMEOUT)
        async with aiohttp.ClientSession(headers=token, timeout=timeout) as session:
            while True:
                self._news.clear()
                self._knocked.clear()
                if await self._send(session, url):
                    self.failures, self.failing_since = 0, None
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._news.wait(), self._interval)
                else:
                    self.failures += 1
                    if self.failures == 1:
                        self.failing_since = system.now()
                        log.warning("the queen at %s takes no heartbeat", url)
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._knocked.wait(), wait_after(self.failures))

    async def _send(self, session: aiohttp.ClientSession, url: str) -> bool:
        """Whether the queen took it."""
        models, workers = dict(self._models), dict(self._workers)
        changes = CapabilityChanges(models=tuple(models.values()), workers=tuple(workers.values()))
        try:
            body = HiveHeartbeat(
                hive_id=self._hive_id,
                timestamp=system.now(),
                monitor_data=await self._monitor(),
                capability_changes=changes if models or workers else None,
            )
            headers = {"Content-Type": "application/json"}
            # Never to where an answer sends it: the address is the queen's, and so is the token.
            async with session.post(
                f"{url}/v1/hive-heartbeat", data=codec.encode(body), headers=headers, allow_redirects=False
            ) as answer:
                if answer.status >= 300:
                    log.debug("heartbeat refused: %d", answer.status)
                    return False
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as e:
            log.debug("heartbeat failed: %s", e)
            return False
        except Exception:  # a look at the machine that failed: the next one may not
            log.exception("no heartbeat could be made")
            return False
        self.sent += 1
        # What changed while it was on its way stays for the next.
        self._models = {k: v for k, v in self._models.items() if models.get(k) is not v}
        self._workers = {k: v for k, v in self._workers.items() if workers.get(k) is not v}
        return True


def wait_after(failures: int) -> float:
    """Seconds until a queen that took nothing, so often in a row, is tried again."""
    return min(defaults.BACKOFF_MAX, defaults.BACKOFF_FIRST * 2.0 ** min(failures, 10))


def _host_of(url: str) -> str | None:
    """The host of `http://HOST:PORT`; None for anything else: what follows a path or a query would be the asker's."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or len(url) > 500 or port == 0:
        return None
    return parts.hostname if parts.netloc == url.partition("://")[2] and "@" not in url else None
