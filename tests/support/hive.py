# SPDX-License-Identifier: GPL-3.0-or-later
"""Hives for tests: a machine of its own in a temporary directory, real daemons, asked over HTTP."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from rbee.adapters.paths import Paths, write_atomic
from rbee.adapters.system import platform_id
from rbee.contracts import codec
from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import HiveConfig
from rbee.contracts.operations import OPERATIONS, wire
from rbee.core.errors import RbeeError
from rbee.core.providers import EngineProvider, binary_id
from rbee.core.records import Mark, WorkerBinary

MARK = Mark(fleet="test", spec_digest="d1")


def machine(root: Path) -> Paths:
    """Directories of a machine that has nothing yet."""
    return Paths(config=root / "config", cache=root / "cache", data=root / "data", state=root / "state")


def install_engine(
    paths: Paths, provider: EngineProvider, python: str = sys.executable, *, worker_type: str = "cpu"
) -> str:
    """As apply does on this machine: the engine is in this very environment."""
    made = binary_id(provider, platform_id())
    artifact = WorkerBinary(
        id=made,
        engine=provider.name,
        version=provider.version,
        worker_type=worker_type,
        platform=platform_id(),
        path=str(paths.worker_binaries / made),
        python=python,
    )
    entry = {"artifact": artifact, "provider": provider, "added_at": "2026-11-20T00:00:00Z", "last_accessed": ""}
    write_atomic(paths.worker_binaries / made / "metadata.json", codec.encode_pretty(entry))
    return made


@dataclass(slots=True)
class JobTold:
    """A job that ended well: its response, and all it told."""

    response: Any
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [e["event"] for e in self.events]


class HiveClient:
    """Asks a hive over HTTP."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def submit(self, request: Any) -> str:
        async with self.session.post(f"{self.url}/v1/jobs", json=wire(request)) as answer:
            body = await answer.json()
            assert answer.status == 202, body
            return str(body["job_id"])

    async def events(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """Everything the job's stream says, up to its end."""
        async with self.session.get(f"{self.url}/v1/jobs/{job_id}/stream") as answer:
            assert answer.status == 200
            async for line in answer.content:
                if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                    yield json.loads(line[6:])

    async def run(self, request: Any) -> JobTold:
        """Raises RbeeError with the job's code and message when it does not end well."""
        job_id = await self.submit(request)
        events = [e async for e in self.events(job_id)]
        async with self.session.get(f"{self.url}/v1/jobs/{job_id}") as answer:
            job = await answer.json()
        if job["state"] != "completed":
            error = job.get("error") or {"error": job["state"], "code": job["state"]}
            raise RbeeError(error["error"], code=error["code"])
        kind = OPERATIONS[type(request).__name__].response
        return JobTold(codec.convert(kind, job["result"]), events)

    async def cancel(self, job_id: str) -> None:
        async with self.session.delete(f"{self.url}/v1/jobs/{job_id}") as answer:
            assert answer.status == 200, await answer.text()

    async def capabilities(self, **query: str) -> Capabilities:
        async with self.session.get(f"{self.url}/capabilities", params=query) as answer:
            body = await answer.read()
            assert answer.status == 200, body
            return codec.decode(Capabilities, body)


@asynccontextmanager
async def client(url: str, headers: dict[str, str] | None = None) -> AsyncIterator[HiveClient]:
    async with aiohttp.ClientSession(headers=headers) as session:
        yield HiveClient(url, session)


def settings(ports: tuple[int, int], **changes: Any) -> HiveConfig:
    return HiveConfig(
        **{"hive_id": "h1", "fleet": "test", "listen": "127.0.0.1:0", "worker_ports": ports, "release": "r1", **changes}
    )
