# SPDX-License-Identifier: GPL-3.0-or-later
"""Reranking by the real engine, with a BERT that has a head for scores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rbee.core.spec import WorkerOptions
from tests.support.tiny_bert import write_tiny_bert
from tests.support.workers import Running, running, worker_config

pytestmark = pytest.mark.engine

RERANK = "/v1/rerank"
ASKED = {"model": "tiny", "query": "who makes honey"}


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Running]:
    model = write_tiny_bert(tmp_path / "rank.gguf", rank=True)
    options = WorkerOptions(task="rerank", parallel=2, threads=1)
    async with running(worker_config(model, options=options)) as made:
        assert made.daemon.state.status == "ready", made.daemon.state.reason
        yield made


async def scores(worker: Running, documents: list[str], **more: Any) -> list[tuple[int, float]]:
    status, answer = await worker.post(RERANK, {**ASKED, "documents": documents, **more})
    assert status == 200, answer
    return [(r["index"], r["relevance_score"]) for r in answer["results"]]


async def test_documents_come_back_best_first(worker: Running) -> None:
    texts = ["the bee", "a stone", "wax and combs"]
    found = await scores(worker, texts)
    assert sorted(i for i, _ in found) == [0, 1, 2]
    assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
    assert len({s for _, s in found}) == 3
    ((best, score),) = await scores(worker, texts, top_n=1)
    assert best == found[0][0]
    assert score == pytest.approx(found[0][1], abs=1e-4)


async def test_many_documents_are_scored_in_pieces(worker: Running) -> None:
    texts = [f"text {i} " * 10 for i in range(200)]
    found = await scores(worker, texts)
    assert sorted(i for i, _ in found) == list(range(200))
    assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
    by_index = dict(found)
    for i in (0, 99, 199):
        assert by_index[i] == pytest.approx((await scores(worker, [texts[i]]))[0][1], abs=1e-3)
    assert [i for i, _ in await scores(worker, texts, top_n=3)] == [i for i, _ in found[:3]]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"query": "a", "documents": ["b"]}, "model", "missing_required_parameter"),
        ({"model": "tiny", "documents": ["b"]}, "query", "missing_required_parameter"),
        ({"model": "tiny", "query": 3, "documents": ["b"]}, "query", "invalid_type"),
        (ASKED, "documents", "missing_required_parameter"),
        ({**ASKED, "documents": []}, "documents", "empty_array"),
        ({**ASKED, "documents": [{"text": "b"}]}, "documents", "invalid_type"),
        ({**ASKED, "documents": ["b"], "top_n": 0}, "top_n", "integer_below_min_value"),
        ({**ASKED, "documents": ["b" * 300]}, "documents", "context_length_exceeded"),
    ],
)
async def test_what_cannot_be_is_a_clear_400(worker: Running, body: dict[str, Any], param: str, code: str) -> None:
    status, answer = await worker.post(RERANK, body)
    error = answer["error"]
    assert (status, error["type"], error["param"], error["code"]) == (400, "invalid_request_error", param, code)


async def test_it_serves_its_task_and_says_so(worker: Running) -> None:
    assert worker.daemon.state.heartbeat().paths == ("/v1/rerank",)
    async with worker.client.post("/v1/embeddings", json={"model": "tiny", "input": "a"}) as answer:
        assert answer.status == 404
