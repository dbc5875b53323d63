# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks: the fleet's token, a client's own key, or, on loopback, anybody."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import hdrs

from rbee.adapters.secrets import BadSecret, Token
from rbee.contracts.configs import QueenConfig
from rbee.core.checks_queen import ANONYMOUS, FLEET
from rbee.core.errors import Unauthorized
from rbee.core.spec_queen import KeySpec, LimitsSpec
from rbee.core.spec_words import Priority
from rbee.daemons.access import refuse_foreign_pages
from rbee.daemons.queen.admission.keys import Keys, read_keys

#: For those beyond the strangers that are told apart.
_OTHERS = f"{ANONYMOUS}others"
#: Strangers that are told apart at a time, and headers whose sender is remembered.
_STRANGERS = 1024
_REMEMBERED = 4096
_AUTHORIZATION, _API_KEY = hdrs.AUTHORIZATION, "x-api-key"


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
    """All who may ask. `configure` replaces them; `token` is the fleet's, and opens every listener.

    On an open listener whoever sends a bearer that is no known key is a client of his own all the same, so that
    programs share a busy model fairly and each has its limits; he is called `anon-` and six digits that tell nothing
    of what he sent.
    """

    def __init__(self, config: QueenConfig, token: Token | None = None) -> None:
        """Raises BadSecret, as `configure`."""
        self._token = token
        #: Grows with each `configure`: who was identified before may be another now.
        self.generation = 0
        # Names stay the same over restarts and queens where there is something to make them of.
        self._salt = hashlib.sha256(token.reveal().encode() if token is not None else secrets.token_bytes(32)).digest()
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        """Reads the key files. Raises BadSecret; then everybody stays who he was."""
        found = read_keys(config.keys)
        if self._token is not None:
            for name, key in found.items():
                if key.matches(self._token.reveal()):
                    raise BadSecret(f"The key of {name!r} is the fleet's token.", code="bad_key_file", mend="Make one.")
        self.generation += 1
        self._keys = Keys(found)
        self._limits = config.limits
        self._named = {name: _client(name, key, config.limits) for name, key in config.keys.items()}
        self._named[FLEET] = self._stranger(FLEET)
        self._anybody = self._stranger("")
        self._others = self._stranger(_OTHERS)
        #: By what stood in the header: a look-up costs no digest then.
        self._known: dict[str, Client] = {}
        self._strangers: dict[str, Client] = {}

    def identify(self, headers: Mapping[str, str], token: Token | None) -> Client:
        """Who sends these headers to a listener that wants `token` (None: open, but not to web pages of other sites).
        Raises Unauthorized."""
        if token is None:
            refuse_foreign_pages(headers)
        said = headers.get(_AUTHORIZATION)
        if said is None:
            said = headers.get(_API_KEY)
            if said is None:
                if token is None:
                    return self._anybody
                raise _refused()
            said = "\0" + said
        client = self._known.get(said)
        if client is None and token is None:
            client = self._strangers.get(said)
        return client if client is not None else self._look_up(said, headers, token)

    def _look_up(self, said: str, headers: Mapping[str, str], token: Token | None) -> Client:
        remember = True
        if said[:1] == "\0":
            secret = said[1:]
        elif said[:7].lower() == "bearer ":
            secret = said[7:].strip()
        else:  # another scheme: a proxy's login, say; the key stands beside it
            secret, remember = headers.get(_API_KEY, ""), False
        name = self._keys.whose(secret)
        if name is None and self._token is not None and self._token.matches(secret):
            name = FLEET
        if name is not None:
            if remember:
                _make_room(self._known, _REMEMBERED)
                self._known[said] = self._named[name]
            return self._named[name]
        if token is not None:
            raise _refused()
        return self._anonymous(said if remember else "\0" + secret, secret) if secret else self._anybody

    def _anonymous(self, said: str, secret: str) -> Client:
        known = self._strangers.get(said)
        if known is None:
            if len(self._strangers) >= _STRANGERS:
                return self._others
            digest = hashlib.blake2b(secret.encode("utf-8", "surrogateescape"), key=self._salt, digest_size=3)
            known = self._strangers[said] = self._stranger(ANONYMOUS + digest.hexdigest())
        return known

    def _stranger(self, name: str) -> Client:
        return Client(
            name=name, requests_per_minute=self._limits.requests_per_minute, concurrent=self._limits.concurrent
        )


def _client(name: str, key: KeySpec, limits: LimitsSpec) -> Client:
    """A key's own limits, or what holds for each client."""
    return Client(
        name=name,
        priority=key.priority,
        weight=key.weight,
        requests_per_minute=key.requests_per_minute or limits.requests_per_minute,
        concurrent=key.concurrent or limits.concurrent,
        require=key.require,
    )


def _make_room(cache: dict[str, Client], most: int) -> None:
    if len(cache) >= most:
        cache.clear()


def _refused() -> Unauthorized:
    return Unauthorized(
        "This address wants the fleet's token or a key.", mend="Send it as `Authorization: Bearer ...` or `x-api-key`."
    )
