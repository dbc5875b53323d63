# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be seen of the queen from outside: numbers, the access log, traces, the dashboard."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from rbee.contracts.configs import KnownModel
from rbee.core.spec_queen import KeySpec, LimitsSpec
from tests.integration.test_traces import PARENT, Collector
from tests.support.queen import MODEL, Client, beat, queen_config, queen_in, workers
from tests.support.waiting import eventually

KEY = "alice-has-a-long-key"
DASHBOARD = Path(__file__).parents[2] / "dashboards" / "grafana.json"


async def scrape(client: Client) -> dict[str, float]:
    async with client.http.get(f"{client.url}/metrics") as answer:
        assert answer.status == 200
        lines = (await answer.text()).splitlines()
    return {s: float(n) for s, _, n in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def logged(root: Path) -> list[dict[str, Any]]:
    path = root / "state" / "access.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_numbers_are_by_model_and_worker(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1") as (engine,):
        for _ in range(3):
            async with c.chat() as answer:
                assert answer.status == 200
        async with c.chat(stream=True, mock={"tokens": 5}) as answer:
            await answer.read()
        async with c.chat("no-such-model") as answer:
            assert answer.status == 404
        for tokens, prompt in ((0, 0), (40, 7), (90, 9)):
            await c.heartbeat(beat("w1", engine.port, tokens_generated=tokens, prompt_tokens=prompt))
        # A process of that id that began anew counts from nothing again.
        later = "2026-02-01T00:00:00Z"
        await c.heartbeat(beat("w1", engine.port, tokens_generated=5, started_at=later, avg_tokens_per_sec=12.5))
        found = await scrape(c)
        who = f'model="{MODEL}",worker="w1"'
        assert found[f'rbee_queen_requests_total{{{who},status="200",end="completed"}}'] == 4
        assert found['rbee_queen_refused_total{code="model_not_found",status="404"}'] == 1
        assert found[f'rbee_queen_tokens_total{{{who},kind="completion"}}'] == 95
        assert found[f'rbee_queen_tokens_total{{{who},kind="prompt"}}'] == 9
        assert found[f"rbee_queen_tokens_per_second{{{who}}}"] == 12.5
        assert found[f"rbee_queen_worker_first_bytes_total{{{who}}}"] == 4
        for name in ("request", "first_byte", "queue", "overhead"):
            assert found[f'rbee_queen_{name}_seconds_count{{model="{MODEL}"}}'] == 4
            assert found[f'rbee_queen_{name}_seconds_bucket{{model="{MODEL}",le="+Inf"}}'] == 4
        assert found["rbee_queen_requests_active"] == 0
        assert not [series for series in found if series.startswith("rbee_queen_waits_total{")]
        assert found[f"rbee_queen_worker_slots{{{who}}}"] == 4
        c.queen.registry.forget("w1")
        gone = f'model="{MODEL}",worker="(gone)"'
        assert (await scrape(c))[f'rbee_queen_requests_total{{{gone},status="200",end="completed"}}'] == 4


async def test_series_are_bounded_whatever_clients_ask_for(tmp_path: Path) -> None:
    models = tuple(KnownModel(name=f"m{n}") for n in range(700))
    async with queen_in(tmp_path, queen_config(models=models)) as c, workers(c, "w1") as (engine,):
        for n in range(1_200):
            await c.heartbeat(beat(f"x{n}", engine.port, model=f"m{n % 700}", url=f"http://127.0.0.1:{2000 + n}"))
        for n in range(60):
            async with c.chat(f"nobody-{n}") as answer:
                assert answer.status == 404
            c.queen.metrics.done(f"m{n % 700}", f"x{n}", 200, "completed", 0.1, 0.1, 0.0)
        for n in range(3_000):  # more than the bounds of workers and of models together
            c.queen.metrics.done(f"m{n % 700}", f"x{n}", 200, "completed", 0.1, 0.1, 0.0)
        found = await scrape(c)
        names = {re.sub(r"\{.*", "", series) for series in found}
        of_one = {name: sum(series.startswith(name + "{") for series in found) for name in names}
        assert of_one["rbee_queen_requests_total"] <= 1_001 + 501
        assert of_one["rbee_queen_request_seconds_count"] <= 501
        assert not any("nobody" in series for series in found)
        total = sum(n for series, n in found.items() if series.startswith("rbee_queen_requests_total{"))
        assert total == 3_060


