# SPDX-License-Identifier: GPL-3.0-or-later
"""WorkerUnload and WorkerRestart, over HTTP against a real hive with real workers: drained, cut, hung, twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import process
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import (
    WorkerProcessDelete,
    WorkerProcessGet,
    WorkerProcessList,
    WorkerRestart,
    WorkerUnload,
)
from rbee.core.actual import in_place
from rbee.core.records import WorkerRecord
from rbee.core.spec import WorkerOptions
from tests.support.hive import MARK, HiveClient, install_engine, machine
from tests.support.spawning import bad_engine, end_all, refused, running, spawn
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine
#: Looked at seldom: what happens here is asked for, and not found by a look.
QUIET: dict[str, Any] = {"look_every": 30.0, "answer_within": 2.0, "wait_first": 0.05, "wait_longest": 0.1, "ends": 3}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path)
    install_engine(made, llama_cpp())
    return made


@asynccontextmanager
async def hive_of(paths: Paths, **limits: Any) -> AsyncIterator[HiveClient]:
    async with running(paths, **{**QUIET, **limits}) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny", mark=MARK))
        try:
            yield hive
        finally:
            await end_all(hive)


async def only(hive: HiveClient) -> WorkerRecord:
    (worker,) = (await hive.run(WorkerProcessList())).response.workers
    assert isinstance(worker, WorkerRecord)
    return worker


async def becomes(hive: HiveClient, **wanted: Any) -> WorkerRecord:
    async def is_so() -> bool:
        worker = await only(hive)
        return all(getattr(worker, name) == value for name, value in wanted.items())

    await eventually(is_so)
    return await only(hive)


async def engine_of(hive: HiveClient, worker: WorkerRecord) -> process.Identity:
    async with hive.session.get(f"{worker.url}/info") as answer:
        found = process.identify((await answer.json())["engine_pid"])
    assert found is not None
    return found


async def chat(hive: HiveClient, url: str) -> int:
    body = {"model": "bee-tiny", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
    async with hive.session.post(f"{url}/v1/chat/completions", json=body) as answer:
        await answer.read()
        return answer.status


@asynccontextmanager
async def busy(hive: HiveClient, worker: WorkerRecord) -> AsyncIterator[tuple[asyncio.Task[int], process.Identity]]:
    """With a request that goes on until its engine, which is stopped, is let go on."""
    engine = await engine_of(hive, worker)
    os.kill(engine.pid, signal.SIGSTOP)
    asked = asyncio.create_task(chat(hive, worker.url))

    async def serves() -> bool:
        async with hive.session.get(f"{worker.url}/info") as answer:
            return bool((await answer.json())["slots_busy"])

    try:
        await eventually(serves)
        yield asked, engine
    finally:
        if process.alive(engine):
            os.kill(engine.pid, signal.SIGCONT)
        await asyncio.gather(asked, return_exceptions=True)


# ------------------------------------------------------------ unload


async def test_an_unloaded_worker_is_kept_and_comes_back_as_it_was(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        before = (await hive.run(spawn(mark=MARK, idle_timeout=3600.0))).response
        told = await hive.run(WorkerUnload(worker_id="w1", if_idle=True, reason="Room for another."))
        assert told.names == ["worker_unload_start", "worker_unload_sigterm", "worker_unload_complete", "result"]
        assert told.response.message == "Worker w1 is unloaded."
        found = await only(hive)
        assert (found.status, found.pid, found.reason) == ("unloaded", 0, "Room for another")
        assert (found.mark, found.next) == (MARK, None)
        shown = (await hive.run(WorkerProcessGet(worker_id="w1"))).response.worker
        assert (shown.status, shown.worker_id) == ("unloaded", "w1")
        assert process.identify(before.pid) is None
        again = await hive.run(WorkerUnload(worker_id="w1"))
        assert again.response.message == "Worker w1 was unloaded already."
        back = (await hive.run(spawn(options=WorkerOptions()))).response
        seen = await only(hive)
        assert (seen.pid, seen.mark, seen.idle_timeout, seen.status) == (back.pid, MARK, 3600.0, "ready")


async def test_one_that_serves_is_unloaded_only_when_it_has_finished(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn(mark=MARK))
        async with busy(hive, await only(hive)) as (asked, engine):
            code, message, events = await refused(hive, WorkerUnload(worker_id="w1", if_idle=True))
            assert (code, message.startswith("Worker 'w1' serves 1 request. ")) == ("worker_busy", True)
            assert [e["event"] for e in events] == ["worker_unload_start", "worker_unload_error"]
            assert not asked.done()
            unloading = asyncio.create_task(hive.run(WorkerUnload(worker_id="w1")))
            drained = await becomes(hive, status="stopping")
            # What a plan sees in that moment: it is in place.
            assert (drained.next, in_place(drained)) == ("unloaded", True)
            os.kill(engine.pid, signal.SIGCONT)
            assert await asked == 200
            assert (await unloading).response.worker_id == "w1"
        assert (await only(hive)).status == "unloaded"


async def test_one_that_does_not_answer_is_not_idle(paths: Paths) -> None:
    async with hive_of(paths, answer_within=0.3) as hive:
        pid = (await hive.run(spawn())).response.pid
        os.kill(pid, signal.SIGSTOP)
        code, message, _ = await refused(hive, WorkerUnload(worker_id="w1", if_idle=True))
        os.kill(pid, signal.SIGCONT)
        assert (code, "It gave no answer within 0.3 seconds." in message) == ("worker_busy", True)


async def test_what_cannot_be_unloaded(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        nobody = (WorkerUnload(worker_id="nobody"), WorkerRestart(worker_id="nobody"), WorkerProcessGet(worker_id="x"))
        for request in nobody:
            assert (await refused(hive, request))[0] == "worker_not_found"
        assert (await refused(hive, WorkerProcessGet()))[0] == "invalid_request"
        starting = asyncio.create_task(
            refused(hive, spawn(engine=bad_engine(paths, "silent"), options=WorkerOptions()))
        )
        await eventually(lambda: _is(hive, "starting"))
        assert (await refused(hive, WorkerUnload(worker_id="w1")))[0] == "worker_starting"
        await hive.run(WorkerProcessDelete(worker_id="w1"))
        assert (await starting)[0] == "worker_stopped"


async def _is(hive: HiveClient, status: str) -> bool:
    return [w.status for w in (await hive.run(WorkerProcessList())).response.workers] == [status]


async def test_two_that_unload_at_once_have_the_same_answer(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn())
        both = await asyncio.gather(*(hive.run(WorkerUnload(worker_id="w1", if_idle=True)) for _ in range(2)))
        assert sorted(name for told in both for name in told.names if name.endswith("sigterm")) == [
            "worker_unload_sigterm"
        ]
        assert {told.response.message for told in both} == {"Worker w1 is unloaded."}


# ------------------------------------------------------------ restart


async def test_a_restart_finishes_requests_and_keeps_id_settings_and_mark(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn(mark=MARK, idle_timeout=3600.0))
        before = await only(hive)
        async with busy(hive, before) as (asked, engine):
            restarting = asyncio.create_task(hive.run(WorkerRestart(worker_id="w1", reason="A driver was changed.")))
            going = await becomes(hive, status="stopping")
            assert (going.next, in_place(going)) == ("starting", True)
            assert going.reason == "It was started anew by request: A driver was changed."
            os.kill(engine.pid, signal.SIGCONT)
            assert await asked == 200
            told = await restarting
        assert told.names[:2] == ["worker_restart_start", "worker_restart_sigterm"]
        assert "worker_restart_health_check" in told.names
        assert told.names[-2:] == ["worker_restart_complete", "result"]
        after = await only(hive)
        assert (told.response.pid, told.response.status) == (after.pid, "ready")
        assert (after.pid != before.pid, after.restarts) == (True, 1)
        assert after.last_end == "It was started anew by request: A driver was changed."
        kept = ("worker_id", "port", "mark", "idle_timeout", "slots", "model", "device", "reason")
        assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
        assert await chat(hive, after.url) == 200


async def test_a_restart_without_drain_cuts_requests(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn())
        before = await only(hive)
        async with busy(hive, before) as (asked, engine):
            told = await hive.run(WorkerRestart(worker_id="w1", drain=False))
            assert "worker_restart_sigkill" in told.names
            assert not process.alive(engine)
            await asyncio.wait({asked})
            assert asked.exception() is not None or asked.result() != 200
        assert (await only(hive)).last_end == "It was started anew by request."


async def test_a_worker_that_hangs_is_killed_and_started_anew(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn(mark=MARK))
        before = await only(hive)
        engine = await engine_of(hive, before)
        os.kill(before.pid, signal.SIGSTOP)
        told = await hive.run(WorkerRestart(worker_id="w1", drain=False, reason="It sent nothing"))
        assert told.names[1:3] == ["worker_restart_sigterm", "worker_restart_sigkill"]
        after = await only(hive)
        assert (after.status, after.restarts, after.mark) == ("ready", 1, MARK)
        assert process.identify(before.pid) is None
        await eventually(lambda: not process.alive(engine))


async def test_two_restarts_at_once_are_one(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn())
        asked = (hive.run(WorkerRestart(worker_id="w1", drain=drain)) for drain in (True, False, True))
        told = await asyncio.gather(*asked)
        after = await only(hive)
        assert (after.restarts, {t.response.pid for t in told}) == (1, {after.pid})
        assert sorted(t.names.count("worker_restart_joined") for t in told) == [0, 1, 1]


async def test_a_failed_worker_is_started_again(paths: Paths) -> None:
    async with hive_of(paths, look_every=0.1) as hive:
        pid = (await hive.run(spawn(mark=MARK))).response.pid
        for restarts in (1, 2):
            os.kill(pid, signal.SIGKILL)
            pid = (await becomes(hive, status="ready", restarts=restarts)).pid
        os.kill(pid, signal.SIGKILL)
        await becomes(hive, status="failed")
        assert (await refused(hive, WorkerUnload(worker_id="w1")))[0] == "worker_failed"
        told = await asyncio.gather(*(hive.run(WorkerRestart(worker_id="w1", reason="again")) for _ in range(2)))
        after = await only(hive)
        assert {t.response.pid for t in told} == {after.pid}
        assert (after.status, after.restarts, after.mark) == ("ready", 3, MARK)
        assert after.last_end == "It was started anew by request: again."


async def test_an_unloaded_worker_is_started_and_one_that_does_not_fit_stays_unloaded(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn())
        await hive.run(WorkerUnload(worker_id="w1"))
        assert (await hive.run(WorkerRestart(worker_id="w1"))).response.status == "ready"
        await hive.run(WorkerUnload(worker_id="w1"))
        # Its engine is gone: what any other start is refused for, this is too.
        for folder in paths.worker_binaries.iterdir():
            folder.rename(folder.with_name(f".{folder.name}"))
        code, _, events = await refused(hive, WorkerRestart(worker_id="w1"))
        assert code == "no_engine"
        assert [e["event"] for e in events][-1] == "worker_restart_error"
        assert (await only(hive)).status == "unloaded"


async def test_one_that_waits_to_be_started_again_is_started_now_or_unloaded(paths: Paths) -> None:
    async with hive_of(paths, wait_first=600.0, wait_longest=600.0) as hive:
        pid = (await hive.run(spawn())).response.pid
        os.kill(pid, signal.SIGKILL)
        await becomes(hive, status="dead")
        pid = (await hive.run(WorkerRestart(worker_id="w1"))).response.pid
        assert (await only(hive)).status == "ready"
        os.kill(pid, signal.SIGKILL)
        await becomes(hive, status="dead")
        await hive.run(WorkerUnload(worker_id="w1", if_idle=True))
        assert (await only(hive)).status == "unloaded"


async def test_one_that_will_never_be_ready_is_started_anew_and_told(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn())
        (folder,) = paths.workers.iterdir()
        # The model is gone while it runs: the next process cannot load it.
        for model in paths.models.rglob("*.gguf"):
            model.write_bytes(b"no model")
        code, message, events = await refused(hive, WorkerRestart(worker_id="w1"))
        assert (code, message.startswith("Worker w1 failed: It ended 3 times within ")) == ("worker_failed", True)
        assert events[-1]["event"] == "worker_restart_error"
        assert folder.exists()  # it is not forgotten: its log says why


async def test_a_worker_removed_while_it_is_drained_is_gone(paths: Paths) -> None:
    async with hive_of(paths) as hive:
        await hive.run(spawn())
        async with busy(hive, await only(hive)) as (_, engine):
            asked = asyncio.create_task(refused(hive, WorkerUnload(worker_id="w1")))
            await becomes(hive, status="stopping")
            await hive.run(WorkerProcessDelete(worker_id="w1"))
            # Killed by the first of the two who wanted its end; the other one saw only the worker go.
            await eventually(lambda: not process.alive(engine))
            assert (await asked)[0] == "worker_stopping"
        assert (await hive.capabilities()).workers == ()
