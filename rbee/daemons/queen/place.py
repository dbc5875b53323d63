# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the queen listens, and which of her addresses is told to whom."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from rbee.adapters.secrets import Token
from rbee.contracts.configs import QueenConfig
from rbee.daemons import access
from rbee.daemons.queen.known.hives import queen_url_for

ANYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Listeners that are open: `urls` and `ports` are theirs, in their order, the clients' first."""

    urls: Sequence[str]
    ports: Sequence[int]
    listeners: Sequence[access.Listener]
    config: QueenConfig

    @property
    def local_url(self) -> str:
        """As processes of this machine reach it."""
        return f"http://127.0.0.1:{self._any_port}" if self._any_port is not None else self.urls[0]

    def towards(self, hive_url: str) -> str | None:
        """As the hive at `hive_url` and its workers reach it; None when they cannot."""
        return queen_url_for(hive_url, self.local_url, self._fleet_urls, self._any_port)

    @property
    def _any_port(self) -> int | None:
        """The port of the clients' listener when that is on all addresses."""
        return self.ports[0] if self.listeners[0].host in ANYWHERE else None

    @property
    def _fleet_urls(self) -> list[str]:
        """What hives on other machines may be told; an address that the clients' listener covers counts too."""
        found = [u for u in self.urls if not access.is_loopback(urlsplit(u).hostname or "")]
        if self._any_port is not None:
            hosts = [access.split_address(x)[0] for x in self.config.fleet_listen]
            found += [f"http://{f'[{h}]' if ':' in h else h}:{self._any_port}" for h in hosts]
        return [u for u in found if urlsplit(u).hostname not in ANYWHERE]


def listeners_of(config: QueenConfig, token: Token | None) -> list[access.Listener]:
    """The clients' listener, then those for hives, without what the first one covers already."""
    first = access.listener(config.listen, token)
    found = [first]
    for said in config.fleet_listen:
        more = access.listener(said, token)
        covered = first.host in ANYWHERE and first.port == more.port
        if not covered and (more.port == 0 or all((x.host, x.port) != (more.host, more.port) for x in found)):
            found.append(more)
    return found


def token_digest(token: Token | None) -> str | None:
    """First 16 hex digits of the token's SHA-256: tells that the file has another one by now, and no more."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()[:16] if token is not None else None
