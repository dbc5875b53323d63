# SPDX-License-Identifier: GPL-3.0-or-later
"""ModelVerify on a real hive: against the source, against what was recorded, and what it does to a hurt model."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from rbee.adapters import shipped
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.model_facts import described
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDelete, ModelDownload, ModelGet, ModelVerify
from rbee.core.errors import RbeeError
from rbee.core.records import ModelFile, ModelRecord
from rbee.daemons.hive.app import HiveDaemon
from tests.support.files_server import file_server
from tests.support.gguf_bytes import write_parts
from tests.support.hive import HiveClient, client, machine, settings
from tests.support.hub_server import COMMIT, Hub, hub_server
from tests.support.mlc_folder import write_mlc
from tests.support.ports import free_range

BEE = shipped.builtin_model("bee-tiny").read_bytes()
BEE_SHA256 = hashlib.sha256(BEE).hexdigest()
NOW = "2026-11-20T12:00:00.000Z"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path / "machine")


@pytest.fixture
def catalog(paths: Paths) -> ModelCatalog:
    return ModelCatalog(paths.models)


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    daemon = HiveDaemon(settings(free_range()), paths, None)
    await daemon.start()
    async with client(daemon.url) as asked:
        yield asked
    await daemon.stop()


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    async with hub_server(BEE) as made:
        # The environment is how a user points at a mirror.
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield made


@pytest.fixture(autouse=True)
def _close_hub_session() -> Iterator[None]:
    yield
    huggingface_hub.close_session()


async def record(hive: HiveClient, model_id: str) -> ModelRecord:
    found: ModelRecord = (await hive.run(ModelGet(model_id=model_id))).response.model
    return found


async def refused(hive: HiveClient, model_id: str) -> tuple[RbeeError, list[dict[str, Any]]]:
    """The error of a verification that must fail, and all it told."""
    job = await hive.submit(ModelVerify(model_id=model_id))
    events = [e async for e in hive.events(job)]
    last = events.pop()
    return RbeeError(last["error"], code=last["code"]), events


def flip(path: str) -> None:
    with Path(path).open("r+b") as f:
        f.seek(100_000)
        (byte,) = f.read(1)
        f.seek(100_000)
        f.write(bytes([byte ^ 1]))


async def test_a_builtin_is_held_against_the_shipped_file(hive: HiveClient) -> None:
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    told = await hive.run(ModelVerify(model_id="bee-tiny"))
    assert told.names[0] == "model_verify_start"
    assert told.names[-2:] == ["model_verify_complete", "result"]
    progress = [e for e in told.events if e["event"] == "model_verify_progress"]
    assert progress[-1]["bytes_verified"] == progress[-1]["total_bytes"] == len(BEE)
    assert progress[-1]["file"]
    done = told.response
    assert (done.verified, done.against, done.size_bytes) == (True, "source", len(BEE))
    assert done.checksum == done.expected == BEE_SHA256
    complete = told.events[-2]
    assert (complete["checksum"], complete["against"], complete["verified"]) == (BEE_SHA256, "source", True)


async def test_a_flipped_bit_fails_the_record_until_it_is_mended(hive: HiveClient) -> None:
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    path = (await record(hive, "bee-tiny")).path
    flip(path)
    error, events = await refused(hive, "bee-tiny")
    assert error.code == "checksum_mismatch"
    assert BEE_SHA256 in error.message
    assert (events[-1]["event"], events[-1]["code"]) == ("model_verify_error", "checksum_mismatch")
    hurt = await record(hive, "bee-tiny")
    assert (hurt.status, hurt.verified) == ("failed", False)
    assert "not what they should be" in (hurt.error or "")
    # Verified again it is still wrong, and mended it is well again.
    assert (await refused(hive, "bee-tiny"))[0].code == "checksum_mismatch"
    flip(path)
    await hive.run(ModelVerify(model_id="bee-tiny"))
    well = await record(hive, "bee-tiny")
    assert (well.status, well.verified, well.error) == ("available", True, None)


async def test_a_hurt_model_is_downloaded_again_rather_than_kept(hive: HiveClient) -> None:
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    flip((await record(hive, "bee-tiny")).path)
    await refused(hive, "bee-tiny")
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    assert (await hive.run(ModelVerify(model_id="bee-tiny"))).response.verified


async def test_a_url_is_held_against_what_was_recorded(hive: HiveClient) -> None:
    async with file_server(BEE) as server:
        await hive.run(ModelDownload(model=f"{server.url}/model.gguf", model_id="m1"))
        assert not (await record(hive, "m1")).verified
        asked = len(server.seen)
        done = (await hive.run(ModelVerify(model_id="m1"))).response
        assert len(server.seen) == asked
    assert (done.verified, done.against, done.expected) == (True, "recorded", BEE_SHA256)
    assert (await record(hive, "m1")).verified


async def test_the_hub_is_asked_for_the_recorded_commit(hive: HiveClient, hub: Hub) -> None:
    await hive.run(ModelDownload(model="hf:org/open/model.gguf", model_id="m1", revision="main"))
    hub.seen.clear()
    done = (await hive.run(ModelVerify(model_id="m1"))).response
    assert (done.verified, done.against, done.checksum) == (True, "source", BEE_SHA256)
    assert {revision for _, revision in hub.seen} == {f"open@{COMMIT}"}
    # Its digest is not what is here, whatever was recorded.
    hub.sha256 = "1" * 64
    error, _ = await refused(hive, "m1")
    assert (error.code, "1" * 64 in error.message) == ("checksum_mismatch", True)


async def test_a_source_that_cannot_be_asked_leaves_the_recorded_digest(hive: HiveClient, hub: Hub) -> None:
    await hive.run(ModelDownload(model="hf:org/open/model.gguf", model_id="m1"))
    # The branch moved on and the old commit was squashed away.
    hub.branch = "f" * 40
    told = await hive.run(ModelVerify(model_id="m1"))
    assert (told.response.verified, told.response.against) == (True, "recorded")
    (note,) = [e for e in told.events if e["event"] == "model_verify_source"]
    assert (note["level"], "cannot be asked" in note["message"]) == ("warning", True)
    flip((await record(hive, "m1")).path)
    assert (await refused(hive, "m1"))[0].code == "checksum_mismatch"


def split(catalog: ModelCatalog, **more: Any) -> tuple[ModelRecord, list[Path]]:
    """A model of three files whose digests are recorded."""
    made = write_parts(catalog.folder("split"))
    files = tuple(
        ModelFile(name=p.name, size_bytes=p.stat().st_size, sha256=hashlib.sha256(p.read_bytes()).hexdigest())
        for p in made
    )
    found = described(
        ModelRecord(id="split", name="s", path=str(made[0]), size_bytes=0, status="available", files=files, **more)
    )
    catalog.put(found, NOW)
    return found, made


async def test_each_of_several_files_is_read_and_the_wrong_ones_named(hive: HiveClient, catalog: ModelCatalog) -> None:
    _, made = split(catalog)
    told = await hive.run(ModelVerify(model_id="split"))
    done = told.response
    assert (done.verified, done.against, done.size_bytes) == (True, "recorded", sum(p.stat().st_size for p in made))
    lines = "".join(f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in made)
    assert done.checksum == hashlib.sha256(lines.encode()).hexdigest()
    made[2].write_bytes(made[2].read_bytes()[:-1] + b"\2")
    error, _ = await refused(hive, "split")
    assert error.code == "checksum_mismatch"
    assert made[2].name in error.message
    assert made[1].name not in error.message


async def test_an_mlc_folder_from_the_hub(hive: HiveClient, hub: Hub, tmp_path: Path) -> None:
    """The hub has digests of the weights only; those of the small files were taken when they came."""
    hub.repos["mlc"] = {p.name: p.read_bytes() for p in write_mlc(tmp_path / "mlc").iterdir()}
    await hive.run(ModelDownload(model="hf:org/mlc", model_id="m1"))
    found = await record(hive, "m1")
    assert (found.format, found.status, len(found.files)) == ("mlc", "available", 6)
    done = (await hive.run(ModelVerify(model_id="m1"))).response
    assert (done.verified, done.against, done.checksum) == (True, "source", found.checksum)
    tokenizer, shard = (Path(found.path) / name for name in ("tokenizer.json", "params_shard_0.bin"))
    was = tokenizer.read_bytes()
    tokenizer.write_bytes(b"[]")
    assert "tokenizer.json has SHA-256" in (await refused(hive, "m1"))[0].message
    tokenizer.write_bytes(was)
    assert (await hive.run(ModelVerify(model_id="m1"))).response.verified
    shard.write_bytes(b"\7" + shard.read_bytes()[1:])
    assert "params_shard_0.bin has SHA-256" in (await refused(hive, "m1"))[0].message


async def test_what_nobody_has_a_digest_of_is_read_but_not_verified(hive: HiveClient, catalog: ModelCatalog) -> None:
    folder = catalog.folder("mine")
    folder.mkdir(parents=True)
    (folder / "m.gguf").write_bytes(b"abc")
    catalog.put(ModelRecord(id="mine", name="m", path=str(folder / "m.gguf"), size_bytes=3, status="available"), NOW)
    told = await hive.run(ModelVerify(model_id="mine"))
    done = told.response
    assert (done.verified, done.against, done.expected) == (False, "nothing", None)
    assert done.checksum == hashlib.sha256(b"abc").hexdigest()
    assert told.events[-2]["level"] == "warning"
    # From now on there is one.
    assert (await hive.run(ModelVerify(model_id="mine"))).response.against == "recorded"


async def test_a_file_cut_short_or_gone(hive: HiveClient) -> None:
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    path = Path((await record(hive, "bee-tiny")).path)
    path.write_bytes(BEE[:-5])
    assert (await refused(hive, "bee-tiny"))[0].code == "checksum_mismatch"
    path.unlink()
    error, _ = await refused(hive, "bee-tiny")
    assert (error.code, path.name in error.message) == ("disk_error", True)
    path.write_bytes(BEE)
    assert (await hive.run(ModelVerify(model_id="bee-tiny"))).response.verified


async def test_what_was_never_whole_cannot_be_verified(hive: HiveClient) -> None:
    async with file_server(b"<html>") as server:
        with pytest.raises(RbeeError, match="no GGUF"):
            await hive.run(ModelDownload(model=f"{server.url}/model.gguf", model_id="m1"))
    assert (await refused(hive, "m1"))[0].code == "model_not_available"
    assert (await refused(hive, "nothing"))[0].code == "model_not_found"
    async with file_server(BEE, hold_after=500_000) as server:
        await hive.submit(ModelDownload(model=f"{server.url}/model.gguf", model_id="m2"))
        await asyncio.wait_for(server.holding.wait(), 10)
        assert (await refused(hive, "m2"))[0].code == "model_in_use"
        server.go_on.set()


def huge(catalog: ModelCatalog) -> ModelRecord:
    """A terabyte of nothing: reading it takes minutes at least."""
    folder = catalog.folder("huge")
    folder.mkdir(parents=True)
    with (folder / "m.gguf").open("wb") as f:
        f.truncate(2**40)
    found = ModelRecord(
        id="huge", name="h", path=str(folder / "m.gguf"), size_bytes=2**40, status="available", checksum="0" * 64
    )
    catalog.put(found, NOW)
    return found


def open_files() -> set[str]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(fd))  # noqa: PTH115
        except OSError:
            continue
    return found


async def reading(hive: HiveClient, job: str) -> None:
    """Until the job has read something."""
    async for event in hive.events(job):
        if event["event"] == "model_verify_progress":
            return


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells which files are open")
async def test_cancelling_ends_the_reading_within_a_chunk(hive: HiveClient, catalog: ModelCatalog) -> None:
    path = huge(catalog).path
    job = await hive.submit(ModelVerify(model_id="huge"))
    await asyncio.wait_for(reading(hive, job), 20)
    assert path in open_files()
    await hive.cancel(job)
    assert path not in open_files()
    found = await record(hive, "huge")
    assert (found.status, found.error) == ("available", None)


async def test_a_model_deleted_or_replaced_meanwhile_is_not_written_to(hive: HiveClient, catalog: ModelCatalog) -> None:
    found = huge(catalog)
    job = await hive.submit(ModelVerify(model_id="huge"))
    await asyncio.wait_for(reading(hive, job), 20)
    await hive.run(ModelDelete(model_id="huge"))
    assert not Path(found.path).exists()
    await hive.cancel(job)
    assert catalog.list() == []


async def test_a_record_that_changed_meanwhile_keeps_what_it_says(hive: HiveClient, catalog: ModelCatalog) -> None:
    found = huge(catalog)
    job = await hive.submit(ModelVerify(model_id="huge"))
    await asyncio.wait_for(reading(hive, job), 20)
    catalog.put(replace(found, name="another"), NOW)
    os.truncate(found.path, 0)
    events = [e async for e in hive.events(job)]
    assert events[-1]["code"] == "conflict"
    written = catalog.written("huge")
    assert written is not None
    assert (written.name, written.status) == ("another", "available")
