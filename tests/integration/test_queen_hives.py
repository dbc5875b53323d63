# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen and its hives: discovery, heartbeats, forwarded operations, cancels that reach the child."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

from rbee.adapters.secrets import Token
from rbee.contracts import codec
from rbee.contracts.configs import KnownHive, config_digest
from rbee.contracts.heartbeat import CapabilityChanges, HiveHeartbeat, MonitorData, WorkerChange
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.operations.hives import HiveCheckResponse
from rbee.core.errors import NotFound
from rbee.daemons.jobs import JobContext
from rbee.daemons.queen.known.hives import queen_url_for
from tests.support.mock_engine import MockEngine, Script
from tests.support.ports import free_port
from tests.support.queen import MODEL, FakeHive, beat, queen_config, queen_in, record
from tests.support.waiting import eventually

TOKEN = Token("the-secret-of-the-fleet")


def hive_beat(**changes: Any) -> bytes:
    monitor = MonitorData(cpu_usage_percent=1.0, ram_used_gb=1.0, ram_total_gb=2.0, uptime_seconds=1)
    said = HiveHeartbeat(hive_id="h1", timestamp="2026-01-01T00:00:00Z", monitor_data=monitor, **changes)
    return codec.encode(said)


async def test_a_queen_learns_the_fleet_from_its_hives(tmp_path: Path) -> None:
    async with MockEngine() as engine:
        hive = FakeHive(token=TOKEN, records=[record("w1", engine.port), record("w2", free_port(), status="failed")])
        async with hive.run(tmp_path):
            for _ in range(2):  # the second is a queen that restarted
                async with queen_in(tmp_path, queen_config(hives=(hive.known,)), TOKEN) as c:
                    await eventually(functools.partial(c.queen.registry.workers.get, "w1"))
                    async with c.chat(headers={"X-Request-Timeout": "10"}) as answer:
                        assert answer.status == 200
                        assert answer.headers["X-Rbee-Hive"] == "h1"
                    assert hive.asked[-1] == c.url
                    status = (await c.run("Status"))["result"]
                    assert [(h["hive_id"], h["status"]) for h in status["hives"]] == [("h1", "online")]
                    routable = {w["worker"]["worker_id"]: w["routable"] for w in status["workers"]}
                    assert routable == {"w1": True, "w2": False}


async def test_a_hive_that_is_down_is_tried_until_it_answers(tmp_path: Path) -> None:
    hive = FakeHive(port=free_port())
    async with queen_in(tmp_path, queen_config(hives=(hive.known,))) as c:
        await eventually(lambda: c.queen.hives.by_id["h1"].error)
        found = (await c.run("HiveList"))["result"]["hives"]
        assert (found[0]["status"], found[0]["last_seen"]) == ("unreachable", "")
        assert "does not answer" in found[0]["error"]
        async with hive.run(tmp_path):
            await eventually(lambda: c.queen.hives.by_id["h1"].capabilities)
            found = (await c.run("HiveList", status="online"))["result"]["hives"]
            assert [h["error"] for h in found] == [None]


async def test_a_hive_that_tells_nonsense_of_a_worker_is_still_asked(tmp_path: Path) -> None:
    async with MockEngine() as engine:
        records = [record("w0", 1, url="nonsense"), record("w1", engine.port)]
        hive = FakeHive(port=free_port(), records=records)
        bad = KnownHive(hive_id="h2", url=f"http://{'a' * 70}.example:1")  # no name may be so long
        config = queen_config(hives=(hive.known, bad))
        async with hive.run(tmp_path), queen_in(tmp_path, config, hive_interval=0.1) as c:
            await eventually(functools.partial(c.queen.registry.workers.get, "w1"))
            await eventually(lambda: len(hive.asked) >= 3)
            await eventually(lambda: c.queen.hives.by_id["h2"].error)
            assert all(h.task is not None and not h.task.done() for h in c.queen.hives.by_id.values())


