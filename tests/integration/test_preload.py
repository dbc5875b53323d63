# SPDX-License-Identifier: GPL-3.0-or-later
"""Preloading over HTTP against a real hive: files of real models in the real page cache."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import pytest

from rbee.adapters import pagecache
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDelete, ModelDownload
from rbee.contracts.operations.preload import (
    ModelPreload,
    ModelPreloadEvict,
    ModelPreloadResponse,
    ModelPreloadStats,
    ModelPreloadStatsResponse,
)
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerSpawn
from rbee.core.errors import InvalidRequest, RbeeError
from rbee.core.records import ModelFile, ModelRecord
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from rbee.daemons.hive.models.preload import Preloader, files_of
from tests.support.hive import MARK, HiveClient, client, install_engine, machine, settings
from tests.support.hive_process import hive_process, place, ready
from tests.support.ports import free_range
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' page cache")

MB = 2**20
Started = Callable[..., AbstractAsyncContextManager[HiveClient]]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path)


@pytest.fixture
def started(paths: Paths) -> Started:
    @asynccontextmanager
    async def start(**changes: object) -> AsyncIterator[HiveClient]:
        daemon = HiveDaemon(settings(free_range(), **changes), paths, None)
        await daemon.start()
        try:
            async with client(daemon.url) as asked:
                yield asked
        finally:
            await daemon.stop()

    return start


def add(paths: Paths, model_id: str, *sizes: int, sparse: bool = False) -> list[Path]:
    """A model of files of such sizes in the catalog, on the disk and not in memory."""
    catalog = ModelCatalog(paths.models)
    folder = catalog.folder(model_id)
    folder.mkdir(parents=True)
    files = [folder / f"{model_id}-{i}.gguf" for i in range(len(sizes))]
    for file, size in zip(files, sizes, strict=True):
        with file.open("wb") as f:
            f.truncate(size) if sparse else f.write(os.urandom(size))
            f.flush()
            os.fsync(f.fileno())
        pagecache.drop(file)
    several = tuple(ModelFile(name=f.name, size_bytes=s) for f, s in zip(files, sizes, strict=True))
    record = ModelRecord(
        id=model_id,
        name=model_id,
        path=str(files[0]),
        size_bytes=sum(sizes),
        status="available",
        files=several if len(sizes) > 1 else (),
    )
    catalog.put(record, "2026-11-20T00:00:00.000Z")
    return files


def keepers(model_id: str) -> list[psutil.Process]:
    """Processes of this one's that hold the model."""
    found = psutil.Process().children()
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and p.cmdline()[-1:] == [model_id]]


async def load(hive: HiveClient, model_id: str) -> ModelPreloadResponse:
    response: ModelPreloadResponse = (await hive.run(ModelPreload(model_id=model_id))).response
    return response


async def stats(hive: HiveClient) -> ModelPreloadStatsResponse:
    response: ModelPreloadStatsResponse = (await hive.run(ModelPreloadStats())).response
    return response


async def refused(hive: HiveClient, request: object) -> str:
    with pytest.raises(RbeeError) as caught:
        await hive.run(request)
    return caught.value.code


