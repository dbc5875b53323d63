# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker with the real engine: what clients get, what is refused, what a client's leaving stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rbee.core.spec import WorkerOptions
from tests.support.tiny_gguf import CHATML, WITH_TOOLS, write_tiny_gguf
from tests.support.waiting import eventually
from tests.support.workers import Running, running, worker_config

pytestmark = pytest.mark.engine

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Running]:
    """Its answers can be some 30,000 tokens long: seconds of generation, for tests that interrupt."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context=32768)
    options = WorkerOptions(context_length=32768, parallel=2, threads=1)
    async with running(worker_config(model, options=options)) as made:
        assert made.daemon.state.status == "ready", made.daemon.state.reason
        yield made


async def stream(worker: Running, body: dict[str, Any], path: str = CHAT) -> list[Any]:
    """The JSON of each event; `[DONE]` must be the last."""
    async with worker.client.post(path, json={**body, "stream": True}) as answer:
        assert answer.status == 200
        frames = (await answer.text()).strip().split("\n\n")
    assert frames[-1] == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]


async def test_streamed_and_folded_answers_are_the_same_words(worker: Running) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 30, "temperature": 0, "seed": 3}
    chunks = await stream(worker, body)
    status, whole = await worker.post(CHAT, body)

    assert status == 200
    assert not any("prompt_progress" in c for c in chunks)
    assert not any("usage" in c for c in chunks)  # nobody asked
    said = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    (choice,) = whole["choices"]
    assert choice["message"] == {"role": "assistant", "content": said}
    assert len(said) >= 20
    assert choice["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert whole["object"] == "chat.completion"
    assert whole["usage"]["completion_tokens"] == 30
    info = await worker.info()
    assert (info["tokens_generated"], info["requests_handled"], info["status"]) == (60, 2, "ready")


async def test_several_answers_under_another_name(worker: Running) -> None:
    body = {"model": "gpt-x", "messages": HELLO, "max_tokens": 5, "temperature": 0, "n": 2, "logprobs": True}
    status, whole = await worker.post(CHAT, body)
    chunks = await stream(worker, {**body, "stream_options": {"include_usage": True}})

    assert status == 200
    assert [c["index"] for c in whole["choices"]] == [0, 1]
    assert all(len(c["logprobs"]["content"]) == 5 for c in whole["choices"])
    assert whole["usage"]["completion_tokens"] == 10
    assert {whole["model"], *(c["model"] for c in chunks)} == {"gpt-x"}
    assert [c["usage"]["completion_tokens"] for c in chunks if c.get("usage")] == [10]
    assert not any("prompt_progress" in c for c in chunks)


async def test_completions_of_several_prompts(worker: Running) -> None:
    body = {"model": "tiny", "prompt": ["hello", "you"], "max_tokens": 4, "temperature": 0}
    status, whole = await worker.post("/v1/completions", body)
    chunks = await stream(worker, body, "/v1/completions")

    assert (status, whole["object"]) == (200, "text_completion")
    for i in (0, 1):
        said = "".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == i)
        assert whole["choices"][i]["text"] == said


async def test_infer_gives_the_text_as_it_comes(worker: Running) -> None:
    body = {"prompt": "hello", "max_tokens": 6, "temperature": 0}
    status, whole = await worker.post("/v1/infer", {**body, "stream": False})
    async with worker.client.post("/v1/infer", json=body) as answer:
        frames = (await answer.text()).strip().split("\n\n")
    async with worker.client.post("/v1/infer", json=body, headers={"Accept": "application/json"}) as answer:
        escaped = (await answer.text()).strip().split("\n\n")

    assert (status, whole["tokens"], whole["finish_reason"]) == (200, 6, "length")
    assert frames[-1] == escaped[-1] == "data: [DONE]"
    assert "".join(f.removeprefix("data: ") for f in frames[:-1]) == whole["text"]
    assert "".join(json.loads(f.removeprefix("data: ")) for f in escaped[:-1]) == whole["text"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": HELLO}, "model"),
        (CHAT, {"model": "tiny"}, "messages"),
        (CHAT, {"model": "tiny", "messages": HELLO, "temperature": -1}, "temperature"),
        (CHAT, {"model": "tiny", "messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "a" * 40000}]}, "messages"),
        ("/v1/completions", {"model": "tiny"}, "prompt"),
        ("/v1/messages", {"model": 3, "messages": HELLO, "max_tokens": 1}, "model"),
        ("/v1/responses", {"model": "tiny", "input": "a" * 40000}, "input"),
        ("/v1/infer", {"prompt": "", "model": "tiny"}, "prompt"),
    ],
)
async def test_what_openai_refuses_is_refused(worker: Running, path: str, body: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        status, answer = await worker.post(path, {**body, "stream": stream})
        assert (status, answer["error"]["type"], answer["error"]["param"]) == (400, "invalid_request_error", param)
        assert answer["error"]["message"]
    if len(str(body)) > 40000:
        assert answer["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"tiny","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"tiny","messages":[{"role":"user","content":"a"}],"temperature":1e999}',
        b'{"model":"tiny","\xff":1}',
        b'{"model":"tiny","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
async def test_what_only_looks_like_json_is_refused(worker: Running, body: bytes) -> None:
    for path in (CHAT, "/v1/completions", "/v1/messages", "/v1/infer"):
        async with worker.client.post(path, data=body) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["type"]) == (400, "invalid_request_error"), path


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"messages": HELLO, "stream": True}, id="stream, generating"),
        pytest.param({"messages": HELLO}, id="one answer, generating"),
        pytest.param({"messages": HELLO, "stream": True, "n": 2}, id="two streams"),
        pytest.param(
            {"messages": [{"role": "user", "content": "a" * 32000}], "stream": True}, id="stream, reading the prompt"
        ),
        pytest.param({"messages": [{"role": "user", "content": "a" * 32000}]}, id="one answer, reading the prompt"),
    ],
)
async def test_a_client_that_leaves_stops_the_engine(worker: Running, body: dict[str, Any]) -> None:
    async with aiohttp.ClientSession(worker.config.url) as leaving:
        asked = asyncio.create_task(leaving.post(CHAT, json={"model": "tiny", "temperature": 0, **body}))
        await eventually(worker.engine_slots_busy)
        asked.cancel()
        await asyncio.wait({asked})
        if not asked.cancelled():
            asked.result().close()

    async def idle() -> bool:
        return not await worker.engine_slots_busy() and worker.daemon.state.active == 0

    await eventually(idle)
    # Nothing but its client's leaving can have ended it: the counts of a whole answer were never seen.
    assert (await worker.info())["tokens_generated"] == 0
    assert (await worker.post(CHAT, {"model": "tiny", "messages": HELLO, "max_tokens": 1}))[0] == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_responses_and_messages_stop_too(worker: Running, stream: bool) -> None:
    for path, body in (
        ("/v1/responses", {"input": "hello"}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 30000}),
    ):
        async with aiohttp.ClientSession(worker.config.url) as leaving:
            asked = asyncio.create_task(leaving.post(path, json={"model": "tiny", "stream": stream, **body}))
            await eventually(worker.engine_slots_busy)
            asked.cancel()
            await asyncio.wait({asked})
            if not asked.cancelled():
                asked.result().close()

        async def idle() -> bool:
            return not await worker.engine_slots_busy() and worker.daemon.state.active == 0

        await eventually(idle)
    assert (await worker.info())["tokens_generated"] == 0


async def test_responses_and_messages_are_whole(worker: Running) -> None:
    body = {"model": "gpt-x", "temperature": 0}
    _, chat = await worker.post(CHAT, {**body, "messages": HELLO, "max_tokens": 9})
    said = chat["choices"][0]["message"]["content"]
    status, response = await worker.post("/v1/responses", {**body, "input": "hello", "max_output_tokens": 9})
    assert (status, response["object"], response["model"]) == (200, "response", "gpt-x")
    assert response["output"][0]["content"][0]["text"] == said
    status, message = await worker.post("/v1/messages", {**body, "messages": HELLO, "max_tokens": 9})
    assert (status, message["type"], message["model"], message["stop_reason"]) == (
        200,
        "message",
        "gpt-x",
        "max_tokens",
    )
    assert message["content"] == [{"type": "text", "text": said}]
    assert response["usage"]["output_tokens"] == message["usage"]["output_tokens"] == 9
    assert (await worker.info())["tokens_generated"] == 27


async def test_more_requests_than_slots_wait_their_turn(worker: Running) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 200, "temperature": 0}
    async with worker.client.post(CHAT, json={**body, "max_tokens": 30000, "stream": True}) as long:
        await long.content.readany()
        answers = await asyncio.gather(*(worker.post(CHAT, body) for _ in range(4)))
    assert [status for status, _ in answers] == [200] * 4
    assert [a["usage"]["completion_tokens"] for _, a in answers] == [200] * 4


async def test_what_prometheus_reads(worker: Running) -> None:
    await worker.post(CHAT, {"model": "tiny", "messages": HELLO, "max_tokens": 7, "temperature": 0})
    async with worker.client.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    values = {line.partition("{")[0]: line.rpartition(" ")[2] for line in lines if not line.startswith("#")}
    assert values["rbee_worker_generated_tokens_total"] == "7"
    assert values["rbee_worker_requests_total"] == "1"
    assert 'status="ready"} 1' in "\n".join(lines)


@pytest.mark.parametrize("change", [{}, {"n": 2}, {"stream": False}])
async def test_a_request_ends_when_its_time_is_over(worker: Running, change: dict[str, Any]) -> None:
    body = {"model": "tiny", "messages": HELLO, "temperature": 0, "stream": True, **change}
    async with worker.client.post(CHAT, json=body, headers={"X-Request-Timeout": "0.15"}) as answer:
        assert answer.status == (200 if body["stream"] else 504)
        *_, last = (await answer.text()).strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"

    async def idle() -> bool:
        return not await worker.engine_slots_busy()

    await eventually(idle)
    async with worker.client.post(CHAT, json=body, headers={"X-Deadline": "1000"}) as answer:
        assert answer.status == 504


@pytest.mark.parametrize(("template", "able"), [(CHATML, ()), (WITH_TOOLS, ("tools",))])
async def test_it_says_what_its_model_can(tmp_path: Path, template: str, able: tuple[str, ...]) -> None:
    async with running(worker_config(write_tiny_gguf(tmp_path / "tiny.gguf", template=template))) as worker:
        said = worker.daemon.state.heartbeat()
        assert (said.status, said.capabilities, said.progress) == ("ready", able, None)
        assert said.paths == ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
        await worker.post(CHAT, {"model": "tiny", "messages": HELLO, "max_tokens": 2})
        assert worker.daemon.state.heartbeat().prompt_tokens > 0
