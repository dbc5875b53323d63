# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that are read again under load, workers that come and go with their hives, clients that vanish."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from rbee.contracts import codec
from rbee.contracts.configs import KnownModel, QueenConfig
from rbee.contracts.operations.workers import WorkerProcessDeleteResponse, WorkerRestartResponse
from rbee.core.errors import RbeeError
from rbee.core.spec import PolicySpec
from rbee.core.spec_queen import KeySpec, LimitsSpec
from rbee.daemons.jobs import JobContext
from rbee.daemons.queen.known.registry import Registry
from tests.support.mock_engine import MockEngine, Script, event
from tests.support.ports import free_port
from tests.support.queen import MODEL, Client, FakeHive, beat, queen_config, queen_in, record, workers
from tests.support.waiting import eventually

TOKENS = 60
WHOLE = b"".join(event(i) for i in range(TOKENS)) + b"data: [DONE]\n\n"


async def read(c: Client, **mock: Any) -> bytes:
    async with c.chat(stream=True, mock={"tokens": TOKENS, "interval": 0.02, **mock}) as answer:
        assert answer.status == 200, await answer.text()
        return bytes(await answer.read())


def settings(number: int, key: Path) -> QueenConfig:
    """Others each time, in all that may change."""
    return queen_config(
        models=(KnownModel(name=MODEL), KnownModel(name=f"m{number}")),
        aliases={"gpt": (MODEL,), f"alias-{number}": (MODEL,)},
        policies={f"p{number}": PolicySpec(filter="true", score=f"{number}.0")},
        keys={f"k{number}": KeySpec(name=f"k{number}", key_file=str(key))},
        limits=LimitsSpec(queue=100 + number, queue_timeout=60.0 + number),
    )


async def test_reloads_drop_neither_streams_nor_those_that_wait(tmp_path: Path) -> None:
    """50 streams and 10 requests in the queue, 20 reloads: every byte is there."""
    key = tmp_path / "key"
    key.write_text("a-key-of-a-client-0123456789")
    key.chmod(0o600)
    now = [settings(0, key)]
    async with queen_in(tmp_path, now[0], reread=lambda: now[0]) as c, workers(c, "w1", "w2", slots=25):
        streams = [asyncio.create_task(read(c)) for _ in range(50)]
        await eventually(lambda: sum(w.in_flight for w in c.queen.registry.workers.values()) == 50)
        queued = [asyncio.create_task(read(c)) for _ in range(10)]
        await eventually(lambda: c.queen.metrics.active == 60)
        for number in range(1, 21):
            now[0] = settings(number, key)
            async with c.http.post(f"{c.url}/v1/queen/reload", json={}) as answer:
                assert answer.status == 200, await answer.text()
            names = {m["id"] for m in (await c.get("/v1/models"))["data"]}
            assert {f"m{number}", f"alias-{number}"} <= names and f"m{number - 1}" not in names
        assert sum(not s.done() for s in streams) > 0  # they were there all the time
        assert set(await asyncio.gather(*streams, *queued)) == {WHOLE}
        assert all(w.in_flight == 0 for w in c.queen.registry.workers.values())


async def test_a_reload_that_one_part_refuses_changes_nothing(tmp_path: Path) -> None:
    now = [queen_config()]
    async with queen_in(tmp_path, now[0], reread=lambda: now[0]) as c, workers(c, "w1"):
        now[0] = queen_config(
            aliases={"other": (MODEL,)}, keys={"k": KeySpec(name="k", key_file=str(tmp_path / "not-there"))}
        )
        with pytest.raises(RbeeError):
            c.queen.reload()
        async with c.chat("gpt") as answer:
            assert answer.status == 200
        async with c.chat("other") as answer:
            assert answer.status == 404


async def test_workers_of_hives_that_are_not_of_the_fleet_are_ignored(tmp_path: Path) -> None:
    hive = FakeHive(port=free_port())
    now = [queen_config(hives=(hive.known,))]
    async with hive.run(tmp_path), queen_in(tmp_path, now[0], reread=lambda: now[0]) as c, MockEngine() as engine:
        url = f"{c.url}/v1/worker-heartbeat"

        async def say(hive_id: str) -> str:
            body = codec.encode(beat("w1", engine.port, hive_id=hive_id))
            async with c.http.post(url, data=body) as answer:
                return str((await answer.json())["status"])

        assert await say("h9") == "ignored"
        assert await say("h1") == "ok"
        now[0] = queen_config()  # the last hive is taken away
        c.queen.reload()
        assert c.queen.registry.workers == {}
        assert await say("h1") == "ignored"


def test_a_goodbye_that_comes_late_brings_nobody_back() -> None:
    registry = Registry(lambda: 0.0)
    registry.heartbeat(beat("w1", 1))
    registry.forget("w1")
    assert registry.heartbeat(beat("w1", 1, status="stopping")) is None
    assert registry.workers == {}


