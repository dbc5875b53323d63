# SPDX-License-Identifier: GPL-3.0-or-later
"""Which worker a request goes to, by a queen with mock workers: labels, affinity, capabilities, policies, explain."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from rbee.contracts import codec
from rbee.contracts.configs import KnownHive, KnownModel, QueenConfig
from rbee.contracts.decisions import DecisionRecord
from rbee.core.errors import RbeeError
from rbee.core.spec import PolicySpec
from rbee.core.spec_queen import KeySpec
from tests.support.queen import MODEL, Client, beat, queen_config, queen_in, workers
from tests.support.waiting import eventually

EU = KnownHive(hive_id="eu", url="http://127.0.0.1:9", labels={"region": "eu-west", "power": "quiet"})
US = KnownHive(hive_id="us", url="http://127.0.0.1:9", labels={"region": "us-east"})


#: Each conversation is one of its own unless a test says its messages.
count = itertools.count()


async def asked(client: Client, **more: Any) -> tuple[int, str, Any]:
    """Status, the worker that answered, and the body."""
    more.setdefault("messages", talk(f"conversation {next(count)}"))
    async with client.chat(**more) as answer:
        return answer.status, answer.headers.get("X-Rbee-Worker", ""), await answer.json()


async def went(client: Client, **more: Any) -> str:
    status, worker, body = await asked(client, **more)
    assert status == 200, body
    return worker


async def explained(client: Client, request_id: str) -> DecisionRecord:
    job = await client.run("RequestExplain", request_id=request_id)
    assert job["state"] == "completed", job
    return codec.convert(DecisionRecord, job["result"]["decision"])


def talk(text: str, turns: int = 1) -> list[dict[str, str]]:
    return [{"role": "system", "content": text}] + [{"role": "user", "content": f"turn {i}"} for i in range(turns)]


async def test_labels_that_a_request_wants_hold_always(tmp_path: Path) -> None:
    async with (
        queen_in(tmp_path, queen_config(hives=(EU, US))) as c,
        workers(c, "e1", hive_id="eu"),
        workers(c, "u1", "u2", hive_id="us"),
    ):
        for _ in range(4):
            assert await went(c, headers={"X-Rbee-Require": "region=eu-west,power=quiet"}) == "e1"
        assert {await went(c, headers={"X-Rbee-Require": "region=us-east"}) for _ in range(4)} == {"u1", "u2"}
        status, _, body = await asked(c, headers={"X-Rbee-Require": "region=mars", "X-Request-Id": "mars"})
        assert status == 503
        assert "region=mars is required, its hive has region=eu-west" in body["error"]["message"]
        status, _, body = await asked(c, headers={"X-Rbee-Require": "region"})
        assert (status, body["error"]["code"]) == (400, "invalid_header")
        decision = await explained(c, "mars")
        assert (decision.outcome, decision.worker_id) == ("refused", None)
        assert decision.request.require == {"region": "mars"}
        assert {x.id: x.excluded for x in decision.candidates}["u1"] == (
            "region=mars is required, its hive has region=us-east"
        )


async def test_a_conversation_stays_with_its_worker_until_that_is_too_busy(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2", "w3") as engines:
        first = await went(c, messages=talk("alpha"))
        for turns in (2, 3, 4):
            headers = {"X-Request-Id": f"turn{turns}"}
            assert await went(c, messages=talk("alpha", turns), headers=headers) == first
        assert await went(c, messages=talk("beta")) != first
        decision = await explained(c, "turn3")
        (chosen,) = [x for x in decision.candidates if x.id == first]
        assert (chosen.affine, chosen.terms["affinity"]) == (True, 1.0)
        assert decision.reason == "It answered for the same leading messages before; the best of 3."
        port = engines[int(first[1]) - 1].port
        await c.heartbeat(beat(first, port, slots_busy=4))
        assert await went(c, messages=talk("alpha", 5)) != first


async def test_what_a_worker_cannot_do_is_not_asked_of_it(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    async with (
        queen_in(tmp_path) as c,
        workers(c, "plain", capabilities=("other",)),
        workers(c, "able", capabilities=("tools", "vision")),
        workers(c, "embeds", paths=("/v1/embeddings",)),
    ):
        for _ in range(3):
            assert await went(c, tools=tools) == "able"
            assert await went(c, messages=image) == "able"
        body = {"model": MODEL, "input": "x"}
        async with c.http.post(f"{c.url}/v1/embeddings", json=body) as answer:
            assert answer.status == 200
            # Those that do not say what they serve may be asked too.
        assert {await went(c) for _ in range(6)} == {"plain", "able"}


async def test_a_long_prompt_goes_where_it_fits(tmp_path: Path) -> None:
    long = talk("x" * 60_000)
    async with (
        queen_in(tmp_path) as c,
        workers(c, "small", context_length=3000),
        workers(c, "large", context_length=131_072),
    ):
        for _ in range(3):
            assert await went(c, messages=long) == "large"
        await c.heartbeat(beat("large", c.queen.registry.workers["large"].upstream.port, status="failed"))
        # Nobody knows for certain that it does not fit.
        assert await went(c, messages=long) == "small"
        status, _, body = await asked(c, messages=talk("x" * 900_000))
        assert status == 503
        assert "context of 3000 tokens is too short" in body["error"]["message"]


async def test_an_alias_falls_back_in_its_order(tmp_path: Path) -> None:
    config = queen_config(models=(KnownModel(name="a"), KnownModel(name="b")), aliases={"best": ("a", "b")})
    async with queen_in(tmp_path, config) as c, workers(c, "b1", model="b"):
        assert await went(c, model="best") == "b1"
        async with workers(c, "a1", model="a"):
            assert {await went(c, model="best") for _ in range(3)} == {"a1"}
        assert await went(c, model="best", headers={"X-Request-Id": "gone"}) == "b1"
        decision = await explained(c, "gone")
        assert decision.worker_id == "b1"
        assert decision.request.models == ("a", "b")
        assert {x.id: x.excluded for x in decision.candidates}["b1"] is None
        assert decision.attempts or "a1" not in {x.id for x in decision.candidates if x.excluded is None}


async def test_a_key_s_labels_hold_for_all_of_its_requests(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hospital-key-0123456789\n")
    (tmp_path / "key").chmod(0o600)
    keys = {"hospital": KeySpec(name="hospital", key_file=str(tmp_path / "key"), require={"region": "eu-west"})}
    key = {"Authorization": "Bearer hospital-key-0123456789"}
    async with queen_in(tmp_path, queen_config(hives=(EU, US), keys=keys)) as c, workers(c, "u1", "u2", hive_id="us"):
        status, _, body = await asked(c, headers=key)
        assert status == 503
        assert "region=eu-west is required" in body["error"]["message"]
        status, _, body = await asked(c, headers={**key, "X-Rbee-Require": "region=us-east"})
        assert status == 503
        async with workers(c, "e1", hive_id="eu"):
            assert {await went(c, headers=key) for _ in range(3)} == {"e1"}
            await went(c, headers={**key, "X-Request-Id": "k"})
            decision = await explained(c, "k")
            assert (decision.request.key, decision.request.require) == ("hospital", {"region": "eu-west"})


def ruled(**policies: PolicySpec) -> QueenConfig:
    return queen_config(hives=(EU, US), policies=policies)


async def test_policies_filter_score_and_reject(tmp_path: Path) -> None:
    config = ruled(
        eu=PolicySpec(models=(MODEL,), filter="request.headers[?'x-team'].orValue('') != 'law' || worker.hive == 'eu'"),
        second=PolicySpec(score="worker.id == 'u2' ? 10.0 : 0.0"),
        none=PolicySpec(models=("other",), filter="false"),
        huge=PolicySpec(reject="request.max_tokens > 100", reason="At most 100 tokens, please."),
    )
    async with queen_in(tmp_path, config) as c, workers(c, "e1", hive_id="eu"), workers(c, "u1", "u2", hive_id="us"):
        for _ in range(3):
            assert await went(c, headers={"X-Team": "law"}) == "e1"
            assert await went(c, headers={"X-Request-Id": "r1"}) == "u2"
        decision = await explained(c, "r1")
        assert {x.id: x.terms for x in decision.candidates}["u2"]["second"] == 10.0
        assert decision.reason == "By the policy 'second' the best of 3."
        status, _, body = await asked(c, max_tokens=101, headers={"X-Request-Id": "r2"})
        assert (status, body["error"]["code"]) == (403, "policy_rejected")
        assert body["error"]["message"] == "At most 100 tokens, please."
        assert body["error"]["type"] == "permission_error"
        decision = await explained(c, "r2")
        assert (decision.outcome, decision.reason) == ("refused", "At most 100 tokens, please.")
        assert decision.notes == ("The policy 'huge' refused it.",)
        assert await went(c, max_tokens=100) == "u2"
        assert c.queen.router.failures == {}


async def test_nobody_left_by_a_policy_is_said(tmp_path: Path) -> None:
    async with queen_in(tmp_path, ruled(no=PolicySpec(filter="worker.id == 'x'"))) as c, workers(c, "w1", hive_id="us"):
        status, _, body = await asked(c)
        assert status == 503
        assert "w1: left out by the policy 'no'" in body["error"]["message"]


async def test_a_policy_that_fails_is_as_if_it_were_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ruled(power=PolicySpec(filter="worker.labels.power == 'quiet'"), bad=PolicySpec(filter="worker.bsuy > 1"))
    with caplog.at_level(logging.WARNING):
        async with queen_in(tmp_path, config) as c, workers(c, "e1", hive_id="eu"), workers(c, "u1", hive_id="us"):
            assert c.queen.router.policies.broken == {"bad": "filter: `worker` has no 'bsuy'."}
            chosen = {await went(c, headers={"X-Request-Id": f"f{i}"}) for i in range(4)}
            assert chosen == {"e1", "u1"}
            decision = await explained(c, "f0")
            (note,) = decision.notes
            assert note.startswith("The policy 'power' was left out: its filter: there is no key \"power\"")
            assert c.queen.router.failures["power"] >= 4
    said = [r.message for r in caplog.records if "'power'" in r.message]
    assert len(said) == 1, "at most once a minute"
    assert any("the policy 'bad' is left out" in r.message for r in caplog.records)


async def test_policies_are_taken_anew_by_a_reload(tmp_path: Path) -> None:
    said = [ruled()]
    async with queen_in(tmp_path, said[0], reread=lambda: said[0]) as c, workers(c, "w1", "w2", hive_id="us"):
        assert {await went(c) for _ in range(4)} == {"w1", "w2"}
        said[0] = ruled(one=PolicySpec(filter="worker.id == 'w2'"))
        c.queen.reload()
        assert {await went(c) for _ in range(4)} == {"w2"}
        said[0] = ruled()
        c.queen.reload()
        assert {await went(c) for _ in range(4)} == {"w1", "w2"}


async def test_what_is_told_of_a_request_has_no_secret_and_no_text(tmp_path: Path) -> None:
    secret = "sk-abcdefghijklmnopqrstuvwx"
    headers = {
        "X-Request-Id": "quiet",
        "X-Team": "law",
        "X-Api-Key": secret,
        "X-Session": "s3cr3t-session",
        "X-Said": f"Bearer {secret}",
        "Accept": "a/b",
    }
    async with queen_in(tmp_path, ruled(p=PolicySpec(score="1.0"))) as c, workers(c, "w1", hive_id="us"):
        await went(c, messages=talk("the text of it"), headers=headers, max_tokens=7)
        decision = await explained(c, "quiet")
        assert decision.request.headers == {"x-request-id": "quiet", "x-team": "law"}
        assert (decision.request.max_tokens, decision.request.messages) == (7, 2)
        told = codec.encode(decision).decode()
        assert not any(word in told for word in (secret, "s3cr3t", "the text of it"))


async def test_recorded_decisions_are_lines_of_json(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"):
        for i in range(3):
            await went(c, headers={"X-Request-Id": f"r{i}"})
        for query, wanted in (("", ["r0", "r1", "r2"]), ("?limit=2", ["r1", "r2"]), ("?limit=0", [])):
            async with c.http.get(f"{c.url}/v1/decisions{query}") as answer:
                assert answer.content_type == "application/x-ndjson"
                lines = [json.loads(line) for line in (await answer.text()).splitlines()]
            assert [line["request_id"] for line in lines] == wanted
        for bad in ("x", "-1", "", "9" * 20, "²"):
            async with c.http.get(f"{c.url}/v1/decisions", params={"limit": bad}) as answer:
                assert answer.status == 400
        job = await c.run("RequestExplain", request_id="nothing")
        assert job["error"]["code"] == "request_not_found"
        assert "request_explain" in await c.events(await c.submit("RequestExplain", request_id="r1"))


async def test_only_the_last_ones_are_kept_and_only_some_candidates(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "real"):
        for i in range(40):
            await c.heartbeat(beat(f"w{i:02d}", 20_000 + i, status="starting"))
        await went(c, headers={"X-Request-Id": "many"})
        decision = await explained(c, "many")
        assert len(decision.candidates) == 16
        assert decision.others == 25
        assert "real" in {x.id for x in decision.candidates}
        request = c.queen.router.decisions
        assert len(request) == 1


async def test_a_request_that_was_tried_elsewhere_says_so(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2") as engines:
        await engines[0].__aexit__(None, None, None)
        found = {await went(c, headers={"X-Request-Id": f"t{i}"}) for i in range(2)}
        assert found == {"w2"}
        decisions = [await explained(c, f"t{i}") for i in range(2)]
        (attempt,) = [a for d in decisions for a in d.attempts]
        assert attempt.startswith("w1: unreachable: ")


async def test_the_router_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"):
        status, _, body = await asked(c, headers={"X-Rbee-Require": ",".join(f"a{i}=b" for i in range(40))})
        assert (status, body["error"]["code"]) == (400, "invalid_header")
        with pytest.raises(RbeeError):
            c.queen.router.explain("nothing")
        await eventually(lambda: c.queen.metrics.active == 0)


async def test_a_job_that_asks_a_model_can_be_explained_too(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"):
        job = await c.run("Infer", model=MODEL, prompt="Hello")
        told = await c.run("RequestExplain", request_id=job["job_id"])
        decision = told["result"]["decision"]
        assert (decision["outcome"], decision["worker_id"], decision["request"]["key"]) == ("sent", "w1", "fleet")
