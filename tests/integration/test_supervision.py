# SPDX-License-Identifier: GPL-3.0-or-later
"""How a real hive cares for real workers: the live record, hung, too big, idle, files and ports taken away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import process
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDelete, ModelDownload
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerProcessList, WorkerSpawn
from rbee.core.errors import RbeeError
from rbee.core.lifecycle import Limits
from rbee.core.records import WorkerRecord
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from rbee.daemons.hive.workers.files import WorkerFolder
from tests.support.hive import MARK, HiveClient, client, install_engine, machine, settings
from tests.support.ports import free_range
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine

#: All that takes seconds or minutes, in fractions of a second.
QUICK = Limits(
    look_every=0.1, answer_within=0.5, hung_after=1.0, misses=2, wait_first=0.05, wait_longest=0.2, ends=3, drain=10.0
)
OPTIONS = WorkerOptions(context_length=128, parallel=1, threads=1)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path)
    install_engine(made, llama_cpp())
    return made


@asynccontextmanager
async def hive_of(
    paths: Paths, limits: Limits = QUICK, ports: tuple[int, int] | None = None, *, leave: bool = False
) -> AsyncIterator[HiveClient]:
    """A hive with the demo model; `leave` its workers to the next one."""
    daemon = HiveDaemon(settings(ports or free_range()), paths, None, limits)
    await daemon.start()
    try:
        async with client(daemon.url) as asked:
            await asked.run(ModelDownload(model="builtin:bee-tiny", mark=MARK))
            yield asked
            for worker in () if leave else (await asked.capabilities()).workers:
                await asked.run(WorkerProcessDelete(worker_id=worker.worker_id))
    finally:
        await daemon.stop()


def spawn(**changes: Any) -> WorkerSpawn:
    return WorkerSpawn(**{"model": "bee-tiny", "worker_id": "w1", "options": OPTIONS, "mark": MARK, **changes})


async def only(hive: HiveClient) -> WorkerRecord:
    (worker,) = (await hive.run(WorkerProcessList())).response.workers
    assert isinstance(worker, WorkerRecord)
    return worker


async def becomes(hive: HiveClient, seconds: float = 40.0, **wanted: Any) -> WorkerRecord:
    """The only worker, once it has these fields."""

    async def is_so() -> bool:
        worker = await only(hive)
        return all(getattr(worker, name) == value for name, value in wanted.items())

    await eventually(is_so, seconds=seconds)
    return await only(hive)


def identified(pid: int) -> process.Identity:
    found = process.identify(pid)
    assert found is not None
    return found


async def engine_of(hive: HiveClient, worker: WorkerRecord) -> process.Identity:
    async with hive.session.get(f"{worker.url}/info") as answer:
        return identified((await answer.json())["engine_pid"])


async def chat(hive: HiveClient, url: str) -> None:
    body = {"model": "bee-tiny", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16}
    async with hive.session.post(f"{url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200


async def test_the_record_of_a_worker_is_live(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn(idle_timeout=3600.0))
        fresh = await becomes(hive, health_status="healthy")
        assert (fresh.requests_handled, fresh.tokens_generated, fresh.restarts, fresh.last_end) == (0, 0, 0, None)
        await chat(hive, fresh.url)
        await chat(hive, fresh.url)
        seen = await becomes(hive, requests_handled=2, slots_busy=0, status="ready")
        assert seen.tokens_generated > 2
        assert seen.avg_tokens_per_sec > 1
        assert (seen.errors, seen.idle_timeout, seen.slots) == (0, 3600.0, 1)
        assert seen.context_length is not None
        assert seen.context_length >= 128
        assert seen.memory_mb is not None
        assert seen.memory_mb > 20
        assert seen.predicted_memory_mb is not None
        assert seen.vram_mb is None
        assert fresh.last_seen < seen.last_seen <= seen.last_health_check
        async with hive.session.get(seen.health_url) as answer:
            assert answer.status == 200

        async def measured() -> bool:
            return (await only(hive)).cpu_percent is not None

        await eventually(measured)
        await eventually(lambda: _up(hive))


async def _up(hive: HiveClient) -> bool:
    return (await only(hive)).uptime_seconds >= 1


async def test_a_hung_worker_is_told_then_killed_with_its_engine_and_started_again(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        before = (await hive.run(spawn())).response
        engine = await engine_of(hive, await only(hive))
        os.kill(before.pid, signal.SIGSTOP)
        ill = await becomes(hive, health_status="unhealthy")
        assert (ill.reason, ill.pid) == ("It gave no answer within 0.5 seconds.", before.pid)
        after = await becomes(hive, restarts=1, status="ready")
        assert after.last_end is not None
        assert after.last_end.startswith("It hung: it has not answered for ")
        assert (after.pid != before.pid, after.health_status, after.reason) == (True, "healthy", None)
        assert process.identify(before.pid) is None
        await eventually(lambda: not process.alive(engine))


async def test_one_that_was_stopped_for_a_moment_is_left_alone(paths: Paths) -> None:
    async with hive_of(paths, Limits(look_every=0.1, answer_within=0.2)) as hive:
        pid = (await hive.run(spawn())).response.pid
        os.kill(pid, signal.SIGSTOP)
        await becomes(hive, health_status="unhealthy")
        os.kill(pid, signal.SIGCONT)
        assert (await becomes(hive, health_status="healthy")).pid == pid


async def test_too_much_memory_is_a_restart_and_too_often_too_much_the_end(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        # What it needs by formula is little against what a worker with its Python holds.
        with pytest.raises(RbeeError, match="more than its memory limit of 1 MB") as refused:
            await hive.run(spawn(options=replace(OPTIONS, memory_limit_mb=1)))
        needs = re.search(r"about ([0-9]+) MB", refused.value.message)
        assert needs is not None
        limit = int(needs.group(1)) + 1
        await hive.run(spawn(options=replace(OPTIONS, memory_limit_mb=limit)))
        failed = await becomes(hive, status="failed")
        assert failed.reason is not None
        assert failed.reason.startswith("It ended 3 times within ")
        assert f"MB, its limit is {limit} MB." in failed.reason
        assert failed.restarts == 2
        assert process.identify(failed.pid) is None


async def test_an_idle_worker_is_unloaded_and_comes_back_as_it_was(paths: Paths) -> None:
    async with hive_of(paths, ports=free_range(1)) as hive:
        before = (await hive.run(spawn(idle_timeout=0.5))).response
        unloaded = await becomes(hive, status="unloaded")
        assert (unloaded.pid, unloaded.mark, unloaded.reason) == (0, MARK, "had no request for 0.5 seconds")
        assert (unloaded.memory_mb, unloaded.cpu_percent, unloaded.uptime_seconds) == (None, None, 0)
        assert process.identify(before.pid) is None
        with pytest.raises(RbeeError) as refused:
            await hive.run(ModelDelete(model_id="bee-tiny"))
        assert refused.value.code == "model_in_use"
        assert "is used by w1 (unloaded)." in refused.value.message
        # Its port, the only one, is free for another.
        other = (await hive.run(spawn(worker_id="w2"))).response
        assert other.port == before.port
        await hive.run(WorkerProcessDelete(pid=other.pid))
        again = (await hive.run(WorkerSpawn(model="bee-tiny", worker_id="w1"))).response
        record = await becomes(hive, context_length=unloaded.context_length)
        assert (record.pid, record.mark, record.idle_timeout, record.slots) == (again.pid, MARK, 0.5, 1)
        assert (await becomes(hive, status="unloaded")).pid == 0


async def test_an_idle_timeout_is_changed_without_a_new_process(paths: Paths) -> None:
    async with hive_of(paths, leave=True) as hive:
        before = (await hive.run(spawn())).response
        assert (await only(hive)).idle_timeout is None
        told = await hive.run(spawn(idle_timeout=3600.0))
        assert told.response == before
        assert "It will be unloaded after 1 hour without a request." in [e["message"] for e in told.events]
        assert (await only(hive)).idle_timeout == 3600.0
    async with hive_of(paths) as hive:
        assert ((await only(hive)).pid, (await only(hive)).idle_timeout) == (before.pid, 3600.0)
        await hive.run(spawn(idle_timeout=0.5))
        unloaded = await becomes(hive, status="unloaded")
        assert unloaded.reason == "had no request for 0.5 seconds"
        await hive.run(spawn())
        assert ((await only(hive)).status, (await only(hive)).idle_timeout) == ("ready", None)


async def test_an_idle_timeout_that_cannot_be_noted(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn())
        (folder,) = paths.workers.iterdir()
        settings = (folder / "worker.json").read_bytes()
        # In its place stands what no file can replace.
        (folder / "worker.json").unlink()
        (folder / "worker.json" / "in the way").mkdir(parents=True)
        with pytest.raises(RbeeError, match="cannot be written") as refused:
            await hive.run(spawn(idle_timeout=5.0))
        assert refused.value.code == "disk_error"
        shutil.rmtree(folder / "worker.json")
        (folder / "worker.json").write_bytes(settings)


async def test_a_request_in_progress_keeps_a_worker_however_long_it_takes(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn(idle_timeout=1.5))
        worker = await only(hive)
        engine = await engine_of(hive, worker)
        os.kill(engine.pid, signal.SIGSTOP)  # as slow as can be
        asked = asyncio.create_task(chat(hive, worker.url))
        begun = datetime.fromisoformat((await becomes(hive, slots_busy=1)).last_health_check.replace("Z", "+00:00"))

        async def looked_at_for_longer() -> bool:
            seen = await only(hive)
            assert (seen.status in ("ready", "busy"), seen.pid) == (True, worker.pid)
            return datetime.fromisoformat(seen.last_health_check.replace("Z", "+00:00")) - begun > timedelta(seconds=3)

        await eventually(looked_at_for_longer)
        os.kill(engine.pid, signal.SIGCONT)
        await asked
        assert (await becomes(hive, status="unloaded")).reason == "had no request for 1.5 seconds"


async def test_a_spawn_during_the_unloading_waits_and_starts_it_again(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn(idle_timeout=0.5))
        await becomes(hive, status="stopping")
        again = (await hive.run(spawn(idle_timeout=0.5))).response
        assert again.status in ("ready", "busy")
        assert process.identify(again.pid) is not None


async def test_an_unloaded_worker_outlives_its_hive_and_can_be_removed(paths: Paths) -> None:
    async with hive_of(paths, leave=True) as hive:
        await hive.run(spawn(idle_timeout=0.5))
        await becomes(hive, status="unloaded")
    async with hive_of(paths) as hive:
        found = await only(hive)
        assert (found.status, found.pid, found.mark) == ("unloaded", 0, MARK)
        gone = await hive.run(WorkerProcessDelete(worker_id="w1"))
        assert gone.names == ["worker_proc_del_start", "worker_proc_del_ok", "result"]
        assert (await hive.capabilities()).workers == ()
        assert not list(paths.workers.iterdir())
        await hive.run(ModelDelete(model_id="bee-tiny"))


async def test_a_model_of_an_unloaded_worker_goes_with_it_when_it_is_forced(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn(idle_timeout=0.5))
        await becomes(hive, status="unloaded")
        told = await hive.run(ModelDelete(model_id="bee-tiny", force=True))
        assert [(e["worker_id"], e["pid"]) for e in told.events if e["event"] == "model_delete_worker_stop"] == [
            ("w1", 0)
        ]
        assert (await hive.capabilities()).workers == ()
        assert not list(paths.workers.iterdir())


async def test_ends_are_counted_over_a_restart_of_the_hive(paths: Paths) -> None:
    async with hive_of(paths, leave=True) as hive:
        pid = (await hive.run(spawn())).response.pid
        for restarts in (1, 2):
            os.kill(pid, signal.SIGKILL)
            pid = (await becomes(hive, restarts=restarts, status="ready")).pid
    async with hive_of(paths) as hive:
        adopted = await becomes(hive, health_status="healthy")
        assert (adopted.pid, adopted.restarts) == (pid, 2)
        os.kill(pid, signal.SIGKILL)
        failed = await becomes(hive, status="failed")
        assert failed.reason is not None
        assert failed.reason.startswith("It ended 3 times within ")


async def test_settings_deleted_by_hand_are_written_again(paths: Paths) -> None:
    async with hive_of(paths, leave=True) as hive:
        pid = (await hive.run(spawn())).response.pid
        folder = WorkerFolder.of(paths.workers, "w1")
        shutil.rmtree(folder.path)
        await eventually((folder.path / "process.json").exists)
    async with hive_of(paths) as hive:
        found = await only(hive)
        assert (found.pid, found.mark) == (pid, MARK)


async def test_a_worker_whose_folder_is_gone_is_ended_by_the_next_hive(paths: Paths) -> None:
    async with hive_of(paths, leave=True) as hive:
        worker = identified((await hive.run(spawn())).response.pid)
    shutil.rmtree(WorkerFolder.of(paths.workers, "w1").path)
    async with hive_of(paths) as hive:
        assert not process.alive(worker)
        assert (await hive.capabilities()).workers == ()


async def test_folders_that_are_no_workers_own_harm_neither_the_hive_nor_a_worker(paths: Paths) -> None:
    async with hive_of(paths, leave=True) as hive:
        worker = identified((await hive.run(spawn())).response.pid)
    own = WorkerFolder.of(paths.workers, "w1")
    shutil.copytree(own.path, paths.workers / "w1-copy")
    nowhere = WorkerFolder.of(paths.workers, "w2")
    found = own.load()
    assert found is not None
    nowhere.path.mkdir()
    nowhere.save_config(replace(found[0], worker_id="w2", listen="nowhere"))
    async with hive_of(paths) as hive:
        adopted = await only(hive)
        assert (adopted.worker_id, adopted.pid) == ("w1", worker.pid)
        assert [f.name for f in paths.workers.iterdir()] == ["w1"]
        await hive.run(WorkerProcessDelete(pid=worker.pid))
        assert not process.alive(worker)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for the hive's state, of 4 MB."""
    place = tmp_path / "state"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "rbee-test", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file:
        for size in (2**16, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


async def test_a_full_disk_keeps_no_worker_from_being_started_again(small_disk: Path, paths: Paths) -> None:
    async with hive_of(paths) as hive:
        before = (await hive.run(spawn())).response
        fill(small_disk)
        os.kill(before.pid, signal.SIGKILL)
        after = await becomes(hive, status="ready", restarts=1)
        assert after.pid != before.pid
        await chat(hive, after.url)
        (small_disk / "ballast").unlink()


async def test_what_keeps_a_worker_from_being_started_again_counts_as_an_end(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        pid = (await hive.run(spawn())).response.pid
        log = WorkerFolder.of(paths.workers, "w1").log
        log.unlink()
        log.mkdir()
        os.kill(pid, signal.SIGKILL)
        failed = await becomes(hive, status="failed")
        assert failed.reason is not None
        assert failed.reason.startswith("It ended 3 times within ")
        assert f"It could not be started: [Errno 21] Is a directory: '{log}'." in failed.reason
        log.rmdir()


async def test_a_port_taken_while_it_was_dead_is_given_up_for_another(paths: Paths) -> None:
    slow = Limits(look_every=0.1, wait_first=1.0)
    async with hive_of(paths, slow) as hive:
        before = (await hive.run(spawn())).response
        os.kill(before.pid, signal.SIGKILL)
        await becomes(hive, status="dead")
        squatter = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", before.port)
        after = await becomes(hive, status="ready")
        assert (after.port != before.port, after.restarts) == (True, 1)
        assert after.url.endswith(f":{after.port}")
        squatter.close()
        await squatter.wait_closed()


async def test_a_port_that_was_asked_for_and_is_taken_ends_in_a_reason(paths: Paths) -> None:
    ports = free_range(1)
    async with hive_of(paths, Limits(look_every=0.1, wait_first=0.5, ends=2), ports) as hive:
        before = (await hive.run(spawn(port=ports[0]))).response
        os.kill(before.pid, signal.SIGKILL)
        await becomes(hive, status="dead")
        squatter = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", ports[0])
        failed = await becomes(hive, status="failed")
        assert f"Another program has taken its port {ports[0]}." in (failed.reason or "")
        squatter.close()
        await squatter.wait_closed()


async def test_a_model_that_is_gone_at_the_restart_is_the_reason(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        pid = (await hive.run(spawn())).response.pid
        shutil.rmtree(paths.models)
        os.kill(pid, signal.SIGKILL)
        failed = await becomes(hive, status="failed")
        assert "The file is gone" in (failed.reason or "")
        assert process.identify(failed.pid) is None


async def test_an_engines_death_is_told_while_it_is_started_again(paths: Paths) -> None:
    async with hive_of(paths, Limits(look_every=0.02)) as hive:
        spawned = (await hive.run(spawn())).response
        engine = await engine_of(hive, await only(hive))
        os.kill(engine.pid, signal.SIGSEGV)

        async def told() -> bool:
            worker = await only(hive)
            return worker.status == "starting" and "SIGSEGV" in (worker.reason or "")

        await eventually(told)
        healed = await becomes(hive, status="ready")
        assert (healed.pid, healed.restarts, healed.reason) == (spawned.pid, 0, None)


async def test_a_worker_that_gave_up_on_its_engine_is_started_anew_by_the_hive(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        before = (await hive.run(spawn())).response

        async def killed_until_it_gives_up() -> bool:
            worker = await only(hive)
            if worker.status == "ready" and worker.restarts == 0:
                os.kill((await engine_of(hive, worker)).pid, signal.SIGSEGV)
                await becomes_other(hive, "ready")
            return worker.restarts == 1

        await eventually(killed_until_it_gives_up)
        after = await becomes(hive, status="ready", restarts=1)
        assert after.pid != before.pid
        assert process.identify(before.pid) is None
        assert after.last_end is not None
        assert after.last_end.startswith("It gave up: ")
        assert "SIGSEGV" in after.last_end
        assert ".." not in after.last_end
        await chat(hive, after.url)


async def becomes_other(hive: HiveClient, status: str) -> None:
    async def is_so() -> bool:
        return (await only(hive)).status != status

    await eventually(is_so)


async def test_one_that_cannot_load_its_model_any_more_is_tried_again_and_then_given_up(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        pid = (await hive.run(spawn())).response.pid
        for file in paths.models.rglob("*.gguf"):
            file.write_bytes(b"GGUF, and then nothing of it")
        os.kill(pid, signal.SIGKILL)
        failed = await becomes(hive, status="failed")
        assert failed.reason is not None
        assert failed.reason.startswith("It ended 3 times within ")
        assert (failed.restarts, process.identify(failed.pid)) == (2, None)
