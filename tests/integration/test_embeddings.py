# SPDX-License-Identifier: GPL-3.0-or-later
"""Embeddings by the real engine: the shipped model's, whose vectors are the mean of its tokens', and a BERT's."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rbee.core.spec import WorkerOptions
from tests.support.tiny_bert import write_tiny_bert
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.waiting import eventually
from tests.support.workers import ROOT, Running, running, worker_config

pytestmark = pytest.mark.engine

BEE = ROOT / "models" / "bee-tiny" / "bee-tiny-q8_0.gguf"
EMBEDDINGS = "/v1/embeddings"


def embeds(model: Path, **options: Any) -> Any:
    return worker_config(model, options=WorkerOptions(task="embed", parallel=2, threads=1, **options))


@pytest.fixture
async def worker() -> AsyncIterator[Running]:
    async with running(embeds(BEE)) as made:
        assert made.daemon.state.status == "ready", made.daemon.state.reason
        yield made


async def vectors(worker: Running, given: Any, **more: Any) -> list[list[float]]:
    status, answer = await worker.post(EMBEDDINGS, {"model": "tiny", "input": given, **more})
    assert status == 200, answer
    assert answer["object"] == "list"
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    return [item["embedding"] for item in answer["data"]]


async def test_one_text_and_several_have_the_same_vectors(worker: Running) -> None:
    (bee,) = await vectors(worker, "a bee")
    both = await vectors(worker, ["a bee", "a flower"])
    assert len(bee) == 192
    assert both[0] == pytest.approx(bee, abs=1e-5)
    assert both[1] != pytest.approx(bee, abs=1e-2)
    assert sum(x * x for x in bee) == pytest.approx(1.0, abs=1e-4)


async def test_tokens_and_lists_of_tokens(worker: Running) -> None:
    (one,) = await vectors(worker, [104, 101, 7])
    assert await vectors(worker, [[104, 101, 7], [3]]) != [one]
    assert (await vectors(worker, [[104, 101, 7]]))[0] == pytest.approx(one, abs=1e-5)


async def test_base64_is_the_same_numbers(worker: Running) -> None:
    (numbers,) = await vectors(worker, "honey", encoding_format="float")
    (coded,) = await vectors(worker, "honey", encoding_format="base64", dimensions=192)
    found = struct.unpack(f"<{len(numbers)}f", base64.b64decode(coded))  # type: ignore[arg-type]
    assert list(found) == pytest.approx(numbers, abs=1e-6)


async def test_many_inputs_are_asked_in_pieces_and_answered_in_order(worker: Running) -> None:
    texts = [f"bee number {i} " * 20 for i in range(60)]
    found = await vectors(worker, texts, user="somebody")
    assert len(found) == 60
    for i in (0, 17, 59):
        assert found[i] == pytest.approx((await vectors(worker, texts[i]))[0], abs=1e-4)
    status, answer = await worker.post(EMBEDDINGS, {"model": "gpt-x", "input": texts, "encoding_format": "base64"})
    assert (status, answer["model"], len(answer["data"])) == (200, "gpt-x", 60)
    info = await worker.info()
    assert info["prompt_tokens"] > 60 * 20
    assert (info["tokens_generated"], info["requests_handled"]) == (0, 5)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": "a"}, "model", "missing_required_parameter"),
        ({"model": "tiny"}, "input", "missing_required_parameter"),
        ({"model": "tiny", "input": ""}, "input", "empty_array"),
        ({"model": "tiny", "input": []}, "input", "empty_array"),
        ({"model": "tiny", "input": ["a", ""]}, "input", "empty_array"),
        ({"model": "tiny", "input": {"text": "a"}}, "input", "invalid_type"),
        ({"model": "tiny", "input": "a", "dimensions": 64}, "dimensions", "not_supported"),
        ({"model": "tiny", "input": "a", "dimensions": "64"}, "dimensions", "invalid_type"),
        ({"model": "tiny", "input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"model": "tiny", "input": [99_999_999]}, None, None),
        ({"model": "tiny", "input": "a " * 3000}, "input", "context_length_exceeded"),
        ({"model": "tiny", "input": ["short"] * 900 + ["a " * 3000]}, "input", "context_length_exceeded"),
    ],
)
async def test_what_cannot_be_is_a_clear_400(
    worker: Running, body: dict[str, Any], param: str | None, code: str | None
) -> None:
    status, answer = await worker.post(EMBEDDINGS, body)
    error = answer["error"]
    assert (status, error["type"], error["param"], error["code"]) == (400, "invalid_request_error", param, code)
    if code == "context_length_exceeded":
        assert "at most 512" in error["message"]


async def test_it_serves_its_task_and_says_so(worker: Running) -> None:
    said = worker.daemon.state.heartbeat()
    assert (said.paths, said.capabilities, said.context_length, said.progress) == (("/v1/embeddings",), (), 512, None)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/infer", "/v1/rerank"):
        async with worker.client.post(path, json={"model": "tiny"}) as answer:
            assert answer.status == 404, path
    assert (await worker.info())["paths"] == ["/v1/embeddings"]


async def test_a_bert_embeds_as_much_as_it_knows(tmp_path: Path) -> None:
    async with running(embeds(write_tiny_bert(tmp_path / "bert.gguf", context=128))) as worker:
        assert worker.daemon.state.status == "ready", worker.daemon.state.reason
        same, other = await vectors(worker, ["hello bee", "hello flower"])
        assert len(same) == len(other) == 32
        assert worker.daemon.state.context_length == 128
        status, answer = await worker.post(EMBEDDINGS, {"model": "tiny", "input": "bees " * 100})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert "at most 128" in answer["error"]["message"]


async def test_a_client_that_leaves_ends_its_request(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "slow.gguf", width=256, layers=4, feed_forward=1024)
    async with running(embeds(model)) as worker:
        texts = ["b" * 500] * 1500  # a minute or two
        async with aiohttp.ClientSession(worker.config.url) as leaving:
            asked = asyncio.create_task(leaving.post(EMBEDDINGS, json={"model": "tiny", "input": texts}))
            await eventually(worker.engine_slots_busy)
            asked.cancel()
            await asyncio.wait({asked})

        async def idle() -> bool:
            return not await worker.engine_slots_busy() and worker.daemon.state.active == 0

        await eventually(idle)
        assert (await worker.info())["prompt_tokens"] == 0  # it was never whole
        assert len(await vectors(worker, "and on it goes")) == 1


async def test_a_request_ends_when_its_time_is_over(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "slow.gguf", width=256, layers=4, feed_forward=1024)
    async with running(embeds(model)) as worker:
        body = {"model": "tiny", "input": ["b" * 500] * 1500}
        async with worker.client.post(EMBEDDINGS, json=body, headers={"X-Request-Timeout": "0.2"}) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (504, "deadline_exceeded")

        async def idle() -> bool:
            return not await worker.engine_slots_busy()

        await eventually(idle)
