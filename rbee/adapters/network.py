# SPDX-License-Identifier: GPL-3.0-or-later
"""The way out of this machine, as its environment says it: proxies, and what is never sent where.

`HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in capitals or small letters, count as everywhere; looked at anew for each
request and each redirect. Not `~/.netrc`: a source has the token that its provider file names, and no other.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from rbee.adapters.trouble import words
from rbee.core.checks import is_loopback
from rbee.core.errors import InvalidRequest, RbeeError


def session(*, secure: bool, **options: Any) -> aiohttp.ClientSession:
    """A session that goes by the environment's proxies. `secure`: what was asked for by https is never fetched by
    http because some server sends elsewhere (RbeeError `insecure_redirect`)."""
    began = ""

    async def out(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        nonlocal began
        began = began or request.url.scheme
        if secure and began == "https" and request.url.scheme == "http":
            raise RbeeError(
                f"An https address leads to {request.url.host} by http, where anyone between can change what comes.",
                code="insecure_redirect",
                mend="Give the SHA-256 that it must have, or another source.",
            )
        found = await asyncio.to_thread(proxy_for, request.url)
        if found is not None:
            user = aiohttp.BasicAuth(found.user, found.password or "") if found.user else None
            request.update_proxy(found.with_user(None), user, None)
        return await send(request)

    return aiohttp.ClientSession(middlewares=(out,), **options)


def proxy_for(url: URL) -> URL | None:
    """Through what a URL is asked; None for straight on. Never through anything for this machine itself. Raises
    InvalidRequest for a proxy of another kind than http."""
    host = url.host or ""
    said = getproxies().get(url.scheme, "") if host and not is_loopback(host) and not proxy_bypass(host) else ""
    if not said:
        return None
    try:
        found = URL(said if "://" in said else f"http://{said}")
    except ValueError:
        found = URL()
    if found.scheme != "http" or not found.host:
        raise InvalidRequest(
            f"The hive's {url.scheme.upper()}_PROXY is no http:// proxy, and rbee knows no others.",
            mend="Set it to http://HOST:PORT, or name the host in NO_PROXY.",
        )
    return found


def final(error: BaseException, host: str) -> RbeeError | None:
    """What asking again will not mend; None for what it may."""
    if isinstance(error, (aiohttp.NonHttpUrlClientError, aiohttp.TooManyRedirects)):
        said = f"{host} sends elsewhere without end, or where no web server is."
    elif isinstance(error, aiohttp.InvalidURL):
        said = f"{host} cannot be asked: {error} is no address."
    elif isinstance(error, aiohttp.ClientConnectorCertificateError):
        said = f"{host} cannot be trusted: {words(error)}."
    elif isinstance(error, UnicodeError):
        said = f"{host} cannot be asked: that is no name of a machine."
    elif isinstance(error, aiohttp.ClientHttpProxyError) and error.status < 500:
        said = f"The proxy does not let {host} be asked: it answers {error.status} {error.message}."
    else:
        return None
    return RbeeError(said, code="download_failed")
