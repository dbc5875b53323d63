# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may ask: loopback may be open, every other listener wants the fleet's token."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from aiohttp import web

from rbee.adapters.secrets import Token, load_token
from rbee.core.errors import InvalidRequest, RbeeError, Unauthorized

__all__ = [
    "Access",
    "Listener",
    "Token",
    "authorize",
    "is_loopback",
    "listener",
    "load_token",
    "refuse_foreign_pages",
    "shows",
    "split_address",
]

#: `open` routes answer anyone (`/health`, `/readyz`); `token` routes as the listener says; `client` routes find out for
#: themselves who asks, because more than the fleet's token opens them.
Access = Literal["token", "open", "client"]


@dataclass(frozen=True, slots=True)
class Listener:
    """An address to listen on. `token` None: open to whoever reaches it, which only loopback may be."""

    host: str
    port: int
    token: Token | None = None


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:7833` or `[::1]:7833`. Raises InvalidRequest."""
    host, _, port = listen.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidRequest(f"{listen!r} is not an address with a port.", mend="Write it like 127.0.0.1:7833.")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; a name other than localhost counts as the world."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listener(listen: str, token: Token | None) -> Listener:
    """The listener for `listen`: loopback is open, anything else wants `token`.

    Raises RbeeError (code `token_required`) for another address without a token.
    """
    host, port = split_address(listen)
    if is_loopback(host):
        return Listener(host, port, None)
    if token is None:
        raise RbeeError(
            f"Refusing to listen on {listen} without a token: anyone on the network could use this machine.",
            code="token_required",
            mend="Name a token file (token_file) or listen on 127.0.0.1.",
        )
    return Listener(host, port, token)


#: Names that only a private network's own resolver answers for.
_PRIVATE = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
_private_hosts: set[str] = set()


def is_private_name(host: str) -> bool:
    """Whether a `Host` header names no site of the internet: an address, a bare name, a private network's name.

    A site whose name is pointed at 127.0.0.1 after its page was loaded would else read everything here.
    """
    name = _hostname(f"//{host}")
    if not name:
        return not host
    if "." not in name or name.endswith(_PRIVATE):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def authorize(request: web.Request, token: Token | None) -> None:
    """Lets the request pass or raises Unauthorized.

    Without a token (loopback) only what a web page from elsewhere makes a browser send is refused: else any site
    that this machine's user visits could start jobs here and read their results. The cost is three header look-ups.
    """
    headers = request.headers
    if token is None:
        refuse_foreign_pages(headers)
        return
    if not shows(request, token):
        raise Unauthorized(
            "This address wants the fleet's token.", mend="Send it as `Authorization: Bearer ...` or `x-api-key`."
        )


def shows(request: web.Request, token: Token) -> bool:
    """Whether the request carries the token."""
    said = request.headers.get("Authorization")
    if said is not None and said[:7].lower() == "bearer ":
        return token.matches(said[7:].strip())
    key = request.headers.get("x-api-key")
    return key is not None and token.matches(key)


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def refuse_foreign_pages(headers: Mapping[str, str]) -> None:
    """Raises Unauthorized for what a page of another site makes a browser send, or for a `Host` of the internet."""
    origin, host, site = headers.get("Origin"), headers.get("Host", ""), headers.get("Sec-Fetch-Site")
    # What a browser says even where it names no origin: for an image, a script, a link.
    foreign = site == "cross-site" if origin is None else not is_loopback(_hostname(origin))
    if foreign:
        raise Unauthorized("Requests from web pages of other sites are not served here.", code="foreign_origin")
    if host not in _private_hosts:
        if not is_private_name(host):
            raise Unauthorized(
                f"{host[:100]!r} is not a name of this machine.",
                code="foreign_host",
                mend="Behind a proxy, let it send `Host: localhost`.",
            )
        if len(_private_hosts) < 256:
            _private_hosts.add(host)
