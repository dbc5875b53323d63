# SPDX-License-Identifier: GPL-3.0-or-later
"""A hive that is killed and comes again: workers outlive it, jobs of the dead one are told as interrupted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee.adapters import process
from rbee.adapters.paths import Paths, write_atomic
from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig
from rbee.contracts.operations.models import ModelDownload, ModelGet
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerSpawn
from rbee.core.records import Mark, WorkerRecord
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.workers.files import WorkerFolder
from tests.support.files_server import file_server
from tests.support.hive import HiveClient, client, install_engine, settings
from tests.support.ports import free_port, free_range
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine

SPAWN = WorkerSpawn(
    model="bee-tiny",
    worker_id="w1",
    options=WorkerOptions(context_length=128, parallel=1, threads=1),
    mark=Mark(fleet="test", spec_digest="d1"),
)


@dataclass
class HiveProcess:
    """`rbee-hive` as a machine runs it."""

    paths: Paths
    config: HiveConfig
    root: Path

    @property
    def url(self) -> str:
        return f"http://{self.config.listen}"

    @asynccontextmanager
    async def running(self, end: signal.Signals = signal.SIGTERM) -> AsyncIterator[HiveClient]:
        names = {"config": "CONFIG", "cache": "CACHE", "data": "DATA", "state": "STATE"}
        env = os.environ | {f"XDG_{v}_HOME": str(self.root / k) for k, v in names.items()}
        with (self.root / "hive.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "rbee.cli.daemons", "hive"], env=env, stdout=log, stderr=log
            )
        try:
            async with client(self.url) as hive:
                await eventually(lambda: self._answers(hive))
                yield hive
        finally:
            daemon.send_signal(end)
            await asyncio.to_thread(daemon.wait, 30)

    async def _answers(self, hive: HiveClient) -> bool:
        try:
            async with hive.session.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture
def machine_of_hive(tmp_path: Path) -> HiveProcess:
    paths = Paths(**{k: tmp_path / k / "rbee" for k in ("config", "cache", "data", "state")})
    config = settings(free_range(), listen=f"127.0.0.1:{free_port()}")
    write_atomic(paths.hive_config, codec.encode_pretty(config), 0o600)
    install_engine(paths, llama_cpp())
    return HiveProcess(paths, config, tmp_path)


async def only(hive: HiveClient) -> WorkerRecord:
    (worker,) = (await hive.capabilities()).workers
    return worker


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_the_next_hive_adopts_what_runs(machine_of_hive: HiveProcess, end: signal.Signals) -> None:
    run_file = machine_of_hive.paths.state / "hive.run.json"
    async with machine_of_hive.running(end) as hive:
        told = json.loads(run_file.read_text())
        assert process.alive(process.Identity(pid=told["pid"], start_time=told["start_time"]))
        assert (told["url"], told["hive_id"], told["fleet"]) == (machine_of_hive.url, "h1", "test")
        assert run_file.stat().st_mode & 0o777 == 0o600
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        before = (await hive.run(SPAWN)).response
    assert run_file.exists() == (end == signal.SIGKILL)
    assert process.identify(before.pid) is not None
    async with machine_of_hive.running() as hive:
        after = await only(hive)
        assert (after.pid, after.port, after.url, after.mark) == (before.pid, before.port, before.url, SPAWN.mark)
        await eventually(lambda: _is(hive, "ready"))
        assert (await hive.run(SPAWN)).response.pid == before.pid
        # An adopted worker is no child of this hive; its end is seen all the same.
        os.kill(before.pid, signal.SIGKILL)
        await eventually(lambda: _other(hive, before.pid))
        worker = await only(hive)
        assert worker.restarts == 1
        assert worker.last_end is not None
        assert worker.last_end.startswith("Its process ended; its exit code is not known")
        gone = await hive.run(WorkerProcessDelete(pid=worker.pid))
        assert gone.names[-2:] == ["worker_proc_del_ok", "result"]
        assert not process.alive(process.identify(worker.pid) or process.Identity(pid=worker.pid, start_time=0))


async def _is(hive: HiveClient, status: str) -> bool:
    return (await only(hive)).status == status


async def _other(hive: HiveClient, pid: int) -> bool:
    worker = await only(hive)
    return worker.pid != pid and worker.status == "ready"


async def test_a_worker_that_died_meanwhile_comes_again_and_a_reused_pid_is_no_worker(
    machine_of_hive: HiveProcess,
) -> None:
    async with machine_of_hive.running(signal.SIGKILL) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        before = (await hive.run(SPAWN)).response
    folder = WorkerFolder.of(machine_of_hive.paths.workers, "w1")
    who = process.identify(before.pid)
    assert who is not None
    await process.end(who, 10)
    # As if the pid had been given to a stranger: this very test.
    state = json.loads((folder.path / "process.json").read_text())
    me = process.myself()
    (folder.path / "process.json").write_text(json.dumps({**state, "pid": me.pid, "start_time": me.start_time}))
    async with machine_of_hive.running() as hive:
        await eventually(lambda: _other(hive, me.pid))
        worker = await only(hive)
        assert worker.mark == SPAWN.mark
        await hive.run(WorkerProcessDelete(pid=worker.pid))


async def test_a_hive_killed_before_it_noted_the_pid_finds_its_worker(machine_of_hive: HiveProcess) -> None:
    async with machine_of_hive.running(signal.SIGKILL) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        before = (await hive.run(SPAWN)).response
    (WorkerFolder.of(machine_of_hive.paths.workers, "w1").path / "process.json").write_text("{")
    async with machine_of_hive.running() as hive:
        assert (await only(hive)).pid == before.pid
        await hive.run(WorkerProcessDelete(pid=before.pid))


async def test_a_hive_killed_before_it_noted_a_second_process_adopts_that_one(machine_of_hive: HiveProcess) -> None:
    async with machine_of_hive.running(signal.SIGKILL) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        before = (await hive.run(SPAWN)).response
    noted = WorkerFolder.of(machine_of_hive.paths.workers, "w1").path / "process.json"
    # As it was while the first process was dead and the second one had just been started.
    noted.write_text(json.dumps({**json.loads(noted.read_text()), "pid": 2**22 - 1, "status": "dead"}))
    async with machine_of_hive.running() as hive:
        await eventually(lambda: _is(hive, "ready"))
        assert (await only(hive)).pid == before.pid
        await hive.run(WorkerProcessDelete(pid=before.pid))


async def test_a_worker_whose_settings_are_lost_is_ended_not_forgotten(machine_of_hive: HiveProcess) -> None:
    async with machine_of_hive.running() as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        before = (await hive.run(SPAWN)).response
    identity = process.identify(before.pid)
    assert identity is not None
    WorkerFolder.of(machine_of_hive.paths.workers, "w1").config_file.write_text('{"of": "another release"}')
    async with machine_of_hive.running() as hive:
        assert not (await hive.capabilities()).workers
        assert not process.alive(identity)


async def test_a_worker_is_kept_though_its_state_cannot_be_written(machine_of_hive: HiveProcess) -> None:
    in_the_way = WorkerFolder.of(machine_of_hive.paths.workers, "w1").path / "process.json" / "in the way"
    async with machine_of_hive.running() as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        in_the_way.mkdir(parents=True)
        before = (await hive.run(SPAWN)).response
        assert (await only(hive)).status == "ready"
    async with machine_of_hive.running() as hive:
        assert (await only(hive)).pid == before.pid
        await hive.run(WorkerProcessDelete(pid=before.pid))


async def test_a_download_cut_by_a_kill_is_failed_then_resumed(machine_of_hive: HiveProcess) -> None:
    async with file_server(_bee(), hold_after=500_000) as server:
        request = ModelDownload(model=f"{server.url}/model.gguf", model_id="m1")
        async with machine_of_hive.running(signal.SIGKILL) as hive:
            job = await hive.submit(request)
            await asyncio.wait_for(server.holding.wait(), 20)
            part = machine_of_hive.paths.models / "m1" / "model.gguf.part"
            await eventually(lambda: part.exists() and part.stat().st_size > 200_000)
            assert (await hive.run(ModelGet(model_id="m1"))).response.model.status == "downloading"
        server.hold_after = None
        server.go_on.set()
        async with machine_of_hive.running() as hive:
            async with hive.session.get(f"{hive.url}/v1/jobs/{job}") as answer:
                ended = await answer.json()
            assert (ended["state"], ended["error"]["code"]) == ("failed", "interrupted")
            record = (await hive.run(ModelGet(model_id="m1"))).response.model
            assert record.status == "failed"
            assert "download it again" in record.error
            done = (await hive.run(request)).response
            assert (done.status, done.checksum) == ("available", server.sha256)
            assert server.starts[-1] > 0


def _bee() -> bytes:
    from rbee.adapters import shipped

    return shipped.builtin_model("bee-tiny").read_bytes()
