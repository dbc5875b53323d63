# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's own Python client against a real queen: bee-tiny on the real engine, a mock worker where answers are given.

What stands between `# docs:` lines is in docs/openai.md too, word for word (tests/unit/test_docs_openai.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.support.mock_engine import Script
from tests.support.openai_fleet import QUESTION, Fleet, fleet_in

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet_in(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def client(fleet: Fleet) -> AsyncIterator[AsyncOpenAI]:
    fleet.mock.next.clear()
    fleet.mock.seen.clear()
    async with AsyncOpenAI(base_url=fleet.url, api_key="none", max_retries=0) as made:
        yield made
    await fleet.all_idle()


def answered(body: Any, status: int = 200, *headers: str) -> Script:
    """The mock's next answer: this JSON."""
    text = json.dumps(body)
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(text)}", *headers]
    return Script(raw="\r\n".join([*lines, "", text]))


def streamed(*events: Any) -> Script:
    """The mock's next answer: these events, cut into pieces of seven bytes."""
    body = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
    framed = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Script(raw=head + framed, split=7)


def chunk(**delta: Any) -> dict[str, Any]:
    finish = delta.pop("finish_reason", None)
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": [choice]}


async def test_the_plain_client_in_a_thread(fleet: Fleet, client: AsyncOpenAI) -> None:
    """As a script has it: no event loop anywhere."""

    def script(base_url: str) -> tuple[str, str, list[float], list[str]]:
        client: Any
        question: Any
        # docs: python
        from openai import OpenAI

        client = OpenAI(base_url=base_url, api_key="none")  # no key is asked for on loopback
        question = [{"role": "user", "content": "What is rbee?"}]

        answer = client.chat.completions.create(model="bee-tiny", messages=question, temperature=0)
        said = answer.choices[0].message.content

        streamed = ""
        for chunk in client.chat.completions.create(model="bee-tiny", messages=question, temperature=0, stream=True):
            streamed += chunk.choices[0].delta.content or ""

        vectors = client.embeddings.create(model="bee-vectors", input=["a bee", "a flower"])
        names = [model.id for model in client.models.list()]
        # docs: end
        client.close()
        assert said is not None
        assert streamed == said
        assert len(vectors.data) == 2
        return said, streamed, vectors.data[0].embedding, names

    said, _, vector, names = await asyncio.to_thread(script, fleet.url)
    assert said.startswith("rbee is a tool that runs language models")
    assert len(vector) == 192
    assert names == ["bee-tiny", "bee-vectors", "gpt-4o-mini", "idle", "mock"]


async def test_who_answered(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=ASKED, temperature=0, extra_headers={"X-Request-Id": "mine-7"}
    )
    answer = raw.parse()
    assert (answer.model, answer._request_id, raw.request_id) == ("gpt-4o-mini", "mine-7", "mine-7")
    assert (raw.headers["x-rbee-worker"], raw.headers["x-rbee-hive"]) == ("chat-1", "h-1")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_stream_with_its_usage(client: AsyncOpenAI) -> None:
    text, usage, finish = "", None, None
    async for chunk in await client.chat.completions.create(
        model="bee-tiny", messages=ASKED, temperature=0, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    whole = await client.chat.completions.create(model="bee-tiny", messages=ASKED, temperature=0)
    assert usage is not None
    assert whole.usage is not None
    assert (text, finish) == (whole.choices[0].message.content, whole.choices[0].finish_reason) == (text, "stop")
    assert usage.completion_tokens == whole.usage.completion_tokens


async def test_several_answers_with_logprobs(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="bee-tiny", messages=HELLO, max_tokens=4, n=2, seed=3, logprobs=True, top_logprobs=2
    )
    assert [c.index for c in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)


class Colour(BaseModel):
    colour: Literal["red", "blue"]
    sure: bool


async def test_structured_output_is_what_the_schema_says(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model="bee-tiny", messages=HELLO, response_format=Colour, temperature=0, max_tokens=400
    )
    parsed = answer.choices[0].message.parsed
    assert parsed is not None
    assert parsed.colour in ("red", "blue")
    async with client.chat.completions.stream(
        model="bee-tiny", messages=HELLO, response_format=Colour, temperature=0, max_tokens=400
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == parsed


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]
CALL = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}


async def test_tools_go_there_and_calls_come_back(fleet: Fleet, client: AsyncOpenAI) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    fleet.mock.next.append(answered({"id": "c", "object": "chat.completion", "created": 1, "choices": [choice]}))
    answer = await client.chat.completions.create(model="mock", messages=HELLO, tools=TOOLS, tool_choice="auto")
    calls: Any = answer.choices[0].message.tool_calls
    (call,) = calls
    assert (call.id, json.loads(call.function.arguments)) == ("call-1", {"city": "Köln"})
    assert json.loads(fleet.mock.seen[0].body)["tools"] == TOOLS

    pieces = ['{"ci', 'ty": "K', 'öln"}']
    first = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    deltas = [chunk(role="assistant", content=None, tool_calls=[first])]
    deltas += [chunk(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in pieces]
    fleet.mock.next.append(streamed(*deltas, chunk(finish_reason="tool_calls")))
    async with client.chat.completions.stream(model="mock", messages=HELLO, tools=TOOLS) as stream:
        events = [event async for event in stream]
    done = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    assert [(e.name, e.parsed_arguments) for e in done] == [("weather", {"city": "Köln"})]


async def test_vectors_as_the_client_likes_them(client: AsyncOpenAI) -> None:
    # It asks for base64 by itself, and decodes it.
    coded = await client.embeddings.create(model="bee-vectors", input=["a bee", "honey"])
    numbers = await client.embeddings.create(model="bee-vectors", input=["a bee", "honey"], encoding_format="float")
    for one, other in zip(coded.data, numbers.data, strict=True):
        assert list(one.embedding) == pytest.approx(other.embedding, abs=1e-6)
    assert coded.usage.prompt_tokens > 0


async def test_completions_and_responses(client: AsyncOpenAI) -> None:
    completion = await client.completions.create(model="bee-tiny", prompt="hello", max_tokens=5, temperature=0)
    assert completion.choices[0].text
    response = await client.responses.create(model="bee-tiny", input=QUESTION, temperature=0)
    assert response.output_text.startswith("rbee is a tool")
    events = [e.type async for e in await client.responses.create(model="bee-tiny", input=QUESTION, stream=True)]
    assert (events[0], events[-1]) == ("response.created", "response.completed")


async def test_models_tell_what_stands_behind_them(client: AsyncOpenAI) -> None:
    found = {m.id: m async for m in client.models.list()}
    about: Any = found["gpt-4o-mini"].model_dump()["rbee"]
    assert (about["state"], about["alias_of"], about["context_length"]) == ("ready", ["bee-tiny"], 1024)
    one = await client.models.retrieve("bee-vectors")
    assert one.model_dump()["rbee"]["capabilities"] == ["embeddings"]
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing/like:it")


async def test_errors_are_the_clients_own_classes(fleet: Fleet, client: AsyncOpenAI) -> None:
    async def refused(kind: type[openai.APIStatusError], **fields: Any) -> Any:
        with pytest.raises(kind) as found:
            await client.chat.completions.create(**{"model": "bee-tiny", "messages": HELLO, **fields})
        error = found.value
        assert error.request_id
        return error

    error = await refused(openai.NotFoundError, model="bee-tini")
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "bee-tiny" in error.message
    assert (await refused(openai.BadRequestError, temperature=9)).param == "temperature"
    error = await refused(openai.BadRequestError, messages=[{"role": "user", "content": "bee " * 2000}])
    assert error.code == "context_length_exceeded"
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    error = await refused(openai.BadRequestError, messages=[{"role": "user", "content": [picture]}])
    assert "image" in error.message
    error = await refused(openai.BadRequestError, tools=[{"type": "function"}])
    assert error.param == "tools"
    # Too long to be sent anywhere, and what the model is not for: 400, which no client tries again.
    error = await refused(openai.BadRequestError, messages=[{"role": "user", "content": "bee " * 50_000}])
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    error = await refused(openai.BadRequestError, model="bee-vectors")
    assert (error.code, error.param) == ("unsupported_endpoint", "model")
    with pytest.raises(openai.BadRequestError):
        await client.embeddings.create(model="gpt-4o-mini", input="a")
    error = await refused(openai.InternalServerError, model="idle")
    assert (error.status_code, error.code) == (503, "no_worker_ready")
    assert int(error.response.headers["retry-after"]) > 0
    error = await refused(openai.InternalServerError, model="bee-tiny", extra_headers={"X-Deadline": "1000"})
    assert error.status_code == 504
    fleet.mock.next.append(answered({"error": {"message": "slow down"}}, 429, "Retry-After: 1"))
    assert (await refused(openai.RateLimitError, model="mock")).response.headers["retry-after"] == "1"


async def test_pictures_reach_a_model_that_sees(fleet: Fleet, client: AsyncOpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo=" * 1000}}
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "what is it? é"}, picture]}]
    await client.chat.completions.create(model="mock", messages=messages)
    assert json.loads(fleet.mock.seen[0].body)["messages"] == messages