async def test_a_model_is_read_held_and_let_go(started: Started, paths: Paths) -> None:
    (file,) = add(paths, "a", 20 * MB)
    async with started() as hive:
        assert pagecache.resident(file) == 0
        told = await hive.run(ModelPreload(model_id="a"))
        response = told.response
        assert (response.model_id, response.size_bytes, response.resident_bytes) == ("a", 20 * MB, 20 * MB)
        assert response.evicted == ()
        assert told.names[0] == "model_preload_start"
        assert told.names[-2:] == ["model_preload_complete", "result"]
        steps = [e for e in told.events if e["event"] == "model_preload_progress"]
        assert steps[-1]["bytes_loaded"] == steps[-1]["total_bytes"] == 20 * MB
        assert steps[-1]["percent"] == 100.0
        assert pagecache.resident(file) == 20 * MB
        assert bool(keepers("a")) == response.locked
        if response.locked:
            pagecache.drop(file)
            assert pagecache.resident(file) == 20 * MB
            pid = keepers("a")[0].pid
            assert (await load(hive, "a")).locked  # again: nothing is read anew
            assert keepers("a")[0].pid == pid
        seen = await stats(hive)
        assert (seen.cached_models, seen.total_size_bytes) == (("a",), 20 * MB)
        assert seen.budget_bytes > 20 * MB
        told = await hive.run(ModelPreloadEvict(model_id="a"))
        assert told.names == ["model_preload_evict_start", "model_preload_evict_complete", "result"]
        assert told.response.freed_bytes == 20 * MB
        assert (pagecache.resident(file), keepers("a")) == (0, [])
        seen = await stats(hive)
        assert (seen.cached_models, seen.total_size_bytes, seen.evictions) == ((), 0, 1)
        assert await refused(hive, ModelPreloadEvict(model_id="a")) == "not_preloaded"
        assert await refused(hive, ModelPreload(model_id="b")) == "model_not_found"


async def test_the_least_recently_used_goes_and_what_can_never_fit_is_refused(started: Started, paths: Paths) -> None:
    for model_id, size in (("a", 8), ("b", 8), ("c", 8), ("large", 21)):
        add(paths, model_id, size * MB)
    async with started(preload_budget_mb=20) as hive:
        await load(hive, "a")
        await load(hive, "b")
        await load(hive, "a")
        told = await hive.run(ModelPreload(model_id="c"))
        assert told.response.evicted == ("b",)
        assert [e["evicted"] for e in told.events if e["event"] == "model_preload_evicted"] == ["b"]
        assert await refused(hive, ModelPreload(model_id="large")) == "over_budget"
        seen = await stats(hive)
        assert (seen.cached_models, seen.evictions, seen.budget_bytes) == (("a", "c"), 1, 20 * MB)


async def test_all_files_of_a_split_model_and_none_outside_of_it(started: Started, paths: Paths) -> None:
    files = add(paths, "split", 3 * MB, 2 * MB, 4 * MB + 17)
    async with started() as hive:
        assert (await load(hive, "split")).resident_bytes == 9 * MB + 17
        assert [pagecache.resident(f) for f in files] == [3 * MB, 2 * MB, 4 * MB + 17]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_names_that_lead_out_of_a_models_folder_are_refused(tmp_path: Path, name: str) -> None:
    files = (ModelFile(name="m-1.gguf", size_bytes=1), ModelFile(name=name, size_bytes=1))
    record = ModelRecord(
        id="m", name="m", path=str(tmp_path / "m" / "m-1.gguf"), size_bytes=2, status="available", files=files
    )
    with pytest.raises(InvalidRequest, match="outside of its folder"):
        files_of(record)


def test_the_files_of_a_folder_and_of_a_split_model_in_a_folder_within(tmp_path: Path) -> None:
    (tmp_path / "mlc" / "params").mkdir(parents=True)
    files = [tmp_path / "mlc" / "config.json", tmp_path / "mlc" / "params" / "0.bin"]
    for file in files:
        file.touch()
    folder = ModelRecord(id="m", name="m", path=str(tmp_path / "mlc"), size_bytes=0, status="available")
    assert list(files_of(folder)) == files
    said = (ModelFile(name="params/0.bin", size_bytes=0), ModelFile(name="config.json", size_bytes=0))
    assert files_of(replace(folder, path=str(files[1]), files=said)) == (files[1], files[0])


async def test_two_at_once_read_it_once(started: Started, paths: Paths) -> None:
    add(paths, "a", 20 * MB)
    async with started() as hive:
        loaded = await asyncio.gather(*(load(hive, "a") for _ in range(4)))
        assert [x.resident_bytes for x in loaded] == [20 * MB] * 4
        assert len(keepers("a")) <= 1


