# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker's task, from WorkerSpawn to the engine: what it serves, what it needs, what its model must have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import WorkerProcessDelete
from rbee.core.spec import WorkerOptions
from tests.support.hive import HiveClient, install_engine, machine
from tests.support.spawning import bad_engine, end_all, refused, running, spawn
from tests.support.tiny_bert import write_tiny_bert
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path)
    install_engine(made, llama_cpp())
    return made


@pytest.fixture
async def hive(paths: Paths, tmp_path: Path) -> AsyncIterator[HiveClient]:
    """With bee-tiny, a BERT that embeds, and one that scores."""
    async with running(paths, drain=1.0) as asked:
        await asked.run(ModelDownload(model="builtin:bee-tiny"))
        for name in ("bert", "ranker"):
            file = write_tiny_bert(tmp_path / f"{name}.gguf", rank=name == "ranker")
            await asked.run(ModelDownload(model=f"file:{file}", model_id=name))
        yield asked
        await end_all(asked)


def options(task: Any) -> WorkerOptions:
    return WorkerOptions(task=task, parallel=1, threads=1)


@pytest.mark.parametrize(
    ("model", "task", "path", "body"),
    [
        ("bee-tiny", "embed", "/v1/embeddings", {"input": "a"}),
        ("bert", "embed", "/v1/embeddings", {"input": "a"}),
        ("ranker", "rerank", "/v1/rerank", {"query": "a", "documents": ["b"]}),
    ],
)
async def test_the_task_reaches_the_engine(
    hive: HiveClient, model: str, task: str, path: str, body: dict[str, Any]
) -> None:
    told = await hive.run(spawn(model=model, options=options(task)))
    async with aiohttp.ClientSession(told.response.url) as worker:
        async with worker.post(path, json={"model": model, **body}) as answer:
            assert answer.status == 200, await answer.text()
        async with worker.get("/info") as answer:
            info = await answer.json()
    assert (info["paths"], info["options"]["task"]) == ([path], task)
    assert info["context_length"] == (512 if model == "bee-tiny" else 128)
    await hive.run(WorkerProcessDelete(worker_id="w1"))


@pytest.mark.parametrize(
    ("model", "task", "engine", "code", "words"),
    [
        ("bee-tiny", "rerank", None, "wrong_task", "no classification head"),
        ("bert", "rerank", None, "wrong_task", "no classification head"),
        ("bert", None, None, "wrong_task", "task: embed"),
        ("ranker", "generate", None, "wrong_task", "task: rerank"),
        ("bee-tiny", "embed", "dies", "option_not_supported", "dies does not embed"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_starts(
    hive: HiveClient, paths: Paths, model: str, task: str | None, engine: str | None, code: str, words: str
) -> None:
    if engine is not None:
        bad_engine(paths, engine, tasks={})
    said, message, events = await refused(hive, spawn(model=model, engine=engine, options=options(task)))
    assert said == code
    assert words in message
    assert not any(e["event"] == "worker_spawn_health_check" for e in events)
    assert (await hive.capabilities()).workers == ()
