# SPDX-License-Identifier: GPL-3.0-or-later
"""DownloadList, Pause, Resume and Cancel on a real hive; models of several files; a hive killed in the middle."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rbee.adapters import shipped
from rbee.adapters.paths import Paths, write_atomic
from rbee.contracts import codec, defaults
from rbee.contracts.operations.downloads import (
    DownloadCancel,
    DownloadInfo,
    DownloadList,
    DownloadPause,
    DownloadResume,
)
from rbee.contracts.operations.models import ModelDelete, ModelDownload, ModelGet, ModelList
from rbee.core.errors import RbeeError
from rbee.core.records import ModelRecord
from rbee.daemons.hive.app import HiveDaemon
from tests.support.files_server import FileServer, file_server
from tests.support.hive import HiveClient, JobTold, client, machine, settings
from tests.support.ports import free_range
from tests.support.waiting import eventually

BEE = shipped.builtin_model("bee-tiny").read_bytes()
BEE_SHA256 = hashlib.sha256(BEE).hexdigest()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path / "machine")


@asynccontextmanager
async def hive_on(paths: Paths) -> AsyncIterator[HiveClient]:
    daemon = HiveDaemon(settings(free_range()), paths, None)
    await daemon.start()
    try:
        async with client(daemon.url) as asked:
            yield asked
    finally:
        await daemon.stop()


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    async with hive_on(paths) as asked:
        yield asked


async def listed(hive: HiveClient) -> dict[str, DownloadInfo]:
    return {d.model_id: d for d in (await hive.run(DownloadList())).response.downloads}


async def record(hive: HiveClient, model_id: str) -> ModelRecord:
    found: ModelRecord = (await hive.run(ModelGet(model_id=model_id))).response.model
    return found


def wanted(
    server: FileServer, model_id: str = "m1", revision: str | None = None, sha256: str | None = None
) -> ModelDownload:
    return ModelDownload(model=f"{server.url}/model.gguf", model_id=model_id, revision=revision, sha256=sha256)


async def begun(hive: HiveClient, server: FileServer, model_id: str = "m1", **more: str) -> str:
    """A job whose download has brought something and goes on when the server does."""
    job = await hive.submit(wanted(server, model_id, **more))

    async def some() -> bool:
        found = (await listed(hive)).get(model_id)
        return found is not None and found.bytes_downloaded > 300_000

    await eventually(some)
    return job


def let_go(server: FileServer) -> None:
    server.hold_after = None
    server.go_on.set()


async def ended(hive: HiveClient, job: str) -> tuple[dict[str, object], list[str]]:
    """A job at its end, and the names of what it told."""
    names = [e.get("event", "") async for e in hive.events(job)]
    async with hive.session.get(f"{hive.url}/v1/jobs/{job}") as answer:
        return await answer.json(), names


async def test_a_running_download_is_listed_with_numbers(hive: HiveClient) -> None:
    assert (await hive.run(DownloadList())).response.downloads == ()
    async with file_server(BEE, hold_after=600_000) as server:
        job = await begun(hive, server)
        one = (await listed(hive))["m1"]
        assert (one.download_id, one.status, one.total_bytes) == ("download-m1", "downloading", len(BEE))
        assert one.source == f"{server.url}/model.gguf"
        assert one.job_ids == (job,)
        assert one.started_at
        assert one.error is None
        assert one.speed_bytes_per_sec > 0
        assert one.eta_seconds is not None
        let_go(server)
        done, _ = await ended(hive, job)
        assert done["state"] == "completed"
    assert await listed(hive) == {}


@pytest.mark.parametrize("name", ["m1", "download-m1"])
async def test_a_job_waits_while_its_download_is_paused(hive: HiveClient, paths: Paths, name: str) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        job = await begun(hive, server)
        paused = await hive.run(DownloadPause(download_id=name))
        assert (paused.response.download_id, paused.response.status) == ("download-m1", "paused")
        assert paused.response.bytes_downloaded > 300_000
        assert "model_download_paused" in paused.names
        again = await hive.run(DownloadPause(download_id=name))
        assert again.response == paused.response
        one = (await listed(hive))["m1"]
        assert (one.status, one.job_ids, one.speed_bytes_per_sec) == ("paused", (job,), 0)
        with pytest.raises(RbeeError, match="being downloaded"):
            await hive.run(ModelDelete(model_id="m1"))
        let_go(server)
        resumed = await hive.run(DownloadResume(download_id=name))
        assert resumed.response.bytes_downloaded == paused.response.bytes_downloaded
        assert "model_download_resumed" in resumed.names
        done, names = await ended(hive, job)
        assert done["state"] == "completed"
        assert names.index("model_download_paused") < names.index("model_download_resumed")
        assert server.starts[1] > 300_000
    assert sorted(p.name for p in (paths.models / "m1").iterdir()) == ["metadata.json", "model.gguf"]


async def test_who_asks_for_a_paused_one_waits_with_it(hive: HiveClient) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        job = await begun(hive, server)
        await hive.run(DownloadPause(download_id="m1"))
        await hive.cancel(job)
        assert (await listed(hive))["m1"].status == "paused"
        let_go(server)
        second = asyncio.create_task(hive.run(wanted(server)))

        async def joined() -> bool:
            return bool((await listed(hive))["m1"].job_ids)

        await eventually(joined)
        with pytest.raises(RbeeError, match="is paused, from another source"):
            await hive.run(ModelDownload(model="builtin:bee-tiny", model_id="m1"))
        await hive.run(DownloadResume(download_id="m1"))
        told: JobTold = await second
        assert {"model_download_joined", "model_download_paused", "model_download_resumed"} <= set(told.names)
        assert told.response.checksum == BEE_SHA256


async def test_a_cancelled_download_ends_its_jobs_and_leaves_nothing(hive: HiveClient, paths: Paths) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        job = await begun(hive, server)
        told = await hive.run(DownloadCancel(download_id="m1"))
        assert told.response.download_id == "download-m1"
        assert told.response.bytes_downloaded > 300_000
        assert "model_download_cancelled" in told.names
        done, names = await ended(hive, job)
        assert done["state"] == "failed"
        assert isinstance(done["error"], dict)
        assert done["error"]["code"] == "download_cancelled"
        assert "model_download_cancelled" in names
    assert await listed(hive) == {}
    assert (await hive.run(ModelList())).response.models == ()
    assert not (paths.models / "m1").exists()


async def test_a_working_model_stays_until_the_new_one_is_whole(hive: HiveClient, paths: Paths) -> None:
    async with file_server(BEE) as server:
        await hive.run(wanted(server))
    before = await record(hive, "m1")
    newer = BEE + bytes(64)
    async with file_server(newer, hold_after=600_000) as server:
        await begun(hive, server)
        await hive.run(DownloadCancel(download_id="m1"))
        now = await record(hive, "m1")
        assert (now.status, now.source, now.checksum) == ("available", before.source, BEE_SHA256)
        assert Path(now.path).read_bytes() == BEE
        assert sorted(p.name for p in (paths.models / "m1").iterdir()) == ["metadata.json", "model.gguf"]
        job = await begun(hive, server)
        await hive.cancel(job)
        assert (await listed(hive))["m1"].status == "failed"
        assert (await record(hive, "m1")).status == "available"
        let_go(server)
        await hive.run(wanted(server))
    assert Path((await record(hive, "m1")).path).read_bytes() == newer
    async with file_server(b"<html>") as server:
        with pytest.raises(RbeeError, match="no GGUF"):
            await hive.run(wanted(server))
    assert (await record(hive, "m1")).status == "available"
    assert Path(before.path).read_bytes() == newer


async def test_a_failed_one_goes_on_without_its_job(hive: HiveClient) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        job = await begun(hive, server)
        await hive.cancel(job)
        one = (await listed(hive))["m1"]
        assert (one.status, one.job_ids) == ("failed", ())
        assert one.error is not None
        assert "cancelled" in one.error
        with pytest.raises(RbeeError, match="has failed") as refused:
            await hive.run(DownloadPause(download_id="m1"))
        assert refused.value.code == "not_running"
        let_go(server)
        await hive.run(DownloadResume(download_id="m1"))
        await eventually(lambda: _available(hive, "m1"))
        assert server.starts[1] > 300_000
        await eventually(lambda: _nothing_runs(hive))  # the model is there a moment before its download is over


async def _nothing_runs(hive: HiveClient) -> bool:
    return await listed(hive) == {}


async def _available(hive: HiveClient, model_id: str) -> bool:
    return any(m.id == model_id and m.status == "available" for m in (await hive.run(ModelList())).response.models)


async def test_a_failed_one_goes_with_its_model(hive: HiveClient, paths: Paths) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        await hive.cancel(await begun(hive, server))
        await hive.run(ModelDelete(model_id="m1"))
    assert await listed(hive) == {}
    assert not (paths.models / "m1").exists()


async def test_so_many_fetch_at_once_and_the_others_wait(hive: HiveClient) -> None:
    async with file_server(BEE, hold_after=400_000) as server:
        count = defaults.DOWNLOADS + 2
        jobs = [await hive.submit(wanted(server, f"m{n}")) for n in range(count)]

        async def two_wait() -> bool:
            found = [d.status for d in (await listed(hive)).values()]
            return found.count("queued") == 2 and found.count("downloading") == defaults.DOWNLOADS

        await eventually(two_wait)
        # What is there already waits for nobody, and neither does a file of this machine.
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        queued = [d.model_id for d in (await listed(hive)).values() if d.status == "queued"]
        assert (await hive.run(DownloadPause(download_id=queued[0]))).response.status == "paused"
        await hive.run(DownloadCancel(download_id=queued[1]))
        let_go(server)
        await hive.run(DownloadResume(download_id=queued[0]))
        found = [await ended(hive, job) for job in jobs]
    assert sorted(str(job["state"]) for job, _ in found) == ["completed"] * (count - 1) + ["failed"]
    assert server.peak <= defaults.DOWNLOADS
    assert sum("model_download_queued" in names for _, names in found) == 2


@pytest.mark.parametrize("operation", [DownloadPause, DownloadResume, DownloadCancel])
async def test_an_unknown_download(hive: HiveClient, operation: type[DownloadPause]) -> None:
    with pytest.raises(RbeeError, match="no download 'm9'") as refused:
        await hive.run(operation(download_id="m9"))
    assert refused.value.code == "download_not_found"


async def test_a_paused_one_stays_paused_over_a_restart(paths: Paths) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        async with hive_on(paths) as hive:
            await begun(hive, server, revision="r1", sha256=BEE_SHA256)
            await hive.run(DownloadPause(download_id="m1"))
        let_go(server)
        async with hive_on(paths) as hive:
            one = (await listed(hive))["m1"]
            assert (one.status, one.total_bytes, one.job_ids) == ("paused", len(BEE), ())
            assert one.bytes_downloaded > 300_000
            asked = len(server.seen)
            await hive.run(DownloadResume(download_id="m1"))
            await eventually(lambda: _available(hive, "m1"))
            assert server.starts[asked] > 300_000
            found = await record(hive, "m1")
            assert (found.revision, found.checksum, found.verified) == ("r1", BEE_SHA256, True)


async def test_a_secret_in_a_source_is_not_kept(paths: Paths) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        server.url = server.url.replace("http://", "http://me:s3cretpw@")
        async with hive_on(paths) as hive:
            await begun(hive, server)
            await hive.run(DownloadPause(download_id="m1"))
            assert "s3cretpw" not in (await listed(hive))["m1"].source
        assert "s3cretpw" not in (paths.models / "m1" / ".download.json").read_text()
        let_go(server)
        async with hive_on(paths) as hive:
            with pytest.raises(RbeeError, match="holds a secret") as refused:
                await hive.run(DownloadResume(download_id="m1"))
            assert refused.value.code == "secret_needed"
            job = await hive.submit(wanted(server))

            async def joined() -> bool:
                return bool((await listed(hive))["m1"].job_ids)

            await eventually(joined)
            await hive.run(DownloadResume(download_id="m1"))
            assert (await ended(hive, job))[0]["state"] == "completed"


async def test_a_hive_that_ends_well_says_that_it_ended(paths: Paths) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        async with hive_on(paths) as hive:
            await begun(hive, server)
        async with hive_on(paths) as hive:
            one = (await listed(hive))["m1"]
            assert one.status == "failed"
            assert "hive ended during the download" in (one.error or "")
            assert "hive ended during the download" in ((await record(hive, "m1")).error or "")


async def test_hurt_state_hides_nothing_and_stops_nobody(paths: Paths) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        async with hive_on(paths) as hive:
            await begun(hive, server)
        (paths.models / "m1" / ".download.json").write_bytes(b'{"model_id": 7')
        let_go(server)
        async with hive_on(paths) as hive:
            assert await listed(hive) == {}
            assert (await record(hive, "m1")).status == "failed"
            assert (await hive.run(wanted(server))).response.checksum == BEE_SHA256
            assert server.starts[-1] > 300_000


class Process:
    """`rbee-hive` as a machine runs it, to be killed."""

    def __init__(self, root: Path, paths: Paths) -> None:
        self.root, self.paths = root, paths
        names = {"config": "CONFIG", "cache": "CACHE", "data": "DATA", "state": "STATE"}
        self.env = os.environ | {f"XDG_{v}_HOME": str(root / k) for k, v in names.items()}
        config = settings(free_range())
        write_atomic(paths.hive_config, codec.encode_pretty(config), 0o600)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HiveClient]:
        run = self.paths.state / "hive.run.json"
        run.unlink(missing_ok=True)
        with (self.root / "hive.log").open("ab") as log:
            argv = [sys.executable, "-m", "rbee.cli.daemons", "hive"]
            daemon = subprocess.Popen(argv, env=self.env, stdout=log, stderr=log)
        try:
            await eventually(run.exists)
            async with client(json.loads(run.read_text())["url"]) as hive:
                yield hive
        finally:
            daemon.send_signal(signal.SIGKILL)
            await asyncio.to_thread(daemon.wait, 30)


@pytest.fixture
def process(tmp_path: Path) -> Process:
    root = tmp_path / "machine"
    names = ("config", "cache", "data", "state")
    paths = Paths(**{name: root / name / "rbee" for name in names})
    return Process(root, paths)


async def test_a_killed_hive_goes_on_when_it_is_asked(process: Process) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        async with process.running() as hive:
            await begun(hive, server)
        let_go(server)
        asked = len(server.seen)
        async with process.running() as hive:
            one = (await listed(hive))["m1"]
            assert (one.status, one.total_bytes) == ("failed", len(BEE))
            assert one.bytes_downloaded > 300_000
            assert "hive ended during the download" in (one.error or "")
            assert (await record(hive, "m1")).status == "failed"
            assert len(server.seen) == asked, "it never begins by itself"
            assert (await hive.run(wanted(server))).response.checksum == BEE_SHA256
            assert server.starts[asked] > 300_000
            assert await listed(hive) == {}


async def test_a_killed_hive_keeps_a_paused_one_paused(process: Process) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        async with process.running() as hive:
            await begun(hive, server)
            await hive.run(DownloadPause(download_id="m1"))
        let_go(server)
        async with process.running() as hive:
            assert (await listed(hive))["m1"].status == "paused"
            assert (await record(hive, "m1")).status == "downloading"
            await hive.run(DownloadResume(download_id="m1"))
            await eventually(lambda: _available(hive, "m1"))