async def test_a_cancel_ends_the_reading_and_holds_nothing(started: Started, paths: Paths) -> None:
    add(paths, "a", 512 * MB, sparse=True)
    async with started() as hive:
        job = await hive.submit(ModelPreload(model_id="a"))
        async for event in hive.events(job):
            if event.get("event") == "model_preload_progress":
                reader = keepers("a")[0]
                os.kill(reader.pid, signal.SIGSTOP)  # it can't be finished before the cancel comes
                await hive.cancel(job)
                break
        async with hive.session.get(f"{hive.url}/v1/jobs/{job}") as answer:
            assert (await answer.json())["state"] == "cancelled"
        await eventually(lambda: not keepers("a"))
        assert (await stats(hive)).cached_models == ()
        assert await refused(hive, ModelPreloadEvict(model_id="a")) == "not_preloaded"


async def test_evicting_what_is_being_loaded_ends_that_job_with_a_reason(started: Started, paths: Paths) -> None:
    add(paths, "a", 512 * MB, sparse=True)
    async with started() as hive:
        job = await hive.submit(ModelPreload(model_id="a"))
        async for event in hive.events(job):
            if event.get("event") == "model_preload_progress" and event["bytes_loaded"] < 512 * MB:
                os.kill(keepers("a")[0].pid, signal.SIGSTOP)
                await hive.run(ModelPreloadEvict(model_id="a"))
        async with hive.session.get(f"{hive.url}/v1/jobs/{job}") as answer:
            said = await answer.json()
        assert (said["state"], said["error"]["code"]) == ("failed", "preload_failed")


async def test_a_file_cut_under_a_locked_mapping_does_no_harm(started: Started, paths: Paths) -> None:
    (file,) = add(paths, "a", 20 * MB)
    async with started() as hive:
        await load(hive, "a")
        os.truncate(file, 5000)
        assert (await stats(hive)).cached_models == ()
        with pytest.raises(RbeeError):
            await load(hive, "a")
        assert (await stats(hive)).cached_models == ()


async def test_a_keeper_that_was_killed_is_replaced(started: Started, paths: Paths) -> None:
    add(paths, "a", 20 * MB)
    async with started() as hive:
        if not (await load(hive, "a")).locked:
            pytest.skip("this user may lock no memory")
        (lost,) = keepers("a")
        lost.kill()
        # It has no more arguments some time before it has ended; until then its pages are locked, and can't be dropped.
        await eventually(lambda: lost.status() == psutil.STATUS_ZOMBIE)
        pagecache.drop(paths.models / "a" / "a-0.gguf")
        assert (await stats(hive)).cached_models == ()
        assert (await load(hive, "a")).locked
        assert len(keepers("a")) == 1


async def test_what_lost_its_lock_and_is_still_there_is_locked_again(started: Started, paths: Paths) -> None:
    add(paths, "a", 20 * MB)
    async with started() as hive:
        if not (await load(hive, "a")).locked:
            pytest.skip("this user may lock no memory")
        (lost,) = keepers("a")
        lost.kill()
        # It has no more arguments some time before it has ended.
        await eventually(lambda: lost.status() == psutil.STATUS_ZOMBIE)
        # Its pages stay in the cache: all of it is there, and nothing holds it.
        again = await load(hive, "a")
        assert (again.locked, again.resident_bytes) == (True, 20 * MB)
        assert [k.pid for k in keepers("a")] != [lost.pid]


async def test_a_model_that_is_not_ready_says_why(started: Started, paths: Paths) -> None:
    (file,) = add(paths, "a", MB)
    async with started() as hive:
        file.unlink()
        with pytest.raises(RbeeError, match=r"is not ready: .*cannot be found") as refused:
            await load(hive, "a")
        assert refused.value.code == "model_not_ready"


