# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks: the fleet's token, a client's own key, or, on loopback, anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rbee.adapters.secrets import Token
from rbee.contracts.configs import QueenConfig
from rbee.core.errors import Unauthorized
from rbee.core.spec import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Whose request it is. `name` is shown in logs and metrics and is never a secret."""

    name: str = ""
    priority: Priority = "interactive"
    weight: int = 1
    requests_per_minute: int | None = None
    concurrent: int | None = None
    require: Mapping[str, str] = field(default_factory=dict)


class Clients:
    """All who may ask. `configure` replaces them."""

    def __init__(self, config: QueenConfig) -> None:
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self._anybody = Client(
            requests_per_minute=config.limits.requests_per_minute, concurrent=config.limits.concurrent
        )

    def identify(self, headers: Mapping[str, str], token: Token | None) -> Client:
        """Who sends these headers to a listener that wants `token` (None: open). Raises Unauthorized."""
        if token is not None and not token.matches(headers.get("Authorization", "")[7:]):
            raise Unauthorized("This address wants the fleet's token or a key.")
        return self._anybody