async def test_a_reload_finds_new_hives_and_forgets_old_ones(tmp_path: Path) -> None:
    first, second = FakeHive(hive_id="h1"), FakeHive(hive_id="h2")
    async with first.run(tmp_path), second.run(tmp_path):
        settings = [queen_config(hives=(first.known,))]
        async with queen_in(tmp_path, settings[0], reread=lambda: settings[-1]) as c:
            await eventually(lambda: first.asked)
            for hives in ((first, second), (second,)):
                settings.append(queen_config(hives=tuple(h.known for h in hives), aliases={"new": (MODEL,)}))
                async with c.http.post(f"{c.url}/v1/queen/reload") as answer:
                    assert (await answer.json())["config_digest"] == config_digest(settings[-1])
                await eventually(lambda: second.asked)
                found = (await c.run("HiveList"))["result"]["hives"]
                assert [h["hive_id"] for h in found] == [h.hive_id for h in hives]
            assert len(first.asked) == len(second.asked) == 1
            assert {m["id"] for m in (await c.get("/v1/models"))["data"]} == {MODEL, "new"}
            moved = KnownHive(hive_id="h2", url=first.known.url)
            settings.append(queen_config(hives=(moved,)))
            c.queen.reload_quietly()
            await eventually(lambda: "is the hive 'h1'" in (c.queen.hives.by_id["h2"].error or ""))


async def test_a_silent_hive_is_asked_again(tmp_path: Path) -> None:
    hive = FakeHive(port=free_port())
    async with hive.run(tmp_path), queen_in(tmp_path, queen_config(hives=(hive.known,)), hive_interval=0.1) as c:
        await eventually(lambda: len(hive.asked) >= 3)
        assert set(hive.asked) == {c.url}


async def test_another_hive_at_the_address_is_not_taken_for_it(tmp_path: Path) -> None:
    async with FakeHive(hive_id="other").run(tmp_path) as hive:
        known = KnownHive(hive_id="h1", url=hive.known.url)
        async with queen_in(tmp_path, queen_config(hives=(known,))) as c:
            error = await eventually(lambda: c.queen.hives.by_id["h1"].error)
            assert "is the hive 'other'" in error


async def test_failed_workers_and_their_reasons_are_shown(tmp_path: Path) -> None:
    async with FakeHive().run(tmp_path) as hive, queen_in(tmp_path, queen_config(hives=(hive.known,))) as c:
        await eventually(lambda: c.queen.hives.by_id["h1"].capabilities)
        change = WorkerChange(action="failed", worker_id="w1", reason="the file is no GGUF")
        hive.records.append(record("w1", free_port(), status="failed", reason=change.reason))  # if it is asked again
        body = hive_beat(capability_changes=CapabilityChanges(workers=(change,)))
        async with c.http.post(f"{c.url}/v1/hive-heartbeat", data=body) as answer:
            assert answer.status == 200
        (shown,) = (await c.run("HiveList"))["result"]["hives"]
        assert "the file is no GGUF" in shown["error"]
        async with c.http.post(f"{c.url}/v1/hive-heartbeat", data=body.replace(b'"h1"', b'"h9"')) as answer:
            assert answer.status == 404
        async with c.http.post(f"{c.url}/v1/hive-heartbeat", data=b"{}") as answer:
            assert answer.status == 400


async def test_an_unloaded_worker_is_shown_and_gets_no_requests(tmp_path: Path) -> None:
    async with MockEngine() as engine:
        unloaded = record("w1", engine.port, status="unloaded", reason="had no request for 5 minutes", pid=0)
        hive = FakeHive(records=[unloaded])
        async with hive.run(tmp_path), queen_in(tmp_path, queen_config(hives=(hive.known,))) as c:
            known = await eventually(functools.partial(c.queen.registry.workers.get, "w1"))
            (shown,) = (await c.run("Status"))["result"]["workers"]
            assert (shown["worker"]["status"], shown["routable"]) == ("unloaded", False)
            assert shown["reason"] == "unloaded: had no request for 5 minutes"
            async with c.chat() as answer:
                assert answer.status == 503
            assert engine.requests == 0
            # Its port was given on: another worker there does not make it unknown, nor does time.
            registry = c.queen.registry
            registry.heartbeat(beat("w2", engine.port, started_at="2026-01-02T00:00:00Z"))
            assert registry.workers.keys() == {"w1", "w2"}
            known.last_seen -= 1e6
            assert known not in registry.sweep()
            # It is started again, elsewhere.
            again = record("w1", free_port(), started_at="2027-01-01T00:00:00Z")
            (probed,) = registry.discovered("h1", [again])
            assert (probed.status, probed.worker_id) == ("ready", "w1")


