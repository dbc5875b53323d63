# SPDX-License-Identifier: GPL-3.0-or-later
"""`/v1/models`: what clients may ask for, as far as it is, and what it can."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rbee.adapters.secrets import Token
from rbee.contracts.configs import KnownHive, KnownModel, KnownWorker
from rbee.core.records import ModelRecord
from rbee.core.spec import WorkerOptions
from rbee.core.spec_queen import KeySpec
from tests.support.queen import MODEL, Client, FakeHive, beat, queen_config, queen_in, workers
from tests.support.waiting import eventually

CHAT = ("/v1/chat/completions", "/v1/completions", "/v1/a-path-of-tomorrow")


async def about(client: Client, name: str) -> Any:
    """What `/v1/models/{name}` says under `rbee`; the list must say the same."""
    one = await client.get(f"/v1/models/{name}")
    client.queen.models.configure(client.queen.config)  # a list just made may be given out again
    (listed,) = [m for m in (await client.get("/v1/models"))["data"] if m["id"] == name]
    assert listed == one
    assert {"id", "object", "created", "owned_by"} <= set(one)
    return one["rbee"]


async def test_a_model_that_answers(tmp_path: Path) -> None:
    async with (
        queen_in(tmp_path) as c,
        workers(c, "w1", paths=CHAT, capabilities=("tools",), context_length=2048),
        workers(c, "w2", paths=CHAT, context_length=8192, slots=2),
    ):
        said = await about(c, MODEL)
        assert said == {
            "state": "ready",
            "workers": 2,
            "slots": 6,
            "context_length": 8192,
            "capabilities": ["chat", "completions", "tools"],
        }
        one = await c.get(f"/v1/models/{MODEL}")
        assert (one["context_length"], one["max_model_len"], one["owned_by"]) == (8192, 8192, "rbee")
        assert await about(c, "gpt") == {**said, "alias_of": [MODEL]}


async def test_models_that_do_not_answer_say_why(tmp_path: Path) -> None:
    cold = KnownWorker(
        worker_id="v-1", spec_name="v", model="vectors", hive_id="h1", worker_type="cpu", engine="llama-cpp",
        options=WorkerOptions(task="embed", context_length=1024), on_demand=True,
    )  # fmt: skip
    models = tuple(KnownModel(name=n) for n in ("vectors", "nobody", "broken", "Mixed/Case:Q4"))
    config = queen_config(models=models, workers=(cold,), aliases={"best": ("nobody", "vectors"), "all": ("best",)})
    async with queen_in(tmp_path, config) as c:
        await c.heartbeat(beat("w1", 9, model="loads", status="starting", progress=0.25, slots=1))
        await c.heartbeat(beat("w2", 9_001, model="broken", status="failed", reason="The file is hurt."))
        said = await about(c, "vectors")
        assert said == {
            "state": "cold", "workers": 0, "slots": 0, "context_length": 1024, "capabilities": ["embeddings"],
        }  # fmt: skip
        assert (await about(c, "nobody"))["state"] == "no_worker"
        loads = await about(c, "loads")
        assert (loads["state"], loads["progress"], loads["workers"]) == ("loading", 0.25, 0)
        broken = await about(c, "broken")
        assert (broken["state"], broken["error"]) == ("no_worker", "The file is hurt.")
        # The first of them that could answer, were it asked.
        for alias in ("best", "all"):
            assert await about(c, alias) == {**said, "alias_of": ["nobody", "vectors"]}
        assert (await c.get("/v1/models/Mixed/Case:Q4"))["id"] == "Mixed/Case:Q4"
        async with c.http.get(f"{c.url}/v1/models/mixed/case:q4") as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (404, "model_not_found")
            assert "Mixed/Case:Q4" in error["message"]


async def test_a_worker_that_comes_or_goes_is_seen_at_once(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        assert (await about(c, MODEL))["state"] == "ready"
        await c.heartbeat(beat("w1", engine.port, status="stopping"))
        assert (await about(c, MODEL))["state"] == "no_worker"


async def created(client: Client, name: str) -> int:
    await about(client, name)
    return int((await client.get(f"/v1/models/{name}"))["created"])


async def test_a_model_is_known_since_its_file_came(tmp_path: Path) -> None:
    old, new = (
        ModelRecord(
            id=MODEL, name=MODEL, path="/m", size_bytes=1, status="available", added_at=f"2026-0{n}-01T00:00:00Z"
        )
        for n in (1, 2)
    )
    one, two = FakeHive(hive_id="h1", models=[new]), FakeHive(hive_id="h2", models=[old])
    async with one.run(tmp_path), two.run(tmp_path):
        config = queen_config(hives=(one.known, two.known), models=(KnownModel(name=MODEL), KnownModel(name="no-file")))
        before = int(time.time())
        told = [config]
        async with queen_in(tmp_path, config, reread=lambda: told[-1]) as c:
            await eventually(lambda: all(h.capabilities for h in c.queen.hives.by_id.values()))
            assert await created(c, MODEL) == 1767225600
            assert await created(c, "gpt") == 1767225600
            since = await created(c, "no-file")
            assert before <= since <= time.time(), "since the queen was told of it"
            async with workers(c, "w1", started_at="2025-01-01T00:00:00Z"):
                assert await created(c, MODEL) == 1767225600, "whoever runs it"
            told.append(replace(config, hives=(one.known,)))
            c.queen.reload()
            assert await created(c, MODEL) == 1769904000
            assert await created(c, "no-file") == since


async def test_a_model_without_a_file_is_known_since_its_first_worker(tmp_path: Path) -> None:
    silent = KnownHive(hive_id="h1", url="http://127.0.0.1:1")
    async with queen_in(tmp_path, queen_config(hives=(silent,))) as c:
        await c.heartbeat(beat("w1", 9001, model="mine", started_at="2026-01-01T00:00:00.000Z"))
        assert await created(c, "mine") == 1767225600
        await c.heartbeat(beat("w1", 9001, model="mine", started_at="2026-03-01T00:00:00.000Z"))
        await c.heartbeat(beat("w2", 9002, model="mine", started_at=""))
        assert await created(c, "mine") == 1767225600, "the same at each call"
        await c.heartbeat(beat("w3", 9003, model="odd", started_at="long ago"))
        assert await created(c, "odd") == 0


async def test_the_list_is_for_whoever_may_ask_the_models(tmp_path: Path) -> None:
    token, key = Token("the-secret-of-the-fleet"), "a-key-of-its-own"
    (tmp_path / "key").write_text(key)
    (tmp_path / "key").chmod(0o600)
    config = queen_config(listen="0.0.0.0:0", keys={"app": KeySpec(name="app", key_file=str(tmp_path / "key"))})
    async with queen_in(tmp_path, config, token) as c:
        for path in ("/v1/models", f"/v1/models/{MODEL}"):
            for headers in ({}, {"x-api-key": "wrong"}):
                async with c.http.get(f"{c.url}{path}", headers=headers) as answer:
                    assert (answer.status, (await answer.json())["error"]["type"]) == (401, "authentication_error")
            for headers in (token.header, {"x-api-key": key}, {"Authorization": f"Bearer {key}"}):
                async with c.http.get(f"{c.url}{path}", headers=headers) as answer:
                    assert answer.status == 200
