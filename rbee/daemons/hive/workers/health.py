# SPDX-License-Identifier: GPL-3.0-or-later
"""How a worker is, asked of the worker itself. Never in the way of a request: it is a client like any other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp

from rbee.contracts import codec, defaults

#: Bytes of an answer, and characters of a reason: whoever has the port may say what it likes.
_MOST, _MOST_SAID = 2**20, 2000
SAID = frozenset({"starting", "ready", "busy", "stopping", "dead", "failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`status` as the worker says it, `unknown` when it answers but says nothing known; `progress` from 0 to 1."""

    status: str
    progress: float | None = None
    reason: str | None = None


async def ask(session: aiohttp.ClientSession, url: str) -> Health | None:
    """The worker's `/health`; None when it cannot be reached (yet)."""
    try:
        timeout = aiohttp.ClientTimeout(total=defaults.HEARTBEAT_TIMEOUT)
        async with session.get(f"{url}/health", timeout=timeout) as answer:
            return parse(answer.status, await _body(answer))
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a worker tells of itself (`/info`). `slots` is 0 when it does not say."""

    status: str
    reason: str | None = None
    slots: int = 0
    slots_busy: int = 0
    context_length: int | None = None
    requests_handled: int = 0
    tokens_generated: int = 0
    avg_tokens_per_sec: float = 0.0
    errors: int = 0


async def report(session: aiohttp.ClientSession, url: str, pid: int, within: float) -> Report | str:
    """What the worker of that pid tells of itself within so many seconds; else why not, for a person."""
    try:
        async with session.get(f"{url}/info", timeout=aiohttp.ClientTimeout(total=within)) as answer:
            return read_report(answer.status, await _body(answer), pid)
    except asyncio.TimeoutError:
        return f"It gave no answer within {within:g} seconds."
    except aiohttp.ClientConnectorError as e:
        return f"It cannot be connected to: {e.os_error.strerror or e.os_error}."
    except (aiohttp.ClientError, OSError) as e:
        return f"Its answer broke off: {str(e) or type(e).__name__}."


def read_report(status: int, body: bytes, pid: int) -> Report | str:
    """An answer to `GET /info`, from whoever has the port."""
    try:
        found = codec.decode(dict[str, Any], body)
    except codec.CodecError:
        return f"It answers {status} and nothing that a worker says."
    if found.get("pid") != pid:
        return "Another process answers at its port."

    def whole(name: str) -> int:
        value = found.get(name)
        return value if isinstance(value, int) and 0 <= value < 2**63 else 0

    said, speed, reason = found.get("status"), found.get("avg_tokens_per_sec"), found.get("reason")
    return Report(
        status=said if isinstance(said, str) and said in SAID else "unknown",
        reason=str(reason)[:_MOST_SAID] if reason else None,
        slots=whole("slots"),
        slots_busy=whole("slots_busy"),
        context_length=whole("context_length") or None,
        requests_handled=whole("requests_handled"),
        tokens_generated=whole("tokens_generated"),
        avg_tokens_per_sec=float(speed) if isinstance(speed, (int, float)) else 0.0,
        errors=whole("errors"),
    )


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """All of it, or so much that it cannot be a worker's."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > _MOST:
            break
    return bytes(body)


async def is_pid(session: aiohttp.ClientSession, url: str, pid: int) -> bool:
    """Whether it is that very process which answers there, and not another that took the port first."""
    try:
        timeout = aiohttp.ClientTimeout(total=defaults.HEARTBEAT_TIMEOUT)
        async with session.get(f"{url}/info", timeout=timeout) as answer:
            return bool(codec.decode(dict[str, Any], await _body(answer)).get("pid") == pid)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, codec.CodecError):
        return False


def parse(status: int, body: bytes) -> Health:
    """200 is ready or busy; 503 says `status`, `progress` and `reason` while it loads or has failed."""
    try:
        found = codec.decode(dict[str, Any], body)
    except codec.CodecError:
        found = {}
    error = found.get("error")
    reason = found.get("reason") or (error.get("message") if isinstance(error, dict) else None)
    progress = found.get("progress")
    said = found.get("status")
    if status == 200:
        said = said if said in ("ready", "busy") else "ready"
    return Health(
        status=str(said) if said in SAID else "unknown",
        progress=float(progress) if isinstance(progress, (int, float)) else None,
        reason=str(reason)[:_MOST_SAID] if reason else None,
    )
