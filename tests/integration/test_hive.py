# SPDX-License-Identifier: GPL-3.0-or-later
"""A real hive over HTTP, with real workers of the real engine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rbee.adapters import process, shipped
from rbee.adapters.paths import Paths
from rbee.adapters.secrets import load_token, write_secret
from rbee.contracts.operations.devices import DeviceList
from rbee.contracts.operations.hives import HiveCheck
from rbee.contracts.operations.models import ModelDelete, ModelDownload, ModelGet, ModelList
from rbee.contracts.operations.workers import (
    WorkerProcessDelete,
    WorkerProcessGet,
    WorkerProcessList,
    WorkerSpawn,
)
from rbee.core.errors import Conflict, RbeeError
from rbee.core.records import Mark, WorkerRecord
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from tests.support.files_server import serving
from tests.support.hive import MARK, HiveClient, client, install_engine, machine, settings
from tests.support.ports import free_range
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine

OPTIONS = WorkerOptions(context_length=128, parallel=1, threads=1)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path)
    install_engine(made, llama_cpp())
    return made


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    """A hive with the demo model; what it started is ended afterwards."""
    daemon = HiveDaemon(settings(free_range()), paths, None)
    await daemon.start()
    async with client(daemon.url) as asked:
        await asked.run(ModelDownload(model="builtin:bee-tiny", mark=MARK))
        yield asked
        for worker in (await asked.capabilities()).workers:
            await asked.run(WorkerProcessDelete(pid=worker.pid))
    await daemon.stop()


def spawn(worker_id: str = "w1", digest: str = "d1", **changes: object) -> WorkerSpawn:
    return WorkerSpawn(
        **{  # type: ignore[arg-type]
            "model": "bee-tiny",
            "worker_id": worker_id,
            "options": OPTIONS,
            "mark": Mark(fleet="test", spec_digest=digest),
            **changes,
        }
    )


async def only(hive: HiveClient) -> WorkerRecord:
    (worker,) = (await hive.capabilities()).workers
    return worker


async def test_open_endpoints_and_check(hive: HiveClient) -> None:
    for path, said in (("/health", "ok"), ("/readyz", '{"status":"ready"}')):
        async with hive.session.get(hive.url + path) as answer:
            assert answer.status == 200
            assert said in await answer.text()
    told = await hive.run(HiveCheck(hive_id="h1"))
    assert told.names == ["hive_check_start", *["hive_check_step"] * 5, "hive_check_complete", "result"]
    with pytest.raises(RbeeError, match="This is hive 'h1', not 'h2'"):
        await hive.run(HiveCheck(hive_id="h2"))


async def test_worker_from_spawn_to_delete(hive: HiveClient) -> None:
    told = await hive.run(spawn())
    assert told.names[0] == "worker_spawn_start"
    assert "worker_spawn_health_check" in told.names
    assert told.names[-2:] == ["worker_spawn_complete", "result"]
    spawned = told.response
    async with hive.session.post(
        f"{spawned.url}/v1/chat/completions",
        json={"model": "bee-tiny", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8},
    ) as answer:
        assert answer.status == 200
        assert (await answer.json())["choices"][0]["message"]["content"]

    record = await only(hive)
    assert (record.worker_id, record.pid, record.port) == ("w1", spawned.pid, spawned.port)
    # As of the last look, which may have come in the middle of that request.
    assert record.status in ("ready", "busy")
    assert (record.model, record.engine, record.device, record.slots) == ("bee-tiny", "llama-cpp", "cpu", 1)
    assert record.mark == MARK
    assert record.memory_mb is not None
    assert record.memory_mb > 10
    listed = await hive.run(WorkerProcessList())
    assert listed.names == ["worker_proc_list_start", "worker_proc_list_entry", "worker_proc_list_result", "result"]
    assert (await hive.run(WorkerProcessGet(pid=spawned.pid))).response.worker.worker_id == "w1"
    (cpu,) = (d for d in (await hive.run(DeviceList())).response.devices if d.id == "cpu")
    assert (cpu.in_use, cpu.workers) == (True, ("w1",))

    with pytest.raises(RbeeError, match="used by w1") as refused:
        await hive.run(ModelDelete(model_id="bee-tiny"))
    assert refused.value.code == "model_in_use"

    gone = await hive.run(WorkerProcessDelete(pid=spawned.pid))
    assert gone.names == ["worker_proc_del_start", "worker_proc_del_sigterm", "worker_proc_del_ok", "result"]
    assert process.identify(spawned.pid) is None
    assert "worker_proc_list_empty" in (await hive.run(WorkerProcessList())).names
    await hive.run(ModelDelete(model_id="bee-tiny"))
    assert (await hive.run(ModelList())).response.models == ()
    with pytest.raises(RbeeError, match="no model 'bee-tiny'"):
        await hive.run(ModelGet(model_id="bee-tiny"))


async def test_spawn_again_returns_it_as_it_is_and_another_digest_conflicts(hive: HiveClient) -> None:
    first, second = await asyncio.gather(hive.run(spawn()), hive.run(spawn()))
    assert first.response == second.response
    assert (await hive.run(spawn())).response.pid == first.response.pid
    with pytest.raises(RbeeError, match="runs already") as refused:
        await hive.run(spawn(digest="d2"))
    assert refused.value.code == "worker_exists"
    assert (await only(hive)).pid == first.response.pid


async def test_foreign_pids_are_never_touched(hive: HiveClient) -> None:
    with pytest.raises(RbeeError, match="No worker of this hive has pid") as refused:
        await hive.run(WorkerProcessDelete(pid=os.getpid()))
    assert refused.value.code == "worker_not_found"


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"model": "bee-tini"}, "model_not_found", "Did you mean 'bee-tiny'"),
        ({"worker": "cuda", "device": 7}, "device_not_found", "no device cuda:7"),
        ({"engine": "vllm"}, "no_engine", "No vllm is installed"),
        ({"options": WorkerOptions(threads=4096)}, "invalid_request", "4096 threads"),
        ({"options": WorkerOptions(context_length=128, batch_size=10**9)}, "bad_options", "hold 256"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_starts(
    hive: HiveClient, paths: Paths, changes: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(RbeeError, match=said) as refused:
        await hive.run(spawn(**changes))
    assert refused.value.code == code
    assert (await hive.capabilities()).workers == ()
    assert not paths.workers.exists() or list(paths.workers.iterdir()) == []


async def test_corrupt_model_is_refused_with_its_reason(hive: HiveClient, paths: Paths) -> None:
    file = Path((await hive.run(ModelGet(model_id="bee-tiny"))).response.model.path)
    data = file.read_bytes()
    file.write_bytes(b"not a model"[:10] + data[10:])
    with pytest.raises(RbeeError, match="no GGUF") as refused:
        await hive.run(spawn())
    assert refused.value.code == "invalid_model"
    file.write_bytes(data[:-1000])
    with pytest.raises(RbeeError, match="bytes, not") as refused:
        await hive.run(spawn())
    assert refused.value.code == "model_not_available"


async def test_taken_ports_are_passed_over_and_a_used_up_range_is_told(paths: Paths) -> None:
    first, _ = free_range(2)
    daemon = HiveDaemon(settings((first, first + 1)), paths, None)
    squatter = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", first)
    await daemon.start()
    async with client(daemon.url) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        worker = (await hive.run(spawn())).response
        assert worker.port == first + 1
        with pytest.raises(RbeeError, match="All worker ports") as refused:
            await hive.run(spawn("w2"))
        assert refused.value.code == "no_free_port"
        with pytest.raises(RbeeError, match=f"Port {first} is taken") as refused:
            await hive.run(spawn("w2", port=first))
        assert refused.value.code == "port_taken"
        await hive.run(WorkerProcessDelete(pid=worker.pid))
    await daemon.stop()
    squatter.close()
    await squatter.wait_closed()


async def test_port_taken_by_another_between_test_and_bind_is_given_up_for_the_next(paths: Paths) -> None:
    first, _ = free_range(2)
    daemon = HiveDaemon(settings((first, first + 1)), paths, None)
    await daemon.start()
    async with client(daemon.url) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        job = await hive.submit(spawn())
        squatter = None
        async for event in hive.events(job):
            if event["event"] == "worker_spawn_health_check" and squatter is None:
                # The hive has chosen the port; the worker's interpreter is still starting.
                squatter = await asyncio.start_server(_pretend_ready, "127.0.0.1", first)
        worker = await only(hive)
        assert (worker.status, worker.port) == ("ready", first + 1)
        assert worker.url.endswith(str(first + 1))
        await hive.run(WorkerProcessDelete(pid=worker.pid))
    await daemon.stop()
    assert squatter is not None
    squatter.close()
    await squatter.wait_closed()


async def _pretend_ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Some other worker, ready for anything."""
    await reader.readuntil(b"\r\n\r\n")
    body = b'{"status": "ready", "pid": 1}'
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def test_model_that_the_engine_refuses_is_a_failed_worker_with_its_words(
    hive: HiveClient, tmp_path: Path
) -> None:
    strange = tmp_path / "strange.gguf"
    data = shipped.builtin_model("bee-tiny").read_bytes()
    # Well-formed, and of an architecture that no engine knows.
    strange.write_bytes(data.replace(b"llama", b"lxama"))
    await hive.run(ModelDownload(model=f"file:{strange}"))
    with pytest.raises(RbeeError, match="lxama") as refused:
        await hive.run(spawn(model="strange"))
    assert refused.value.code == "worker_failed"
    worker = await only(hive)
    assert worker.status == "failed"
    assert "lxama" in (worker.reason or "")
    assert process.identify(worker.pid) is None
    # What failed holds nothing: its model can go, its name can be taken.
    await hive.run(ModelDelete(model_id="strange"))
    assert (await hive.run(spawn(digest="d9"))).response.status == "ready"


