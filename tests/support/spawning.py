# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers begun over HTTP, of engines that work and that do not; and programs that are none of the hive's."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from rbee.adapters.paths import Paths
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerSpawn
from rbee.core.lifecycle import Limits
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from tests.support.hive import HiveClient, client, install_engine, settings
from tests.support.ports import free_range
from tests.support.workers import ROOT, llama_cpp

OPTIONS = WorkerOptions(context_length=128, parallel=1, threads=1)


@asynccontextmanager
async def running(paths: Paths, **limits: Any) -> AsyncIterator[HiveClient]:
    """A hive on these paths; the workers outlive it."""
    daemon = HiveDaemon(settings(free_range()), paths, None, Limits(**limits))
    await daemon.start()
    try:
        async with client(daemon.url) as asked:
            yield asked
    finally:
        await daemon.stop()


async def end_all(hive: HiveClient) -> None:
    for worker in (await hive.capabilities()).workers:
        await hive.run(WorkerProcessDelete(worker_id=worker.worker_id))


def spawn(worker_id: str | None = "w1", **changes: Any) -> WorkerSpawn:
    return WorkerSpawn(**{"model": "bee-tiny", "worker_id": worker_id, "options": OPTIONS, **changes})


def bad_engine(paths: Paths, how: str, **changes: Any) -> str:
    """Installs an engine that does not work; its name."""
    script = str(ROOT / "tests" / "support" / "bad_engine.py")
    said = {"name": how, "launcher": None, "checks_api_key": False, "command": ("{python}", script, how, "{port}")}
    install_engine(paths, dataclasses.replace(llama_cpp(), **{**said, **changes}))
    return how


async def refused(hive: HiveClient, request: Any) -> tuple[str, str, list[dict[str, Any]]]:
    """Code, message and events of a job that must fail."""
    job = await hive.submit(request)
    events = [e async for e in hive.events(job) if "event" in e]
    async with hive.session.get(f"{hive.url}/v1/jobs/{job}") as answer:
        found = await answer.json()
    assert found["state"] == "failed"
    return found["error"]["code"], found["error"]["error"], events


@contextmanager
def stranger(code: str) -> Iterator[tuple[list[subprocess.Popen[bytes]], Any]]:
    """Runs programs that are no workers; each says when it is up. All are ended."""
    running_: list[subprocess.Popen[bytes]] = []

    def run(*args: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", f"{code}\nprint('up', flush=True)\nimport time; time.sleep(600)", *args]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        running_.append(child)
        return child

    try:
        yield running_, run
    finally:
        for child in running_:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
