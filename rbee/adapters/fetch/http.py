# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server's answer to a download means: go on, ask again, give up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import aiohttp

from rbee.core.errors import NotFound, RbeeError, Unauthorized

#: Nobody is waited for longer than this because he says so.
LONGEST_WAIT = 60.0


class Again(Exception):
    """This try failed, the next one may not. `barren`: what it brought does not count as progress."""

    def __init__(self, reason: str, wait: float | None = None, *, barren: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.barren = barren


class Useless(Again):
    """And what is here cannot be gone on with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What an answer with bytes carries: from where, of how many in all, and by what it is known again."""

    start: int
    total: int | None
    validator: str | None
    strong: bool
    ranges: bool


def read_answer(answer: aiohttp.ClientResponse, host: str) -> Sent:
    """Raises Again, Useless, RbeeError: not_found, unauthorized, download_failed."""
    _refuse(answer, host)
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise RbeeError(f"{host} sends the file compressed, though asked not to.", code="download_failed")
    start, total = 0, answer.content_length
    if answer.status == 206:
        start, total = _range_of(answer)
    tag = answer.headers.get("ETag")
    strong = tag is not None and not tag.startswith("W/")
    return Sent(
        start=start,
        total=total,
        validator=tag if strong else answer.headers.get("Last-Modified"),
        strong=strong,
        ranges=answer.status == 206 or answer.headers.get("Accept-Ranges", "").lower() == "bytes",
    )


def _refuse(answer: aiohttp.ClientResponse, host: str) -> None:
    status = answer.status
    if status in (200, 206):
        return
    if status in (408, 425, 429) or status >= 500:
        raise Again(f"{host} answers {status}", retry_after(answer.headers))
    if status == 416:
        raise Useless("the server has fewer bytes than are here already")
    if status in (401, 403):
        raise Unauthorized(f"{host} answers {status}: it wants a token, or refuses the one given.")
    if status in (404, 410):
        raise NotFound(f"{host} has no such file ({status}).", mend="Check the source.")
    raise RbeeError(f"{host} answers {status} {answer.reason}.", code="download_failed")


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the server asks for, as a number or a date; bounded."""
    said = headers.get("Retry-After", "").strip()
    if said.isdecimal():
        return min(float(said), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(said)
    except (ValueError, TypeError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    left = (moment - (now or datetime.now(timezone.utc))).total_seconds()
    return min(max(left, 0.0), LONGEST_WAIT)


def _range_of(answer: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Start and whole size of a partial answer; start -1 when it does not say."""
    found = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", answer.headers.get("Content-Range", "").strip())
    if found is None:
        return -1, None
    start, end, whole = found.groups()
    if answer.content_length is not None and answer.content_length != int(end) - int(start) + 1:
        raise Again("the server contradicts itself about how much it sends")
    return int(start), None if whole == "*" else int(whole)


def total_of_416(answer: aiohttp.ClientResponse) -> int | None:
    found = re.match(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
    return int(found.group(1)) if found else None