async def test_no_engine_outlives_a_killed_worker(hive: HiveClient) -> None:
    spawned = (await hive.run(spawn())).response
    async with hive.session.get(f"{spawned.url}/info") as answer:
        engine = process.identify((await answer.json())["engine_pid"])
    assert engine is not None
    os.kill(spawned.pid, signal.SIGKILL)
    await eventually(lambda: not process.alive(engine))


async def test_cancelled_spawn_leaves_nothing(hive: HiveClient, paths: Paths) -> None:
    job = await hive.submit(spawn())
    async for event in hive.events(job):
        if event["event"] == "worker_spawn_health_check":
            await hive.cancel(job)
            break

    async def gone() -> bool:
        return (await hive.capabilities()).workers == ()

    await eventually(gone)
    assert not paths.workers.exists() or list(paths.workers.iterdir()) == []


async def test_killed_worker_is_seen_and_started_again(hive: HiveClient) -> None:
    pid = (await hive.run(spawn())).response.pid
    os.kill(pid, signal.SIGKILL)

    async def healed() -> bool:
        worker = await only(hive)
        return worker.pid != pid and worker.status == "ready"

    await eventually(healed)
    assert process.identify(pid) is None


async def test_worker_that_keeps_dying_is_failed_with_the_reason(hive: HiveClient) -> None:
    killed = {(await hive.run(spawn())).response.pid}
    os.kill(next(iter(killed)), signal.SIGKILL)

    async def given_up() -> bool:
        worker = await only(hive)
        if worker.status == "ready" and worker.pid not in killed:
            killed.add(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
        return worker.status == "failed"

    await eventually(given_up, seconds=40)
    worker = await only(hive)
    assert worker.reason is not None
    assert worker.reason.startswith("It ended 5 times within ")
    assert "killed by SIGKILL (by somebody, or by the kernel for lack of memory)" in worker.reason
    assert len(killed) == 5
    # A failed one is replaced by the next of its name, whatever its digest.
    assert (await hive.run(spawn(digest="d2"))).response.status == "ready"


async def test_second_hive_of_the_same_directories_is_refused(hive: HiveClient, paths: Paths) -> None:
    with pytest.raises(Conflict, match=rf"A hive runs already \(pid {os.getpid()}\)"):
        await HiveDaemon(settings(free_range()), paths, None).start()
    assert (await hive.capabilities()).hive_id == "h1"


@pytest.mark.parametrize("named", [False, True])
async def test_workers_show_the_token_to_no_queen_that_anyone_may_have_named(paths: Paths, named: bool) -> None:
    """The listener is open: any user of the machine may send the job."""
    write_secret(paths.token, "a-token-of-the-fleet")
    shown: list[str | None] = []

    async def beat(request: web.Request) -> web.StreamResponse:
        shown.append(request.headers.get("Authorization"))
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/worker-heartbeat", beat)
    async with serving(app) as url:
        config = settings(free_range(), queen_url=url if named else None)
        daemon = HiveDaemon(config, paths, load_token(paths.token))
        await daemon.start()
        async with client(daemon.url) as hive:
            await hive.run(ModelDownload(model="builtin:bee-tiny", mark=MARK))
            await hive.run(spawn(queen_url=url))
            await eventually(lambda: len(shown) >= 2)
            await hive.run(WorkerProcessDelete(pid=(await only(hive)).pid))
        await daemon.stop()
    assert set(shown) == {"Bearer a-token-of-the-fleet" if named else None}
