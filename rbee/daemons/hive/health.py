# SPDX-License-Identifier: GPL-3.0-or-later
"""How a worker is, asked of the worker itself. Never in the way of a request: it is a client like any other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp

from rbee.contracts import codec, defaults

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
            return parse(answer.status, await answer.read())
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
        return None


async def is_pid(session: aiohttp.ClientSession, url: str, pid: int) -> bool:
    """Whether it is that very process which answers there, and not another that took the port first."""
    try:
        timeout = aiohttp.ClientTimeout(total=defaults.HEARTBEAT_TIMEOUT)
        async with session.get(f"{url}/info", timeout=timeout) as answer:
            return bool(codec.decode(dict[str, Any], await answer.read()).get("pid") == pid)
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
        reason=str(reason) if reason else None,
    )
