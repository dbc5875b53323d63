# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of clients: requests a minute and requests at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rbee.core.errors import TooMany
from rbee.core.rate import Bucket, Left
from rbee.daemons.queen.admission.clients import Client

#: Nobody is told to come again later than this, nor sooner than in a second.
LONGEST_WAIT = 120.0
#: Clients whose state is kept, before those without any are forgotten.
_KEPT = 2048


class Rates(Protocol):
    """The port behind which requests a minute are counted: here, or for several queens together. Never blocks."""

    def take(self, name: str, per_minute: int, now: float) -> float:
        """Takes one and gives 0, or takes nothing and gives the seconds after which it would."""
        ...

    def left(self, name: str, per_minute: int, now: float) -> Left:
        """What `take` would find."""
        ...


class Means(Protocol):
    """Knows what answers take, in seconds; None: not measured."""

    def mean(self, models: tuple[str, ...]) -> float | None: ...


class LocalRates:
    """Counted in this process."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def take(self, name: str, per_minute: int, now: float) -> float:
        return self.bucket(name, now).take(per_minute, now)

    def bucket(self, name: str, now: float) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= _KEPT:
                self._buckets = {key: b for key, b in self._buckets.items() if b.full > now}
            bucket = self._buckets[name] = Bucket()
        return bucket

    def left(self, name: str, per_minute: int, now: float) -> Left:
        return self._buckets.get(name, Bucket()).left(per_minute, now)


class Limits:
    """Counts clients in and out. `rates` may be replaced by one that queens share, before the first request."""

    def __init__(self, rates: Rates | None = None) -> None:
        self.rates: Rates = rates if rates is not None else LocalRates()
        self._running: dict[str, int] = {}

    def running(self, name: str) -> int:
        """Requests that a client with a limit has admitted now."""
        return self._running.get(name, 0)

    def check(self, client: Client, now: float, means: Means, models: tuple[str, ...]) -> None:
        """Raises TooMany: `rate_limited` (Retry-After is exact), or `too_many_concurrent` (when to come again is told
        by what answers of these models take). A request that is refused costs nothing."""
        most = client.concurrent
        if most is not None and self._running.get(client.name, 0) >= most:
            wait = (means.mean(models) or 1.0) / most
            running = "one request" if most == 1 else f"{most} requests"
            raise TooMany(
                f"{_who(client)} has {running} running already, as many as it may have at once.",
                code="too_many_concurrent",
                mend="Wait for one of them to end.",
                retry_after=min(max(wait, 1.0), LONGEST_WAIT),
            )
        per_minute = client.requests_per_minute
        if per_minute is not None and (wait := self.rates.take(client.name, per_minute, now)) > 0:
            raise TooMany(
                f"{_who(client)} may ask {per_minute} times a minute. The next request is welcome in {_seconds(wait)}.",
                code="rate_limited",
                retry_after=wait,
                headers=headers_of(self.rates.left(client.name, per_minute, now), wait),
            )

    def enter(self, client: Client) -> None:
        """One of its requests begins."""
        if client.concurrent is not None:
            self._running[client.name] = self._running.get(client.name, 0) + 1

    def leave(self, client: Client) -> None:
        """It is over. The same client as in `enter`: limits may have changed meanwhile."""
        if client.concurrent is not None:
            left = self._running.get(client.name, 0) - 1
            if left > 0:
                self._running[client.name] = left
            else:
                self._running.pop(client.name, None)


def headers_of(left: Left, wait: float | None = None) -> Mapping[str, str]:
    """As OpenAI sends them; `retry-after-ms` is what its clients read first, and is exact where seconds are not."""
    found = {
        "x-ratelimit-limit-requests": str(left.limit),
        "x-ratelimit-remaining-requests": str(left.remaining),
        "x-ratelimit-reset-requests": _seconds(left.reset),
    }
    if wait is not None:
        found["retry-after-ms"] = str(int(wait * 1000) + 1)
    return found


def _seconds(seconds: float) -> str:
    """`120ms`, `1.5s`, `6m0s`: as OpenAI writes durations."""
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    shown = f"{rest:.1f}".removesuffix(".0") + "s"
    return f"{int(minutes)}m{shown}" if minutes else shown


def _who(client: Client) -> str:
    return f"The client {client.name!r}" if client.name else "This client"
