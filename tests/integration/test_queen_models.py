# SPDX-License-Identifier: GPL-3.0-or-later
"""`/v1/models`: what clients may ask for, as far as it is, and what it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbee.adapters.secrets import Token
from rbee.contracts.configs import KnownModel, KnownWorker
from rbee.core.spec import WorkerOptions
from rbee.core.spec_queen import KeySpec
from tests.support.queen import MODEL, Client, beat, queen_config, queen_in, workers

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