async def test_a_busy_answer_is_tried_again_when_it_says(fleet: Fleet) -> None:
    fleet.mock.seen.clear()
    async with AsyncOpenAI(base_url=fleet.url, api_key="none", max_retries=2) as client:
        busy = answered({"error": {"message": "busy"}}, 429, "Retry-After-Ms: 1")
        fleet.mock.next += [busy, busy]
        answer = await client.chat.completions.create(model="mock", messages=HELLO)
    assert answer.choices[0].message.content == "hello"
    assert [seen.header("x-stainless-retry-count") for seen in fleet.mock.seen] == [["0"], ["1"], ["2"]]


async def test_a_time_limit_of_the_clients(fleet: Fleet, client: AsyncOpenAI) -> None:
    fleet.mock.next.append(Script(hang=True))
    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(model="mock", messages=HELLO, timeout=1.0)
    await asyncio.wait_for(fleet.mock.seen[-1].closed.wait(), 10)


@pytest.mark.parametrize("path", ["chat", "chat stream", "completion", "completion stream", "responses stream"])
async def test_a_client_that_leaves_stops_the_engine(fleet: Fleet, client: AsyncOpenAI, path: str) -> None:
    before = (await fleet.chat.info())["tokens_generated"]
    long: dict[str, Any] = {"model": "bee-tiny", "extra_body": {"ignore_eos": True, "n_predict": 100_000}}
    stream = "stream" in path
    ask: Any = {
        "chat": lambda: client.chat.completions.create(messages=HELLO, stream=stream, **long),
        "completion": lambda: client.completions.create(prompt="hello", stream=stream, **long),
        "responses": lambda: client.responses.create(input="hello", stream=True, **long),
    }[path.split()[0]]
    asked = asyncio.create_task(ask())
    while not await fleet.chat.engine_slots_busy():
        assert not asked.done() or stream, asked.result()
    if stream:
        await (await asked).close()
    else:
        asked.cancel()
        await asyncio.wait({asked})
    await fleet.all_idle()
    # Nothing but leaving ended it: the counts of a whole answer were never seen.
    assert (await fleet.chat.info())["tokens_generated"] == before


async def test_a_client_that_leaves_ends_its_embeddings(fleet: Fleet, client: AsyncOpenAI) -> None:
    before = (await fleet.vectors.info())["prompt_tokens"]
    texts = ["the bee and the flower " * 20] * 2000  # many seconds
    asked = asyncio.create_task(client.embeddings.create(model="bee-vectors", input=texts))
    while not await fleet.vectors.engine_slots_busy():
        assert not asked.done(), asked.result()
    asked.cancel()
    await asyncio.wait({asked})
    await fleet.all_idle()
    assert (await fleet.vectors.info())["prompt_tokens"] == before


async def test_many_at_once(client: AsyncOpenAI) -> None:
    answers = await asyncio.gather(
        *(client.chat.completions.create(model="bee-tiny", messages=ASKED, temperature=0) for _ in range(12))
    )
    assert len({a.choices[0].message.content for a in answers}) == 1
    assert len({a.id for a in answers}) == 12
