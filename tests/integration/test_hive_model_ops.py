# SPDX-License-Identifier: GPL-3.0-or-later
"""ModelList, ModelGet, ModelDelete and ModelDeleteBatch on a real hive."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee.adapters import process, shipped
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.model_facts import described
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDelete, ModelDeleteBatch, ModelDownload, ModelGet, ModelList
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerSpawn
from rbee.core.errors import RbeeError
from rbee.core.records import DownloadProgress, ModelRecord
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from tests.support.files_server import file_server
from tests.support.gguf_bytes import write_parts
from tests.support.hive import HiveClient, client, install_engine, machine, settings
from tests.support.mlc_folder import write_mlc
from tests.support.ports import free_range
from tests.support.tiny_gguf import CHATML, write_tiny_gguf
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

NOW = "2026-11-20T12:00:00.000Z"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path / "machine")
    install_engine(made, llama_cpp())
    return made


@pytest.fixture
def catalog(paths: Paths) -> ModelCatalog:
    """As another process sees the hive's models."""
    return ModelCatalog(paths.models)


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    daemon = HiveDaemon(settings(free_range()), paths, None)
    await daemon.start()
    async with client(daemon.url) as asked:
        yield asked
        for worker in (await asked.capabilities()).workers:
            await asked.run(WorkerProcessDelete(pid=worker.pid))
    await daemon.stop()