def test_one_that_is_held_is_brought_back_by_nobody_else() -> None:
    registry = Registry(lambda: 0.0)
    worker = registry.heartbeat(beat("w1", 1, hive_id="h2"))
    assert worker is not None
    registry.hold(worker, "quarantined")
    assert registry.discovered("h2", [record("w1", 1)]) == []
    registry.restore(worker)
    assert registry.why_not(worker) == "quarantined"
    registry.release(worker)
    assert registry.why_not(worker) is None


async def answered(c: Client) -> int:
    async with c.chat(stream=True) as answer:
        await answer.read()
        return int(answer.status)


async def hung(c: Client, engine: MockEngine) -> tuple[Any, asyncio.Task[int]]:
    """The only worker takes a request and sends nothing: it is quarantined, and the request waits for it."""
    engine.script = Script(hang=True)
    asking = asyncio.create_task(answered(c))
    worker = c.queen.registry.workers["w1"]
    await eventually(lambda: "quarantined" in str(c.queen.registry.why_not(worker)))
    return worker, asking


async def test_a_worker_that_was_only_slow_is_back_without_a_restart(tmp_path: Path) -> None:
    config = queen_config(limits=LimitsSpec(first_byte_timeout=1.0))
    async with queen_in(tmp_path, config) as c, workers(c, "w1") as (engine,):
        engine.next = [Script(hang=True)]  # and well for whoever asks next
        assert await answered(c) == 200  # it has waited
        assert c.queen.registry.why_not(c.queen.registry.workers["w1"]) is None
        assert (c.queen.quarantine.doubted, c.queen.quarantine.restarted) == (1, 0)


async def test_a_hung_workers_hive_is_asked_until_it_can(tmp_path: Path) -> None:
    """First it refuses, then it starts the worker anew; a heartbeat of the same process brings nothing back."""
    asked: list[Any] = []

    async def restart(context: JobContext, request: Any) -> WorkerRestartResponse:
        asked.append(request)
        if len(asked) == 1:
            raise RbeeError("Not now.", code="busy")
        engine.script = None
        return WorkerRestartResponse(worker_id="w1", pid=1, status="ready")

    hive = FakeHive(handlers={"WorkerRestart": restart}, port=free_port())
    config = queen_config(limits=LimitsSpec(first_byte_timeout=1.0), hives=(hive.known,))
    async with hive.run(tmp_path), queen_in(tmp_path, config) as c, workers(c, "w1") as (engine,):
        worker, asking = await hung(c, engine)
        assert await c.heartbeat(beat("w1", engine.port)) == 200
        c.queen.prober.probe(worker)  # it says that it is well; that is not what is doubted
        assert "quarantined" in str(c.queen.registry.why_not(worker))
        await eventually(lambda: c.queen.registry.why_not(worker) is None, seconds=20)
        assert [(r.worker_id, r.drain) for r in asked] == [("w1", False)] * 2
        assert "sent nothing for 1 s" in asked[0].reason
        assert await asking == 200


async def test_a_worker_that_could_not_be_stopped_is_routed_to_again(tmp_path: Path) -> None:
    hold, ends = asyncio.Event(), [False]

    async def delete(context: JobContext, request: Any) -> WorkerProcessDeleteResponse:
        await hold.wait()
        if not ends[0]:
            raise RbeeError("It does not end.", code="stuck")
        return WorkerProcessDeleteResponse(message="gone", pid=1)

    hive = FakeHive(handlers={"WorkerProcessDelete": delete}, port=free_port())
    config = queen_config(hives=(hive.known,))
    async with hive.run(tmp_path), queen_in(tmp_path, config) as c, workers(c, "w1"):
        worker = c.queen.registry.workers["w1"]
        stopping = asyncio.create_task(c.run("WorkerStop", worker_id="w1"))
        await eventually(lambda: c.queen.registry.why_not(worker) == "being stopped")
        hold.set()
        job = await stopping
        assert (job["state"], job["error"]["code"]) == ("failed", "stuck")
        await eventually(lambda: c.queen.registry.why_not(worker) is None)
        ends[0] = True
        assert (await c.run("WorkerStop", worker_id="w1"))["state"] == "completed"
        assert "w1" not in c.queen.registry.workers


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
async def test_connections_of_clients_that_vanish_end_by_themselves(tmp_path: Path) -> None:
    """Options that the kernel acts by; on the side of the queen, of a connection that she has accepted."""
    async with queen_in(tmp_path) as c, c.http.get(f"{c.url}/health") as answer:
        assert answer.status == 200
        port = int(c.url.rpartition(":")[2])
        fds = [
            x.fd
            for x in psutil.Process().net_connections("tcp")
            if x.laddr.port == port and x.status == psutil.CONN_ESTABLISHED
        ]
        assert fds
        for fd in fds:
            with contextlib.closing(socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM)) as accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