async def test_a_large_result_of_a_hive_is_told_and_kept_whole(tmp_path: Path) -> None:
    async def check(context: JobContext, request: Any) -> HiveCheckResponse:
        context.narrate("hive_check_start", "Started.")
        return HiveCheckResponse(hive_id=request.hive_id, message="grün " + "x" * 1_000_000)

    hive = FakeHive(token=TOKEN, handlers={"HiveCheck": check})
    async with hive.run(tmp_path), queen_in(tmp_path, queen_config(hives=(hive.known,)), TOKEN) as c:
        job = await c.run("HiveCheck")
        assert job["result"] == {"hive_id": "h1", "message": "grün " + "x" * 1_000_000, "checks": []}
        events = [json.loads(x[6:]) for x in (await c.events(job["job_id"])).splitlines() if x.startswith("data: {")]
        assert [e["event"] for e in events] == ["hive_check_start", "result"]
        assert events[1]["result"] == job["result"]


async def test_an_operation_of_a_hive_runs_there_and_is_told_here(tmp_path: Path) -> None:
    async def check(context: JobContext, request: Any) -> HiveCheckResponse:
        context.narrate("hive_check_start", "Started.", step=1)
        context.narrate("hive_check_complete", "Done; token=abcdefgh")
        return HiveCheckResponse(hive_id=request.hive_id, message="ok")

    hive = FakeHive(token=TOKEN, handlers={"HiveCheck": check})
    async with hive.run(tmp_path), queen_in(tmp_path, queen_config(hives=(hive.known,)), TOKEN) as c:
        job = await c.run("HiveCheck")  # the only hive is meant
        assert job["result"] == {"hive_id": "h1", "message": "ok", "checks": []}
        events = [json.loads(x[6:]) for x in (await c.events(job["job_id"])).splitlines() if x.startswith("data: {")]
        assert [e["event"] for e in events] == ["hive_check_start", "hive_check_complete", "result"]
        assert [e["actor"] for e in events] == ["hive/h1", "hive/h1", "queen"]
        assert {e["job_id"] for e in events} == {job["job_id"]}
        assert events[0]["step"] == 1
        assert events[1]["message"] == "Done; token=[redacted]"
        assert events[0]["child_job_id"] != job["job_id"]


