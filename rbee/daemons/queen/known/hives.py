# SPDX-License-Identifier: GPL-3.0-or-later
"""The hives of the fleet: discovered by a handshake, heard by heartbeats, asked again when silent."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import aiohttp

from rbee.adapters.secrets import Token
from rbee.adapters.system import now as wall_now
from rbee.adapters.tasks import end_tasks
from rbee.adapters.trouble import words
from rbee.contracts import codec, defaults
from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import KnownHive
from rbee.contracts.heartbeat import HiveHeartbeat
from rbee.contracts.operations.hives import HiveSummary
from rbee.core.errors import NotFound, Unreachable
from rbee.daemons.access import is_loopback
from rbee.daemons.queen.known.probe import Prober
from rbee.daemons.queen.known.registry import Registry, Worker

log = logging.getLogger(__name__)

Status = Literal["online", "stale", "unreachable", "unknown"]
#: A hive is asked again when it has been silent for so many heartbeat intervals.
_MISSED = 1.5


@dataclass(slots=True)
class Hive:
    """What the queen knows of one hive."""

    known: KnownHive
    capabilities: Capabilities | None = None
    heartbeat: HiveHeartbeat | None = None
    last_seen: float | None = None
    last_seen_at: str = ""
    error: str | None = None
    #: Worker id to reason, as the hive's heartbeats told.
    failed: dict[str, str] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set each time it is heard of, by its answer or its heartbeat.
    heard: asyncio.Event = field(default_factory=asyncio.Event)


class Hives:
    """Owner of the hives' states and of one discovery task for each."""

    def __init__(
        self,
        registry: Registry,
        prober: Prober,
        http: aiohttp.ClientSession,
        *,
        token: Token | None,
        queen_url_for: Callable[[str], str | None],
        clock: Callable[[], float],
        interval: float = defaults.HEARTBEAT_INTERVAL,
    ) -> None:
        self._registry = registry
        self._prober = prober
        self._http = http
        self._token = token
        self._queen_url_for = queen_url_for
        self._clock = clock
        self._interval = interval
        self.by_id: dict[str, Hive] = {}
        #: The one inside the queen's own process, if there is one.
        self.local: str | None = None

    def configure(self, hives: Iterable[KnownHive]) -> list[Worker]:
        """The hives are these now: new ones are discovered, changed ones again, others forgotten with their workers,
        which are given back."""
        wanted = {h.hive_id: h for h in hives}
        self._registry.label({h.hive_id: h.labels for h in wanted.values()})
        for hive_id in [h for h in self.by_id if h not in wanted]:
            self._cancel(self.by_id.pop(hive_id))
        for hive_id, known in wanted.items():
            old = self.by_id.get(hive_id)
            if old is not None and old.known.url == known.url:
                old.known = known
                if old.error:
                    old.wake.set()  # whoever says so has perhaps just mended it
                continue
            if old is not None:
                self._cancel(old)
            hive = self.by_id[hive_id] = Hive(known)
            hive.task = asyncio.get_running_loop().create_task(self._discover(hive))
        return self._registry.of_hives(wanted)

    @staticmethod
    def _cancel(hive: Hive) -> None:
        if hive.task is not None:
            hive.task.cancel()

    async def stop(self) -> None:
        await end_tasks(*(h.task for h in self.by_id.values() if h.task is not None), again=1.0)

    async def _discover(self, hive: Hive) -> None:
        """Handshakes until it succeeds, then again whenever the hive has been silent for too long."""
        wait = defaults.BACKOFF_FIRST
        while True:
            hive.wake.clear()
            try:
                await self._handshake(hive)
            except Exception as e:  # whatever it was: a hive that nobody asks again is lost for good
                if hive.error != str(e):
                    known = isinstance(e, (Unreachable, codec.CodecError))
                    log.warning("hive %s: %s", hive.known.hive_id, e, exc_info=None if known else e)
                hive.error = str(e) or type(e).__name__
                await _pause(hive.wake, wait)
                wait = min(wait * 2, defaults.BACKOFF_MAX)
                continue
            wait = defaults.BACKOFF_FIRST
            while not self._silent(hive):
                if await _pause(hive.wake, self._interval / 2):
                    break

    def _silent(self, hive: Hive) -> bool:
        return hive.last_seen is None or self._clock() - hive.last_seen > self._interval * _MISSED

    async def _handshake(self, hive: Hive) -> None:
        """`GET /capabilities?queen_url=...`: what is there, and from now on its heartbeats. Raises Unreachable."""
        url = hive.known.url.rstrip("/")
        headers = self._token.header if self._token else {}
        mine = self._queen_url_for(url)
        query = {"queen_url": mine} if mine else {}
        timeout = aiohttp.ClientTimeout(total=defaults.PROBE_TIMEOUT, connect=defaults.CONNECT_TIMEOUT)
        try:
            async with self._http.get(f"{url}/capabilities", params=query, headers=headers, timeout=timeout) as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise Unreachable(
                        f"{url} answers {answer.status} to the handshake: {body[:200].decode('utf-8', 'replace')}"
                    )
        except (aiohttp.ClientError, asyncio.TimeoutError, TimeoutError, OSError) as e:
            raise Unreachable(f"{url} does not answer: {words(e)}") from None
        found = codec.decode(Capabilities, body)
        if found.hive_id != hive.known.hive_id:
            raise Unreachable(f"{url} is the hive {found.hive_id!r}, not {hive.known.hive_id!r}.")
        self._seen(hive)
        hive.capabilities, hive.error = found, None
        hive.failed = {w.worker_id: w.reason or "" for w in found.workers if w.status == "failed"}
        log.info("hive %s discovered: %d workers", found.hive_id, len(found.workers))
        for worker in self._registry.discovered(found.hive_id, found.workers):
            self._prober.probe(worker)

    def heartbeat(self, beat: HiveHeartbeat) -> None:
        """Takes in a hive's heartbeat. Raises NotFound for a hive that is not of this fleet."""
        hive = self.by_id.get(beat.hive_id)
        if hive is None:
            raise NotFound(f"There is no hive {beat.hive_id!r} in this fleet.", code="hive_not_found")
        self._seen(hive)
        hive.heartbeat, hive.error = beat, None
        if hive.capabilities is None or beat.capability_changes is not None:
            hive.wake.set()  # see the whole of it again
        for change in beat.capability_changes.workers if beat.capability_changes else ():
            known = self._registry.workers.get(change.worker_id)
            theirs = known is not None and known.beat.hive_id == beat.hive_id  # else it has moved to another hive
            if change.action == "failed":
                hive.failed[change.worker_id] = change.reason or ""
                if known is not None and theirs:
                    self._registry.drop(change.worker_id, f"failed: {change.reason or 'says its hive'}")
                    self._prober.probe(known)
            else:
                hive.failed.pop(change.worker_id, None)
                if change.action == "removed" and theirs:
                    self._registry.forget(change.worker_id)

    def _seen(self, hive: Hive) -> None:
        hive.last_seen = self._clock()
        hive.last_seen_at = wall_now()
        hive.heard.set()

    async def heard(self, hive: Hive, timeout: float) -> bool:
        """Asks it now, and waits until it is heard of; False when that takes longer than `timeout` seconds."""
        hive.heard.clear()
        hive.wake.set()
        return await _pause(hive.heard, timeout)

    def get(self, hive_id: str) -> Hive:
        """Raises NotFound with the known names; an empty id is the only hive, when there is just one."""
        if not hive_id and len(self.by_id) == 1:
            return next(iter(self.by_id.values()))
        hive = self.by_id.get(hive_id)
        if hive is None:
            known = ", ".join(sorted(self.by_id)) or "none"
            said = f"There is no hive {hive_id!r}." if hive_id else "Which hive?"
            raise NotFound(said, code="hive_not_found", mend=f"Known hives: {known}.")
        return hive

    def status(self, hive: Hive) -> Status:
        if hive.last_seen is None:
            return "unreachable" if hive.error else "unknown"
        if self._clock() - hive.last_seen > self._registry.stale_after:
            return "unreachable" if hive.error else "stale"
        return "unreachable" if hive.error else "online"

    def summary(self, hive: Hive) -> HiveSummary:
        found = hive.capabilities
        failed = "; ".join(f"worker {w} failed: {reason}" for w, reason in sorted(hive.failed.items()))
        return HiveSummary(
            hive_id=hive.known.hive_id,
            url=hive.known.url,
            status=self.status(hive),
            last_seen=hive.last_seen_at,
            error=hive.error or failed or None,
            devices=found.devices if found else (),
            models=tuple(m.id for m in found.models) if found else (),
        )


async def _pause(event: asyncio.Event, seconds: float) -> bool:
    """Waits until `event`, at most `seconds`; whether it came."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except (asyncio.TimeoutError, TimeoutError):
        return False
    return True


def queen_url_for(hive_url: str, local_url: str, fleet_urls: list[str], any_port: int | None = None) -> str | None:
    """The queen's URL as this hive reaches it; None when it cannot: a loopback address is for loopback only.

    Of several addresses the one that this machine would use towards the hive. `any_port`: the port of a listener
    on all addresses, if there is one.
    """
    host = urlsplit(hive_url).hostname or ""
    if is_loopback(host):
        return local_url
    if len(fleet_urls) == 1:
        return fleet_urls[0]
    mine = _address_towards(host)
    if any_port is not None and mine:
        return f"http://{f'[{mine}]' if ':' in mine else mine}:{any_port}"
    return next((u for u in fleet_urls if urlsplit(u).hostname == mine), fleet_urls[0] if fleet_urls else None)


def _address_towards(host: str) -> str | None:
    """This machine's address on the way to `host`; nothing is sent."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[
            0
        ]
        with socket.socket(family, kind) as s:
            s.connect(address)
            return str(s.getsockname()[0])
    except OSError:
        return None