async def test_a_deleted_model_and_a_stopped_hive_hold_nothing(started: Started, paths: Paths) -> None:
    add(paths, "a", 20 * MB)
    add(paths, "b", 20 * MB)
    async with started() as hive:
        await load(hive, "a")
        await load(hive, "b")
        await hive.run(ModelDelete(model_id="a"))
        await eventually(lambda: not keepers("a"))
        assert (await stats(hive)).cached_models == ("b",)
    assert not keepers("b")


async def test_a_killed_hive_takes_its_keepers_along_and_tells_the_job_as_interrupted(tmp_path: Path) -> None:
    add(place(tmp_path), "a", 512 * MB, sparse=True)
    with hive_process(tmp_path) as first:
        async with client(first.url) as hive:
            await ready(hive)
            job = await hive.submit(ModelPreload(model_id="a"))
            reader = None
            with contextlib.suppress(aiohttp.ClientError):
                async for event in hive.events(job):
                    if event.get("event") == "model_preload_progress":
                        (reader,) = first.process.children()
                        os.kill(reader.pid, signal.SIGSTOP)  # it can't be finished before the hive is killed
                        first.process.kill()
            assert reader is not None
    reader.send_signal(signal.SIGCONT)
    assert psutil.wait_procs([reader], timeout=20)[1] == []
    with hive_process(tmp_path) as second:
        async with client(second.url) as hive:
            await ready(hive)
            async with hive.session.get(f"{hive.url}/v1/jobs/{job}") as answer:
                said = await answer.json()
            assert (said["state"], said["error"]["code"]) == ("failed", "interrupted")
            told = [e async for e in hive.events(job)]
            assert told[0]["event"] == "model_preload_start", "what it told before is told again"
            assert told[-1]["code"] == "interrupted"
            assert (await load(hive, "a")).resident_bytes == 512 * MB


async def test_locked_memory_is_there_for_a_worker_of_that_model(paths: Paths) -> None:
    add(paths, "a", 8 * MB)
    add(paths, "b", 4 * MB)
    catalog = ModelCatalog(paths.models)
    used: set[str] = set()
    preloader = Preloader(used.__contains__)
    try:
        for record in catalog.list():
            held = await preloader.load(record, lambda done, size: None, lambda other: None)
            if not held.locked:
                pytest.skip("this user may lock no memory")
        assert [preloader.locked_bytes(m) for m in "abc"] == [8 * MB, 4 * MB, 0]
        used.add("a")
        assert [preloader.locked_bytes(m) for m in "abc"] == [8 * MB, 12 * MB, 8 * MB]
    finally:
        await preloader.stop()
    assert preloader.locked_bytes("a") == 0


@pytest.mark.engine
async def test_worker_starts_are_hits_and_misses_as_the_kernel_says(started: Started, paths: Paths) -> None:
    install_engine(paths, llama_cpp())
    spawn = WorkerSpawn(model="bee-tiny", options=WorkerOptions(context_length=128, parallel=1, threads=1))
    async with started() as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny", mark=MARK))
        path = Path((await hive.capabilities()).models[0].path)
        with path.open("rb") as f:
            os.fsync(f.fileno())
        pagecache.drop(path)
        assert pagecache.resident(path) == 0
        worker = (await hive.run(spawn)).response
        seen = await stats(hive)
        assert (seen.hits, seen.misses, seen.hit_rate) == (0, 1, 0.0)
        await hive.run(WorkerProcessDelete(pid=worker.pid))
        pagecache.drop(path)
        await load(hive, "bee-tiny")
        worker = (await hive.run(spawn)).response
        seen = await stats(hive)
        assert (seen.hits, seen.misses, seen.hit_rate) == (1, 1, 0.5)
        assert (await hive.run(ModelPreloadEvict(model_id="bee-tiny"))).response.freed_bytes == 0, "the worker has it"
        await hive.run(WorkerProcessDelete(pid=worker.pid))
