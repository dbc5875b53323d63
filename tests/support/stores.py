# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores of both kinds, for tests of what they have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee.adapters.store import SqliteJobStore
from rbee.adapters.store.postgres import PostgresStore
from rbee.contracts import codec
from rbee.contracts.jobs import Job
from tests.support.postgres import PASSWORD, Cluster

Store = SqliteJobStore | PostgresStore


@dataclass
class Stores:
    """Makes stores of one database. Those that a test leaves open are closed after it."""

    path: Path
    cluster: Cluster | None = None
    database: str = ""
    made: list[Store] = field(default_factory=list)

    async def open(self, holder: str = "one", **settings: Any) -> Store:
        store = self.make(holder, **settings)
        await store.open()
        return store

    def make(self, holder: str = "one", **settings: Any) -> Store:
        if self.cluster is None:
            store: Store = SqliteJobStore(self.path, **settings)
        else:
            store = PostgresStore(self.cluster.url(self.database), holder, password=PASSWORD, **settings)
        self.made.append(store)
        return store

    async def close(self) -> None:
        for store in self.made:
            await store.close()


def job(n: int, state: str = "completed", **more: Any) -> Job:
    said: dict[str, Any] = {"operation": "Status", "created_at": "2026-01-01T00:00:00Z"}
    return Job(job_id=f"job-{n}", state=state, **{**said, **more})  # type: ignore[arg-type]


def large(n: int, size: int = 400_000) -> Job:
    return dataclasses.replace(job(n), result={"text": f"{n:04}" + "x" * size}, result_bytes=size + 15)


async def result_of(store: Store, n: int) -> bytes | None:
    found = await store.get(f"job-{n}")
    assert found is not None
    return None if found.result is None else codec.encode(found.result)


async def every_event(store: Store, job_id: str) -> AsyncIterator[tuple[int, bytes]]:
    after = 0
    while found := await store.events(job_id, after, 256):
        for seq, data in found:
            yield seq, data
        after = found[-1][0]


async def listed(store: Store, **filters: Any) -> list[str]:
    return [j.job_id for j in (await store.page(filters.pop("state", None), 1000, None, **filters)).jobs]
