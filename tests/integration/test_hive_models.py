# SPDX-License-Identifier: GPL-3.0-or-later
"""ModelDownload and its family on a real hive, from every kind of source."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from rbee.adapters import shipped
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDelete, ModelDownload, ModelGet, ModelList
from rbee.core.errors import RbeeError
from rbee.core.records import ModelRecord
from rbee.daemons.hive.app import HiveDaemon
from tests.support.files_server import file_server
from tests.support.hive import MARK, HiveClient, client, machine, settings
from tests.support.hub_server import COMMIT, TOKEN, Hub, hub_server
from tests.support.ports import free_range
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.waiting import eventually

BEE = shipped.builtin_model("bee-tiny").read_bytes()
BEE_SHA256 = hashlib.sha256(BEE).hexdigest()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path / "machine")


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    daemon = HiveDaemon(settings(free_range()), paths, None)
    await daemon.start()
    async with client(daemon.url) as asked:
        yield asked
    await daemon.stop()


async def record(hive: HiveClient, model_id: str) -> ModelRecord:
    found: ModelRecord = (await hive.run(ModelGet(model_id=model_id))).response.model
    return found


async def test_builtin_is_there_at_once_and_only_once(hive: HiveClient) -> None:
    told = await hive.run(ModelDownload(model="builtin:bee-tiny", mark=MARK))
    assert told.names[0] == "model_download_start"
    assert told.names[-2:] == ["model_download_complete", "result"]
    assert told.response.checksum == BEE_SHA256
    found = await record(hive, "bee-tiny")
    assert (found.status, found.source, found.mark, found.size_bytes) == (
        "available",
        "builtin:bee-tiny",
        MARK,
        len(BEE),
    )
    assert (found.architecture, found.quantization, found.verified) == ("llama", "Q8_0", True)
    again = await hive.run(ModelDownload(model="builtin:bee-tiny", mark=MARK))
    assert "model_download_exists" in again.names
    assert again.response == told.response


async def test_url_with_progress_in_numbers(hive: HiveClient, paths: Paths) -> None:
    async with file_server(BEE) as server:
        told = await hive.run(ModelDownload(model=f"{server.url}/model.gguf", model_id="m/1", sha256=BEE_SHA256))
    progress = [e for e in told.events if e["event"] == "model_download_progress"]
    assert progress[-1]["bytes_downloaded"] == progress[-1]["total_bytes"] == len(BEE)
    assert progress[-1]["speed_bytes_per_sec"] > 0
    assert "eta_seconds" in progress[-1]
    found = await record(hive, "m/1")
    assert Path(found.path).read_bytes() == BEE
    assert sorted(p.name for p in Path(found.path).parent.iterdir()) == ["metadata.json", "model.gguf"]
    assert json.loads((Path(found.path).parent / "metadata.json").read_text())["artifact"]["id"] == "m/1"


async def test_pushed_file_is_moved_in_and_keeps_its_declared_source(hive: HiveClient, paths: Paths) -> None:
    incoming = paths.models / ".incoming" / "abc-model.gguf"
    incoming.parent.mkdir(parents=True)
    incoming.write_bytes(BEE)
    await hive.run(
        ModelDownload(model=f"file:{incoming}", model_id="pushed", declared_source="file:/home/me/model.gguf")
    )
    found = await record(hive, "pushed")
    assert (found.source, found.status) == ("file:/home/me/model.gguf", "available")
    assert not incoming.exists()
    assert [m.id for m in (await hive.run(ModelList())).response.models] == ["pushed"]


async def test_local_file_stays_when_the_model_goes(hive: HiveClient, tmp_path: Path) -> None:
    mine = write_tiny_gguf(tmp_path / "mine.gguf")
    await hive.run(ModelDownload(model=f"file:{mine}"))
    assert (await record(hive, "mine")).layers == 2
    await hive.run(ModelDelete(model_id="mine"))
    assert mine.exists()


async def test_who_asks_twice_waits_for_one_download_and_cancelling_one_leaves_the_other(hive: HiveClient) -> None:
    async with file_server(BEE, hold_after=500_000) as server:
        request = ModelDownload(model=f"{server.url}/model.gguf", model_id="m1")
        first = await hive.submit(request)
        await asyncio.wait_for(server.holding.wait(), 10)
        second = asyncio.create_task(hive.run(request))
        with pytest.raises(RbeeError, match="from another source"):
            await hive.run(ModelDownload(model="builtin:bee-tiny", model_id="m1"))
        with pytest.raises(RbeeError, match="being downloaded"):
            await hive.run(ModelDelete(model_id="m1"))
        await _joined(hive)
        await hive.cancel(first)
        server.go_on.set()
        told = await second
        assert "model_download_joined" in told.names
        assert told.response.checksum == BEE_SHA256
        assert len(server.seen) == 1


async def _joined(hive: HiveClient) -> None:
    async def two_run() -> bool:
        async with hive.session.get(f"{hive.url}/v1/jobs", params={"state": "running"}) as answer:
            return len((await answer.json())["jobs"]) == 2

    await eventually(two_run)


async def test_cancelled_download_keeps_its_part_and_goes_on_later(hive: HiveClient, paths: Paths) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        request = ModelDownload(model=f"{server.url}/model.gguf", model_id="m1")
        job = await hive.submit(request)
        part = paths.models / "m1" / "model.gguf.part"
        await eventually(lambda: part.exists() and part.stat().st_size > 300_000)
        await hive.cancel(job)
        found = await record(hive, "m1")
        assert found.status == "failed"
        assert "cancelled" in (found.error or "")
        server.hold_after = None
        server.go_on.set()
        assert (await hive.run(request)).response.checksum == BEE_SHA256
        assert server.starts[1] > 300_000


async def test_wrong_digest_and_no_model_are_failed_records_with_the_reason(hive: HiveClient, paths: Paths) -> None:
    async with file_server(BEE) as server:
        with pytest.raises(RbeeError, match="thrown away") as refused:
            await hive.run(ModelDownload(model=f"{server.url}/model.gguf", model_id="m1", sha256="0" * 64))
    assert refused.value.code == "checksum_mismatch"
    async with file_server(b"<html>log in first</html>") as server:
        with pytest.raises(RbeeError, match="no GGUF") as refused:
            await hive.run(ModelDownload(model=f"{server.url}/model.gguf", model_id="m2"))
    assert refused.value.code == "invalid_model"
    async with file_server(BEE[:-5000]) as server:
        with pytest.raises(RbeeError, match="cut short"):
            await hive.run(ModelDownload(model=f"{server.url}/model.gguf", model_id="m3"))
    found = {m.id: m for m in (await hive.run(ModelList())).response.models}
    assert {m.status for m in found.values()} == {"failed"}
    assert "SHA-256" in (found["m1"].error or "")
    assert "no GGUF" in (found["m2"].error or "")
    assert not list(paths.models.glob("*/*.gguf*"))


async def test_passwords_in_urls_are_told_to_nobody(hive: HiveClient) -> None:
    async with file_server(BEE, statuses=[404]) as server:
        url = server.url.replace("http://", "http://me:s3cretpw@")
        job = await hive.submit(ModelDownload(model=f"{url}/model.gguf", model_id="m1"))
        events = [e async for e in hive.events(job)]
        async with hive.session.get(f"{hive.url}/v1/jobs/{job}") as answer:
            whole = await answer.text()
    assert "s3cretpw" not in json.dumps(events)
    assert "s3cretpw" not in whole
    assert "no such file" in whole


async def test_a_disk_that_refuses_is_told_as_that(hive: HiveClient, paths: Paths) -> None:
    paths.models.parent.mkdir(parents=True, exist_ok=True)
    paths.models.write_text("a file where a folder should be")
    with pytest.raises(RbeeError, match="disk refuses") as refused:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
    assert refused.value.code == "disk_error"


async def test_unknown_kind_of_source(hive: HiveClient) -> None:
    with pytest.raises(RbeeError, match=r"'ftp://x/y\.gguf' is no source of models") as refused:
        await hive.run(ModelDownload(model="ftp://x/y.gguf"))
    assert refused.value.code == "invalid_request"


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hub]:
    async with hub_server(BEE) as made:
        # The environment is how a user points at a mirror.
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield made


@pytest.fixture(autouse=True)
def _close_hub_session() -> Iterator[None]:
    yield
    huggingface_hub.close_session()


def give_token(paths: Paths) -> None:
    paths.config.mkdir(parents=True, exist_ok=True)
    file = paths.config / "hf-token"
    file.touch(mode=0o600)
    file.write_text(TOKEN)


async def test_hugging_face_pins_the_commit_and_checks_the_digest(hive: HiveClient, hub: Hub) -> None:
    request = ModelDownload(model="hf:org/open/model.gguf", model_id="m1", revision="main")
    done = (await hive.run(request)).response
    assert (done.checksum, done.commit) == (BEE_SHA256, COMMIT)
    found = await record(hive, "m1")
    assert (found.revision, found.commit, found.verified) == ("main", COMMIT, True)
    assert ("GET", f"open@{COMMIT}") in hub.seen
    told = await hive.run(request)
    assert "model_download_exists" in told.names
    assert len(hub.cdn_headers) == 1
    # The branch moves on: the same revision is another file now.
    hub.data, hub.branch = BEE + b"\0" * 32, "f" * 40
    assert (await hive.run(request)).response.commit == "f" * 40


async def test_what_is_locked_comes_from_the_commit_of_then(hive: HiveClient, hub: Hub) -> None:
    hub.repos = {"open": {"model.gguf": BEE}}
    hub.push("f" * 40, open={"model.gguf": BEE + b"\0" * 32})
    now = ModelDownload(model="hf:org/open/model.gguf", model_id="m1", revision="main", sha256=BEE_SHA256)
    with pytest.raises(RbeeError, match=r"Hugging Face has SHA-256 .* remove the model from rbee.lock"):
        await hive.run(now)
    done = (await hive.run(replace(now, commit=COMMIT))).response
    assert (done.checksum, done.commit) == (BEE_SHA256, COMMIT)
    found = await record(hive, "m1")
    assert (found.revision, found.commit) == ("main", COMMIT)


async def test_hugging_face_that_claims_another_digest(hive: HiveClient, hub: Hub) -> None:
    hub.sha256 = "1" * 64
    with pytest.raises(RbeeError, match="SHA-256") as refused:
        await hive.run(ModelDownload(model="hf:org/open/model.gguf", model_id="m1"))
    assert refused.value.code == "checksum_mismatch"
    with pytest.raises(RbeeError, match="since it was locked"):
        await hive.run(ModelDownload(model="hf:org/open/model.gguf", model_id="m1", sha256=BEE_SHA256))


@pytest.mark.parametrize(
    ("source", "revision", "code", "said"),
    [
        ("hf:org/gated/model.gguf", None, "model_gated", "is gated"),
        ("hf:org/private/model.gguf", None, "model_private_or_missing", "no token was given"),
        ("hf:org/nothing/model.gguf", None, "model_private_or_missing", "There is no repository"),
        ("hf:org/open/other.gguf", None, "not_found", "no file 'other.gguf'"),
        ("hf:org/open/model.gguf", "v9", "not_found", "no revision 'v9'"),
        ("hf:org", None, "invalid_request", "names no repository"),
    ],
)
async def test_hugging_face_refusals_are_told_apart(
    hive: HiveClient, hub: Hub, source: str, revision: str | None, code: str, said: str
) -> None:
    with pytest.raises(RbeeError, match=said) as refused:
        await hive.run(ModelDownload(model=source, model_id="m1", revision=revision))
    assert refused.value.code == code
    assert (await hive.run(ModelList())).response.models == ()


@pytest.mark.parametrize("repo", ["gated", "private"])
async def test_hugging_face_with_a_token(hive: HiveClient, paths: Paths, hub: Hub, repo: str) -> None:
    give_token(paths)
    job = await hive.submit(ModelDownload(model=f"hf:org/{repo}/model.gguf", model_id="m1"))
    events = [e async for e in hive.events(job)]
    assert (await record(hive, "m1")).checksum == BEE_SHA256
    assert TOKEN not in json.dumps(events)
    assert all("Authorization" not in headers for headers in hub.cdn_headers)
    with pytest.raises(RbeeError, match="the token given may not read it"):
        await hive.run(ModelDownload(model="hf:org/nothing/model.gguf"))


async def test_hugging_face_that_cannot_be_reached(hive: HiveClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async with file_server(b"") as gone:
        url = gone.url
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(RbeeError, match="cannot be reached") as refused:
        await hive.run(ModelDownload(model="hf:org/open/model.gguf"))
    assert refused.value.code == "unreachable"