async def test_the_access_log_has_a_line_for_each_request_and_no_secret(tmp_path: Path) -> None:
    key = tmp_path / "alice"
    key.write_text(KEY)
    key.chmod(0o600)
    config = queen_config(
        keys={"alice": KeySpec(name="alice", key_file=str(key))}, limits=LimitsSpec(requests_per_minute=None)
    )
    async with queen_in(tmp_path, config) as c, workers(c, "w1"):
        said = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "mine"}
        async with c.chat("gpt", stream=True, headers=said, mock={"tokens": 4}) as answer:
            size = len(await answer.read())
        async with c.chat("nothing", headers={"X-Request-Id": "refused"}) as answer:
            assert answer.status == 404
        async with c.http.post(f"{c.url}/v1/chat/completions", data=b"{") as answer:
            assert answer.status == 400
        job = await c.run("Infer", model=MODEL, prompt="Hello")
        async with c.chat(mock={"die_after": 1}, stream=True, headers={"X-Request-Id": "cut"}) as answer:
            await answer.read()
        await eventually(lambda: len(logged(tmp_path)) >= 5)
        lines = logged(tmp_path)
        text = (tmp_path / "state" / "access.log").read_text()
    assert len(lines) == 5
    mine = next(line for line in lines if line["request_id"] == "mine")
    assert {k: mine[k] for k in ("key", "asked_for", "model", "worker", "hive", "stream", "status", "end")} == {
        "key": "alice", "asked_for": "gpt", "model": MODEL, "worker": "w1", "hive": "h1", "stream": True,
        "status": 200, "end": "completed",
    }  # fmt: skip
    assert mine["bytes_out"] > size
    assert mine["ms"] >= mine["first_byte_ms"] >= 0
    refused = next(line for line in lines if line["request_id"] == "refused")
    assert (refused["status"], refused["end"], refused["code"]) == (404, "refused", "model_not_found")
    assert next(line for line in lines if line["request_id"] == "cut")["end"] == "upstream_died"
    assert next(line for line in lines if line["request_id"] == job["job_id"])["worker"] == "w1"
    assert [line for line in lines if line.get("code") == "invalid_json"]
    assert KEY not in text
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", mine["time"])


async def test_a_reload_turns_the_access_log_on_and_off(tmp_path: Path) -> None:
    config = queen_config(access_log=False)
    async with queen_in(tmp_path, config, reread=lambda: queen_config(access_log=True)) as c, workers(c, "w1"):
        async with c.chat(headers={"X-Request-Id": "before"}) as answer:
            assert answer.status == 200
        c.queen.reload()
        async with c.chat(headers={"X-Request-Id": "after"}) as answer:
            assert answer.status == 200
    assert [line["request_id"] for line in logged(tmp_path)] == ["after"]


async def test_a_request_is_traced_under_its_callers_span(tmp_path: Path) -> None:
    collector = Collector()
    config = queen_config(traces=await collector.start())
    async with queen_in(tmp_path, config) as c, workers(c, "w1") as (engine,):
        async with c.chat(headers={"traceparent": PARENT}) as answer:
            assert answer.status == 200
        assert engine.seen[0].header("traceparent") == [PARENT]
        async with c.chat("nothing") as answer:
            assert answer.status == 404
    await collector.runner.cleanup()
    whole = [s for s in collector.spans if s.name == "POST /v1/chat/completions"]
    about = [{a.key: a.value.string_value or a.value.int_value for a in s.attributes} for s in whole]
    assert {a["http.response.status_code"] for a in about} == {200, 404}
    answered = next(s for s, a in zip(whole, about, strict=True) if a["http.response.status_code"] == 200)
    assert answered.trace_id.hex() in PARENT
    assert next(a for a in about if a["http.response.status_code"] == 200)["rbee.worker"] == "w1"
    assert [s.name for s in collector.spans if s.parent_span_id == answered.span_id] == ["worker"]


async def test_every_number_of_the_dashboard_is_there(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {t["expr"] for panel in dashboard["panels"] for t in panel["targets"]}
    asked.add(dashboard["templating"]["list"][1]["query"])
    names = {name for expr in asked for name in re.findall(r"rbee_queen_[a-z_]+", expr)}
    assert len(names) > 15
    async with queen_in(tmp_path) as c, workers(c, "w1"):
        async with c.chat() as answer:
            assert answer.status == 200
        async with c.http.get(f"{c.url}/metrics") as answer:
            text = await answer.text()
    told = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert {re.sub(r"_bucket$", "", name) for name in names} <= told
    used = {label for expr in asked for labels in re.findall(r"\{([^}]*)\}", expr) for label in labels.split(",")}
    assert all(label.split("=")[0].strip() in ("model", "kind", "status") for label in used)


async def test_those_that_had_to_wait_are_counted_by_how_it_ended(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", slots=1):

        async def ask(**headers: str) -> int:
            async with c.chat(stream=True, mock={"tokens": 4, "interval": 0.1}, headers=headers) as answer:
                await answer.read()
                return int(answer.status)

        said = await asyncio.gather(ask(), ask(), ask(**{"X-Request-Timeout": "0.05"}))
        assert sorted(said)[:2] == [200, 200]
        found = await scrape(c)
        ends = {k: n for k, n in found.items() if k.startswith("rbee_queen_waits_total")}
        assert ends['rbee_queen_waits_total{ended="entered"}'] >= 1
        assert sum(ends.values()) == 2
        assert found[f'rbee_queen_queue_seconds_sum{{model="{MODEL}"}}'] > 0
