# SPDX-License-Identifier: GPL-3.0-or-later
"""Small questions to a source's API: bounded in size and time, asked again when the network hiccups."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp

from rbee.adapters.network import final, session
from rbee.adapters.trouble import words
from rbee.contracts import codec, defaults
from rbee.core.errors import RbeeError, Unreachable

#: The listing of a repository with ten thousand files is about 3 MB.
MAX_BYTES = 16 * 2**20
SECONDS = 60.0
TRIES = 3
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said; `headers` by their names in small letters."""

    host: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def decode(self, kind: type[T]) -> T:
        """The body's JSON as `kind`. Raises RbeeError `bad_answer` for anything else (a login page, wrong types)."""
        try:
            return codec.decode(kind, self.body)
        except (codec.CodecError, RecursionError) as e:
            html = self.body.lstrip()[:1] == b"<"
            said = "a web page, not what its API should say" if html else f"what its API never says: {e}"
            raise RbeeError(
                f"{self.host} answers {said}.", code="bad_answer", mend="Check the endpoint, and any proxy between."
            ) from None


async def ask(url: str, headers: Mapping[str, str], *, method: str = "GET", follow: bool = True) -> Answer:
    """The answer, whatever its status is; `follow`: after redirects (what `headers` say of a token stays with the
    first host). Raises Unreachable when there is none or the server fails again and again, RbeeError `bad_answer` when
    it is too large.
    """
    for failures in range(1, TRIES + 1):
        try:
            answer = await _once(url, headers, method, follow)
            if answer.status < 500:
                return answer
            why = f"answers {answer.status}"
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, UnicodeError) as e:
            if (useless := final(e, _host(url))) is not None:
                raise RbeeError(useless.message, code="bad_answer") from None
            why = f"cannot be reached ({words(e)})"
        if failures < TRIES:
            await asyncio.sleep(defaults.BACKOFF_FIRST * failures)
    raise Unreachable(f"{_host(url)} {why}.", mend="Check the network of the hive's machine, or try again later.")


async def _once(url: str, headers: Mapping[str, str], method: str, follow: bool) -> Answer:
    timeout = aiohttp.ClientTimeout(total=SECONDS, sock_connect=defaults.CONNECT_TIMEOUT * 2)
    async with (
        session(secure=True, timeout=timeout) as out,
        out.request(method, url, headers=headers, allow_redirects=follow, max_redirects=5) as answer,
    ):
        body = bytearray()
        async for piece in answer.content.iter_chunked(2**16):
            body += piece
            if len(body) > MAX_BYTES:
                raise RbeeError(f"{_host(url)} answers more than {MAX_BYTES // 2**20} MB.", code="bad_answer")
        named = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(host=_host(url), status=answer.status, headers=named, body=bytes(body))


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