def put(catalog: ModelCatalog, model_id: str, data: bytes = b"x" * 10) -> ModelRecord:
    folder = catalog.folder(model_id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.gguf").write_bytes(data)
    record = ModelRecord(
        id=model_id, name=model_id, path=str(folder / "model.gguf"), size_bytes=len(data), status="available"
    )
    catalog.put(record, NOW)
    return record


async def test_no_models_are_told_as_that(hive: HiveClient) -> None:
    told = await hive.run(ModelList())
    assert told.names == ["model_list_result", "result"]
    assert (told.events[0]["message"], told.events[0]["count"]) == ("No models.", 0)
    assert told.response.models == ()


async def test_models_are_told_one_by_one_and_of_very_many_the_first(hive: HiveClient, catalog: ModelCatalog) -> None:
    for number in range(103):
        put(catalog, f"m{number:03}")
    told = await hive.run(ModelList())
    assert told.names == ["model_list_entry"] * 100 + ["model_list_result", "result"]
    first, summary = told.events[0], told.events[100]
    assert (first["model_id"], first["size_bytes"], first["status"]) == ("m000", 10, "available")
    assert (summary["count"], summary["message"]) == (103, "103 models, 3 more than told here.")
    assert [m.id for m in told.response.models] == [f"m{n:03}" for n in range(103)]


async def test_a_gguf_tells_all_that_its_header_says(hive: HiveClient, tmp_path: Path) -> None:
    await hive.run(ModelDownload(model=f"file:{write_tiny_gguf(tmp_path / 'tiny.gguf')}", model_id="tiny"))
    got = (await hive.run(ModelGet(model_id="tiny"))).response
    model = got.model
    assert (model.architecture, model.quantization, model.context_length) == ("llama", "F32", 4096)
    assert (model.layers, model.heads, model.kv_heads, model.embedding_length) == (2, 4, 2, 64)
    assert (model.gguf_version, model.tensor_count, model.tokenizer) == (3, 21, "gpt2/gpt-2")
    assert model.parameters is not None
    assert model.parameter_count == f"{model.parameters / 1000:.0f}K"
    assert (model.chat_template, got.chat_template) == (True, CHATML)
    assert model.kv_count is not None
    assert min(model.added_at, model.updated_at, model.last_accessed) > "2026"
    # Read afresh: of a file that is gone there is none, and the record says why.
    Path(model.path).unlink()
    got = (await hive.run(ModelGet(model_id="tiny"))).response
    assert (got.model.status, got.chat_template) == ("failed", None)
    assert "cannot be found" in (got.model.error or "")


async def test_a_split_model_and_a_folder_are_one_model_each(hive: HiveClient, catalog: ModelCatalog) -> None:
    first, *others = write_parts(catalog.folder("split"))
    record = ModelRecord(id="split", name="split", path=str(first), size_bytes=0, status="available")
    catalog.put(described(record), NOW)
    folder = write_mlc(catalog.folder("mlc"))
    record = ModelRecord(id="mlc", name="mlc", path=str(folder), size_bytes=0, status="available", format="mlc")
    catalog.put(described(record), NOW)
    mlc, split = (await hive.run(ModelList())).response.models
    assert (split.tensor_count, len(split.files), split.status) == (2, 3, "available")
    assert (mlc.format, mlc.architecture, mlc.quantization, mlc.status) == ("mlc", "qwen2", "q4f16_1", "available")
    assert (await hive.run(ModelGet(model_id="mlc"))).response.chat_template == "chatml"
    others[-1].unlink()
    (folder / "params_shard_1.bin").write_bytes(b"short")
    told = {m.id: m.error or "" for m in (await hive.run(ModelList())).response.models}
    assert "big-00003-of-00003.gguf" in told["split"]
    assert "params_shard_1.bin" in told["mlc"]


async def test_an_unknown_model_is_told_with_the_nearest(hive: HiveClient, catalog: ModelCatalog) -> None:
    put(catalog, "llama-3")
    for request in (ModelGet(model_id="lama-3"), ModelDelete(model_id="lama-3")):
        with pytest.raises(RbeeError, match=r"no model 'lama-3' on this hive\. Did you mean 'llama-3'") as refused:
            await hive.run(request)
        assert refused.value.code == "model_not_found"


# Deleting.


async def test_delete_is_told_and_takes_all_of_it(hive: HiveClient, catalog: ModelCatalog, paths: Paths) -> None:
    put(catalog, "org/model")
    told = await hive.run(ModelDelete(model_id="org/model"))
    assert told.names == ["model_delete_start", "model_delete_complete", "result"]
    assert (told.events[1]["model_id"], told.events[1]["size_bytes"]) == ("org/model", 10)
    assert (told.response.model_id, told.response.message) == ("org/model", "Deleted org/model.")
    assert list(paths.models.iterdir()) == []


async def test_what_is_hurt_hides_nothing_and_is_deleted_by_its_folder(
    hive: HiveClient, catalog: ModelCatalog, paths: Paths
) -> None:
    put(catalog, "good")
    (paths.models / "half").mkdir()
    (paths.models / "half" / "metadata.json").write_text('{"artifact": {"id": "ha')
    shutil.copytree(paths.models / "good", paths.models / "copy")
    (paths.models / "nowhere").symlink_to("/not/mounted")
    os.mkdir(os.fsencode(paths.models) + b"/odd-\xff")  # noqa: PTH102
    (paths.models / os.fsdecode(b"odd-\xff") / "metadata.json").write_text("{}")
    found = {m.id: m.status for m in (await hive.run(ModelList())).response.models}
    hurt = ["copy", "half", "nowhere", "odd-\\xff"]
    assert found == {"good": "available", **dict.fromkeys(hurt, "failed")}
    assert {m.id for m in (await hive.capabilities()).models} == set(found)
    async with hive.session.get(f"{hive.url}/metrics") as answer:
        assert 'rbee_hive_models{status="failed"} 4' in await answer.text()
    for name in hurt:
        assert (await hive.run(ModelGet(model_id=name))).response.model.status == "failed"
        await hive.run(ModelDelete(model_id=name))
    assert [p.name for p in paths.models.iterdir()] == ["good"]


@pytest.mark.engine
async def test_a_model_in_use_goes_by_force_only_and_its_workers_before_it(hive: HiveClient) -> None:
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    options = WorkerOptions(context_length=128, parallel=1, threads=1)
    pids = []
    for worker in ("w1", "w2"):
        done = await hive.run(WorkerSpawn(model="bee-tiny", worker_id=worker, options=options))
        pids.append(done.response.pid)
    job = await hive.submit(ModelDelete(model_id="bee-tiny"))
    events = [e async for e in hive.events(job)]
    assert events[-1]["code"] == "model_in_use"
    assert "used by w1, w2" in events[-1]["error"]
    assert [e["event"] for e in events[:-1]] == ["model_delete_start", "model_delete_error"]
    assert len((await hive.capabilities()).workers) == 2

    told = await hive.run(ModelDelete(model_id="bee-tiny", force=True))
    assert told.names[0] == "model_delete_start"
    assert told.names[-2:] == ["model_delete_complete", "result"]
    stopped = {e["worker_id"]: e["pid"] for e in told.events if e["event"] == "model_delete_worker_stop"}
    assert stopped == dict(zip(("w1", "w2"), pids, strict=True))
    assert told.names.count("model_delete_worker_sigterm") == 2
    seen = await hive.capabilities()
    assert (seen.workers, seen.models) == ((), ())
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert process.myself().pid not in pids


async def test_a_model_that_is_being_downloaded_stays(hive: HiveClient) -> None:
    data = shipped.builtin_model("bee-tiny").read_bytes()
    async with file_server(data, hold_after=500_000) as server:
        job = await hive.submit(ModelDownload(model=f"{server.url}/model.gguf", model_id="m1"))
        await asyncio.wait_for(server.holding.wait(), 10)

        async def under_way() -> bool:
            (found,) = (await hive.run(ModelList())).response.models
            assert (found.id, found.status) == ("m1", "downloading")
            assert found.download_progress is not None
            progress: DownloadProgress = found.download_progress
            return 0 < progress.bytes_downloaded < len(data) == progress.total_bytes

        await eventually(under_way)
        got = (await hive.run(ModelGet(model_id="m1"))).response.model
        assert got.download_progress is not None
        assert got.download_progress.source_url
        for force in (False, True):
            with pytest.raises(RbeeError, match="is being downloaded") as refused:
                await hive.run(ModelDelete(model_id="m1", force=force))
            assert refused.value.code == "model_in_use"
        await hive.cancel(job)
        await hive.run(ModelDelete(model_id="m1"))
    assert (await hive.run(ModelList())).response.models == ()


async def test_a_disk_that_refuses_is_told(hive: HiveClient, catalog: ModelCatalog, paths: Paths) -> None:
    put(catalog, "m1")
    away = paths.models.rename(paths.models.with_name("away"))
    paths.models.write_text("a file where the models were")
    for request in (ModelList(), ModelGet(model_id="m1"), ModelDelete(model_id="m1")):
        with pytest.raises(RbeeError, match="disk refuses: Not a directory") as refused:
            await hive.run(request)
        assert refused.value.code == "disk_error"
    paths.models.unlink()
    away.rename(paths.models)
    assert len((await hive.run(ModelList())).response.models) == 1


async def test_a_batch_goes_on_after_what_it_cannot_delete(hive: HiveClient, catalog: ModelCatalog) -> None:
    for name in ("a", "b", "c"):
        put(catalog, name)
    told = await hive.run(ModelDeleteBatch(model_ids=("a", "missing", "c", "a")))
    assert told.response.deleted == ("a", "c")
    (failed,) = told.response.failed
    assert (failed.model_id, failed.code) == ("missing", "model_not_found")
    assert told.names == [
        "model_delete_batch_start",
        *["model_delete_start", "model_delete_complete"],
        "model_delete_error",
        *["model_delete_start", "model_delete_complete"],
        "model_delete_batch_complete",
        "result",
    ]
    summary = told.events[-2]
    assert (summary["deleted"], summary["failed"], summary["level"]) == (2, 1, "warning")
    assert [m.id for m in catalog.list()] == ["b"]


async def test_a_big_batch_tells_the_first_hundred_one_by_one(hive: HiveClient, catalog: ModelCatalog) -> None:
    names = [f"m{n:03}" for n in range(105)]
    for name in names:
        put(catalog, name)
    told = await hive.run(ModelDeleteBatch(model_ids=(*names, *(f"x{n}" for n in range(50)))))
    assert (len(told.response.deleted), len(told.response.failed)) == (105, 50)
    assert told.names.count("model_delete_complete") == 100
    assert "model_delete_error" not in told.names
    assert catalog.list() == []
