# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's front door, over real connections to mock workers."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rbee.adapters.secrets import Token
from rbee.contracts import openapi
from rbee.contracts.configs import KnownModel
from rbee.daemons.queen.front.paths import INFERENCE_PATHS
from tests.support.mock_engine import MockEngine, Script
from tests.support.ports import free_port
from tests.support.queen import MODEL, Client, beat, queen_config, queen_in, workers
from tests.support.waiting import eventually

TOKEN = Token("the-secret-of-the-fleet")


async def error_of(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    assert answer.content_type == "application/json"
    said: dict[str, Any] = (await answer.json())["error"]
    assert set(said) == {"message", "type", "code", "param"}
    return said


async def test_an_answer_says_who_gave_it_and_passes_unchanged(tmp_path: Path) -> None:
    async with queen_in(tmp_path, token=TOKEN) as c, workers(c, "w1", token=TOKEN) as (engine,):
        async with c.chat(unknown_field={"a": 1}, headers={"X-Request-Id": "mine-1"}) as answer:
            assert answer.status == 200
            assert (await answer.json())["choices"][0]["message"]["content"] == "hello"
            assert answer.headers["X-Request-Id"] == "mine-1"
            assert answer.headers["X-Rbee-Worker"] == "w1"
            assert answer.headers["X-Rbee-Hive"] == "h1"
            assert float(answer.headers["X-Rbee-Overhead-Ms"]) >= 0
        (seen,) = engine.seen
        assert json.loads(seen.body)["unknown_field"] == {"a": 1}
        assert seen.header("authorization") == ["Bearer the-secret-of-the-fleet"]
        assert seen.header("x-request-id") == ["mine-1"]
        async with c.chat() as first, c.chat() as second:
            ids = {first.headers["X-Request-Id"], second.headers["X-Request-Id"]}
        assert len(ids) == 2
        assert {i for s in engine.seen[1:] for i in s.header("x-request-id")} == ids


async def test_a_stream_comes_whole_and_in_order(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"):
        async with c.chat("gpt", stream=True, mock={"tokens": 50}) as answer:
            assert answer.content_type == "text/event-stream"
            frames = [x for x in (await answer.text()).split("\n\n") if x]
        assert frames[-1] == "data: [DONE]"
        texts = [json.loads(x[6:])["choices"][0]["delta"]["content"] for x in frames[:-1]]
        assert texts == [f"tok{i} " for i in range(50)]
        await eventually(lambda: c.queen.registry.workers["w1"].in_flight == 0)


async def test_requests_go_to_the_least_busy_worker(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2") as engines:
        waiting = [asyncio.create_task(held(c)) for _ in range(6)]
        await eventually(lambda: sum(e.requests for e in engines) == 6)
        assert [e.requests for e in engines] == [3, 3]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await eventually(lambda: all(w.in_flight == 0 for w in c.queen.registry.workers.values()))
        await c.heartbeat(beat("w1", engines[0].port, slots_busy=3))
        for _ in range(4):
            async with c.chat() as answer:
                assert answer.headers["X-Rbee-Worker"] == "w2"


async def answered(c: Client, headers: dict[str, str]) -> int:
    async with c.chat(headers=headers) as answer:
        return int(answer.status)


async def held(c: Client) -> None:
    async with c.chat(mock={"hang": True}):
        pass


async def test_errors_are_openais(tmp_path: Path) -> None:
    config = queen_config(models=(KnownModel(name=MODEL), KnownModel(name="idle")))
    async with queen_in(tmp_path, config) as c, workers(c, "w1"):
        async with c.chat("lama") as answer:
            assert answer.status == 404
            error = await error_of(answer)
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            assert "Did you mean 'llama'?" in error["message"]
        async with c.chat("idle") as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert (await error_of(answer))["code"] == "no_worker_ready"
        async with c.chat(None) as answer:
            assert answer.status == 400
            assert (await error_of(answer))["param"] == "model"
        async with c.http.post(f"{c.url}/v1/completions", data=b"{nonsense") as answer:
            assert answer.status == 400
            assert (await error_of(answer))["code"] == "invalid_json"
            assert answer.headers["X-Request-Id"]
        async with c.http.get(f"{c.url}/v1/chat/completions") as answer:
            assert answer.status == 405
        async with c.http.get(f"{c.url}/nowhere") as answer:
            assert answer.status == 404
            await error_of(answer)


async def test_the_queen_describes_all_that_she_serves(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c:
        paths = (await c.get("/openapi.json"))["paths"]
        for path, methods in paths.items():
            for method, said in methods.items():
                assert said["summary"] != "", (method, path)
                body = "requestBody" in said
                assert body == (method == "post" and path != "/v1/queen/reload"), (method, path)
        assert {"/v1/chat/completions", "/v1/jobs/{job_id}/stream", "/metrics", "/openapi.json"} <= set(paths)
        inference = {p for p in paths if paths[p].get("post", {}).get("summary") == openapi._INFERENCE.summary}
        assert inference == set(INFERENCE_PATHS)


async def test_models_are_the_declared_the_live_and_the_aliases(tmp_path: Path) -> None:
    config = queen_config(models=(KnownModel(name="idle"),))
    async with queen_in(tmp_path, config) as c, workers(c, "w1"):
        models = {m["id"]: m["rbee"] for m in (await c.get("/v1/models"))["data"]}
        assert (models["llama"]["state"], models["llama"]["workers"]) == ("ready", 1)
        assert models["idle"]["state"] == "no_worker"
        assert models["gpt"]["alias_of"] == [MODEL]
        assert (await c.get("/v1/models/gpt"))["object"] == "model"
        async with c.http.get(f"{c.url}/v1/models/none") as answer:
            assert answer.status == 404


async def test_a_worker_that_dies_before_the_first_byte_is_replaced(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2") as engines:
        engines[0].script = Script(die_after=0)
        for _ in range(4):
            async with c.chat(stream=True) as answer:
                assert answer.status == 200
                assert (await answer.text()).endswith("data: [DONE]\n\n")
        engines[0].script = None
        await eventually(lambda: c.queen.registry.workers["w1"].unreachable is None)


async def test_a_worker_whose_address_is_no_name_is_passed_over(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w2"):
        odd = f"http://{'a' * 70}.example:9300"  # no part of a name may be so long
        assert await c.heartbeat(beat("w1", 1, url=odd, slots=1000)) == 200
        for _ in range(3):
            async with c.chat() as answer:
                assert (answer.status, answer.headers["X-Rbee-Worker"]) == (200, "w2")
        assert all(not t.done() for t in c.queen.prober._tasks.values())


async def test_a_worker_whose_engine_is_away_passes_the_request_on(tmp_path: Path) -> None:
    said = '{"error": {"message": "The model is being loaded.", "code": "model_loading"}}'
    refusal = Script(raw=f"HTTP/1.1 503 X\r\nContent-Length: {len(said)}\r\n\r\n{said}")
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2") as engines:
        engines[0].script = refusal
        for _ in range(4):
            async with c.chat(stream=True) as answer:
                assert answer.status == 200
                assert answer.headers["X-Rbee-Worker"] == "w2"
        assert engines[0].requests
        assert c.queen.registry.workers["w1"].unreachable is None
        assert (await c.run("Infer", model=MODEL, prompt="x"))["result"]["worker_id"] == "w2"
        engines[1].script = refusal
        async with c.chat() as answer:
            assert answer.status == 503
            assert "w1, w2: The model is being loaded" in (await error_of(answer))["message"]
            assert answer.headers["Retry-After"]
        assert (await c.run("Infer", model=MODEL, prompt="x"))["error"]["code"] == "no_worker_ready"
        asked = asyncio.create_task(answered(c, {"X-Request-Timeout": "20"}))
        before = engines[1].requests
        await eventually(lambda: engines[1].requests > before)
        engines[1].script = None
        await c.heartbeat(beat("w2", engines[1].port))
        assert await asked == 200


async def test_a_worker_that_refuses_is_dropped_at_once_and_probed_until_it_answers(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        await engine.stop()
        asked = asyncio.create_task(answered(c, {}))
        await eventually(lambda: c.queen.registry.workers["w1"].unreachable)
        async with c.chat() as answer:
            assert answer.status == 503
            assert "unreachable" in (await error_of(answer))["message"]
        assert await c.heartbeat(beat("w1", engine.port)) == 200  # it says that it lives; but it does not answer
        assert c.queen.registry.workers["w1"].unreachable
        await engine.start()
        await eventually(lambda: c.queen.registry.workers["w1"].unreachable is None)
        async with c.chat() as answer:
            assert answer.status == 200
        assert await asked == 200  # it found out


async def test_a_client_that_leaves_ends_the_workers_request(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        answer = await c.chat(stream=True, mock={"tokens": 1000, "interval": 0.01})
        await answer.content.readany()
        answer.close()
        await asyncio.wait_for(engine.seen[0].closed.wait(), 30)
        await eventually(lambda: c.queen.registry.workers["w1"].in_flight == 0)
        text = await (await c.http.get(f"{c.url}/metrics")).text()
        assert 'rbee_queen_requests_total{model="llama",worker="w1",status="200",end="client_gone"} 1' in text


async def test_a_stop_lets_streams_end(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        answer = await c.chat(stream=True, mock={"tokens": 30, "interval": 0.01})
        await answer.content.readany()
        url = c.url
        stopping = asyncio.create_task(c.queen.stop(drain=10))
        assert (await answer.text()).endswith("data: [DONE]\n\n")
        await stopping
        assert engine.requests == 1
        with pytest.raises(aiohttp.ClientConnectorError):
            await c.http.get(f"{url}/health")


async def test_statuses_and_silence_take_a_worker_out(tmp_path: Path) -> None:
    ahead = [0.0]
    async with queen_in(tmp_path, clock=lambda: time.monotonic() + ahead[0]) as c, MockEngine() as engine:
        for status, expected in (("starting", 503), ("ready", 200), ("busy", 200), ("stopping", 503), ("failed", 503)):
            await c.heartbeat(beat("w1", engine.port, status=status, reason="out of memory"))
            async with c.chat() as answer:
                assert answer.status == expected, status
                if expected == 503:
                    assert status in (await answer.text())
        await c.heartbeat(beat("w1", engine.port, status="starting"))
        async with c.chat() as answer:
            assert (await answer.json())["loading"]["state"] == "starting"
        await c.heartbeat(beat("w1", engine.port))
        ahead[0] += 89
        async with c.chat() as answer:
            assert answer.status == 200
        ahead[0] += 2
        async with c.chat() as answer:
            assert answer.status == 503
            assert "stale" in await answer.text()
        (shown,) = (await c.run("Status"))["result"]["workers"]
        assert not shown["routable"]
        assert shown["reason"].startswith("stale")
        ahead[0] += 1000
        assert [w.worker_id for w in c.queen.registry.sweep()] == ["w1"]
        assert not c.queen.registry.workers


async def test_of_two_processes_with_one_id_the_newer_wins(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, MockEngine() as old, MockEngine() as new:
        await c.heartbeat(beat("w1", new.port, started_at="2026-01-02T00:00:00Z"))
        await c.heartbeat(beat("w1", old.port, started_at="2026-01-01T00:00:00Z", status="stopping"))
        async with c.chat() as answer:
            assert answer.status == 200
        assert (old.requests, new.requests) == (0, 1)
        await c.heartbeat(beat("w2", new.port, started_at="2026-01-03T00:00:00Z"))
        assert set(c.queen.registry.workers) == {"w2"}  # it has w1's port now


async def test_a_clock_that_was_set_back_keeps_no_worker_out(tmp_path: Path) -> None:
    ahead = [0.0]
    async with queen_in(tmp_path, clock=lambda: time.monotonic() + ahead[0]) as c, MockEngine() as engine:
        registry = c.queen.registry
        await c.heartbeat(beat("w1", free_port(), started_at="2026-01-02T00:00:00Z"))
        asked = asyncio.create_task(answered(c, {}))
        await eventually(lambda: registry.workers["w1"].unreachable)
        # It has died; its next process began before it, by its clock.
        await c.heartbeat(beat("w1", engine.port, started_at="2026-01-01T00:00:00Z"))
        assert registry.why_not(registry.workers["w1"]) is None
        assert await asked == 200

        ahead[0] += 100  # as long silent as counts as stale
        await c.heartbeat(beat("w1", engine.port, started_at="2025-01-01T00:00:00Z"))
        assert registry.why_not(registry.workers["w1"]) is None
        ahead[0] += 100
        await c.heartbeat(beat("w2", engine.port, started_at="2024-01-01T00:00:00Z"))
        assert set(registry.workers) == {"w2"}


@pytest.mark.parametrize("name", ["X-Request-Timeout", "X-Deadline"])
async def test_a_deadline_ends_in_504(tmp_path: Path, name: str) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):

        def headers(seconds: float) -> dict[str, str]:
            return {name: str(seconds if name == "X-Request-Timeout" else int((time.time() + seconds) * 1000))}

        async with c.chat(headers=headers(0.3), mock={"hang": True}) as answer:
            assert answer.status == 504
            assert (await error_of(answer))["code"] == "deadline_exceeded"
        await asyncio.wait_for(engine.seen[0].closed.wait(), 30)
        assert abs(float(engine.seen[0].header("x-deadline")[0]) / 1000 - time.time()) < 60
        async with c.chat(headers=headers(-1) if name == "X-Deadline" else headers(0)) as answer:
            assert answer.status == 504
        async with c.chat(headers={name: "soon"}) as answer:
            assert answer.status == 400
        async with c.chat(headers=headers(30)) as answer:
            assert answer.status == 200


async def test_with_a_deadline_a_request_waits_for_a_loading_worker(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, MockEngine() as engine:
        await c.heartbeat(beat("w1", engine.port, status="starting"))

        asked = asyncio.create_task(answered(c, {"X-Request-Timeout": "20"}))
        await eventually(lambda: c.queen.metrics.active == 1)
        await c.heartbeat(beat("w1", engine.port))
        assert await asked == 200


async def test_the_fleets_listener_wants_the_token(tmp_path: Path) -> None:
    config = queen_config(fleet_listen=("0.0.0.0:0",))
    async with queen_in(tmp_path, config, TOKEN) as c, workers(c, "w1"):
        network = f"http://127.0.0.1:{c.queen._server.ports[1]}"
        body = {"model": MODEL}
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Bearer the-secret-of-the-fleet"}, 200),
            ({"x-api-key": "the-secret-of-the-fleet"}, 200),
        ):
            async with c.http.post(f"{network}/v1/chat/completions", json=body, headers=headers) as answer:
                assert answer.status == status
        async with c.http.get(f"{network}/health") as answer:
            assert await answer.text() == "ok"
        async with c.http.get(f"{network}/v1/models") as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert (await error_of(answer))["code"] == "unauthorized"


async def test_the_fleets_token_is_shown_to_no_stranger(tmp_path: Path) -> None:
    async with queen_in(tmp_path, token=TOKEN) as c, MockEngine() as stranger, MockEngine() as worker:
        await c.heartbeat(beat("w1", stranger.port))
        async with c.chat() as answer:
            assert answer.status == 200
        await c.run("Infer", model=MODEL, prompt="x")
        assert [s.header("authorization") for s in stranger.seen] == [[], []]
        await c.heartbeat(beat("w1", worker.port), TOKEN)
        await c.heartbeat(beat("w1", stranger.port, started_at="2027-01-01T00:00:00Z"))
        await c.heartbeat(beat("w2", worker.port, started_at="2027-01-01T00:00:00Z", status="failed"))
        async with c.chat() as answer:
            assert answer.status == 200
        assert len(stranger.seen) == 2
        assert worker.seen[0].header("authorization") == ["Bearer the-secret-of-the-fleet"]


async def test_infer_narrates_tokens_and_counts_them(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        job = await c.run("Infer", model="gpt", prompt="Say token=abcdef", max_tokens=5, seed=3)
        assert job["state"] == "completed", job
        result = job["result"]
        assert (result["text"], result["tokens"], result["worker_id"]) == ("tok0 tok1 tok2 ", 3, "w1")
        said = json.loads(engine.seen[0].body)
        assert said["messages"] == [{"role": "user", "content": "Say token=abcdef"}]
        assert (said["max_tokens"], said["seed"], said["stream"]) == (5, 3, True)
        text = await c.events(job["job_id"])
        assert text.count('"event":"infer_token"') == 3
        assert "abcdef" not in json.dumps(job["request"])


async def test_an_infer_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        engine.next += [Script(tokens=1000, interval=0.02)]
        job = await c.run("Infer", model=MODEL, prompt="x", timeout=0.2)
        assert job["error"]["code"] == "deadline_exceeded"
        assert "no whole answer in 0.2 s" in job["error"]["error"]
        await eventually(lambda: c.queen.registry.workers["w1"].in_flight == 0)


async def test_a_cancelled_infer_frees_the_worker(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        engine.script = Script(tokens=10_000, interval=0.01)
        job_id = await c.submit("Infer", model=MODEL, prompt="x")
        await eventually(lambda: engine.seen and engine.seen[0].sent)
        async with c.http.delete(f"{c.url}/v1/jobs/{job_id}") as answer:
            assert (await answer.json())["state"] == "cancelled"
        await asyncio.wait_for(engine.seen[0].closed.wait(), 30)
        assert c.queen.registry.workers["w1"].in_flight == 0


async def test_infer_of_an_unknown_model_or_a_dying_worker_fails_with_a_code(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        assert (await c.run("Infer", model="none", prompt="x"))["error"]["code"] == "model_not_found"
        engine.script = Script(tokens=5, die_after=2)
        assert (await c.run("Infer", model=MODEL, prompt="x"))["error"]["code"] == "unreachable"
        body = '{"error": {"message": "too long", "code": "context_length_exceeded"}}'
        engine.script = Script(raw=f"HTTP/1.1 400 X\r\nContent-Length: {len(body)}\r\n\r\n{body}")
        assert (await c.run("Infer", model=MODEL, prompt="x"))["error"]["code"] == "context_length_exceeded"