async def test_a_cancel_reaches_the_child(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def forever(context: JobContext, request: Any) -> None:
        context.narrate("hive_check_start", "Started.")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    hive = FakeHive(handlers={"HiveCheck": forever})
    async with hive.run(tmp_path), queen_in(tmp_path, queen_config(hives=(hive.known,))) as c:
        job_id = await c.submit("HiveCheck", hive_id="h1")
        await eventually(lambda: hive.runner.running)
        async with c.http.delete(f"{c.url}/v1/jobs/{job_id}") as answer:
            assert (await answer.json())["state"] == "cancelled"
        await asyncio.wait_for(cancelled.wait(), 30)


async def test_a_cancel_while_the_child_is_being_made_reaches_it_too(tmp_path: Path) -> None:
    async def forever(context: JobContext, request: Any) -> None:
        await asyncio.Event().wait()

    hive = FakeHive(handlers={"HiveCheck": forever}, delay=asyncio.Event())
    async with hive.run(tmp_path), queen_in(tmp_path, queen_config(hives=(hive.known,))) as c:
        job_id = await c.submit("HiveCheck", hive_id="h1")
        await eventually(lambda: hive.runner.running)  # begun there, not yet told here
        cancelling = asyncio.create_task(c.http.delete(f"{c.url}/v1/jobs/{job_id}"))
        await eventually(lambda: c.queen.jobs._live[job_id].cancelled)
        hive.delay.set()
        async with await cancelling as answer:
            assert (await answer.json())["state"] == "cancelled"
        await eventually(lambda: not hive.runner.running)


async def test_errors_of_a_hive_keep_their_code(tmp_path: Path) -> None:
    async def refuse(context: JobContext, request: Any) -> None:
        raise NotFound("No such model.", code="model_not_found")

    hive = FakeHive(handlers={"ModelGet": refuse})
    async with hive.run(tmp_path), queen_in(tmp_path, queen_config(hives=(hive.known,))) as c:
        assert (await c.run("ModelGet", hive_id="h1", model_id="x"))["error"]["code"] == "model_not_found"
        assert (await c.run("ModelList", hive_id="h1"))["error"]["code"] == "not_served"
        error = (await c.run("ModelList", hive_id="h7"))["error"]
        assert error["code"] == "hive_not_found"
        assert "Known hives: h1" in error["error"]
    down = KnownHive(hive_id="h1", url=f"http://127.0.0.1:{free_port()}")
    async with queen_in(tmp_path, queen_config(hives=(down,))) as c:
        assert (await c.run("ModelList", hive_id="h1"))["error"]["code"] == "unreachable"


async def test_exactly_one_handler_for_every_operation(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c:
        handlers = c.queen.jobs.handlers
        assert set(handlers) == set(OPERATIONS)
        own = {name for name, handler in handlers.items() if "forward" not in handler.__module__}
        assert own == {name for name, kind in OPERATIONS.items() if "queen" in kind.served_by}


async def test_the_registry_is_told_by_worker_operations(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, MockEngine() as engine:
        assert (await c.run("WorkerList"))["result"] == {"workers": []}
        await c.heartbeat(beat("w1", engine.port, tokens_generated=7))
        (worker,) = (await c.run("WorkerList"))["result"]["workers"]
        assert worker["tokens_generated"] == 7
        assert (await c.run("WorkerGet", worker_id="w1"))["result"]["worker"] == worker
        assert (await c.run("WorkerGet", worker_id="w2"))["error"]["code"] == "worker_not_found"
        assert (await c.run("QueenCheck"))["result"]["message"]
        async with c.http.post(f"{c.url}/v1/worker-heartbeat", data=b'{"worker_id": 3}') as answer:
            assert answer.status == 400
        assert await c.heartbeat(beat("w3", 0)) == 400


async def test_a_loading_worker_found_by_discovery_becomes_ready_by_its_probe(tmp_path: Path) -> None:
    async with MockEngine(Script(raw="HTTP/1.1 503 X\r\nContent-Length: 22\r\n\r\n" + '{"status": "starting"}')) as e:
        hive = FakeHive(records=[record("w1", e.port, status="starting")])
        async with hive.run(tmp_path), queen_in(tmp_path, queen_config(hives=(hive.known,))) as c:
            worker = await eventually(lambda: c.queen.registry.workers.get("w1"))
            await eventually(lambda: worker.unreachable is None)
            assert worker.status == "starting"
            e.script = None
            await c.heartbeat(beat("w1", e.port, started_at="2026-01-01T00:00:01Z"))
            async with c.chat() as answer:
                assert answer.status == 200


def test_a_hive_is_told_an_address_that_it_can_reach() -> None:
    local, fleet = "http://127.0.0.1:7833", ["http://192.168.1.10:7833", "http://10.0.0.1:7833"]
    assert queen_url_for("http://127.0.0.1:7835", local, fleet) == local
    assert queen_url_for("http://localhost:7835", local, fleet) == local
    assert queen_url_for("http://192.168.1.20:7835", local, fleet[:1]) == fleet[0]
    assert queen_url_for("http://127.0.0.1:7835", local, []) == local
    assert queen_url_for("http://198.51.100.7:7835", local, fleet) in fleet
    assert queen_url_for("http://198.51.100.7:7835", local, []) is None
