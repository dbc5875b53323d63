# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.fleet [--seconds 60]`: a queen of 1,000 hives and 10,000 workers.

She is a real process; hives and workers are simulated by another: every hive answers her handshake, and hives and
workers send heartbeats at their real pace over kept connections. Her CPU and memory are told, with and without a scrape
of /metrics and a status a second. Then the routing decision is timed by itself, on a registry of that size.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil
import uvloop
from aiohttp import web

from rbee.contracts import codec
from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import KnownHive, KnownModel, QueenConfig
from rbee.contracts.heartbeat import HiveHeartbeat, MonitorData, WorkerHeartbeat
from rbee.contracts.openai import peek
from rbee.core.records import SystemInfo
from rbee.daemons.queen.admission.clients import Client
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.routing.router import Router
from tests.bench.gateway.__main__ import free_port, pin, process, wait_for

HIVES, WORKERS, MODELS = 1_000, 10_000, 200
INTERVAL = 30.0
RESULTS = Path(__file__).parents[1] / "results" / "fleet.json"


def worker_beat(number: int, model: str = "") -> WorkerHeartbeat:
    return WorkerHeartbeat(
        worker_id=f"w{number}",
        hive_id=f"h{number % HIVES}",
        model=model or f"model-{number % MODELS}",
        engine="llama-cpp",
        worker_type="cuda",
        device="cuda:0",
        url=f"http://10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:9300",
        status="ready",
        slots=8,
        slots_busy=number % 8,
        context_length=8192,
        paths=("/v1/chat/completions", "/v1/completions"),
        capabilities=("tools",),
        started_at="2026-01-01T00:00:00Z",
    )


def hive_beat(number: int) -> HiveHeartbeat:
    monitor = MonitorData(cpu_usage_percent=12.5, ram_used_gb=30.0, ram_total_gb=64.0, uptime_seconds=1000)
    return HiveHeartbeat(hive_id=f"h{number}", timestamp="2026-01-01T00:00:00Z", monitor_data=monitor)


@contextmanager
def queen(hives_port: int) -> Iterator[tuple[str, psutil.Process]]:
    """Her URL and process."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        config = QueenConfig(
            fleet="bench",
            listen=f"127.0.0.1:{port}",
            hives=tuple(
                KnownHive(hive_id=f"h{n}", url=f"http://127.0.0.1:{hives_port}/h{n}", labels={"region": f"r{n % 5}"})
                for n in range(HIVES)
            ),
            models=tuple(KnownModel(name=f"model-{n}") for n in range(MODELS)),
        )
        path = Path(folder) / "queen.json"
        path.write_bytes(codec.encode(config))
        environment = {"HOME": folder, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}
        argv = [sys.executable, "-m", "rbee.cli.daemons", "queen", "--config", str(path)]
        log = (Path(folder) / "log").open("wb")
        with log, process(argv, 0, env=environment, stdout=log, stderr=log) as started:
            wait_for(port, started)
            yield f"http://127.0.0.1:{port}", psutil.Process(started.pid)


async def hives(port: int) -> web.AppRunner:
    """One server that is all hives."""
    system = SystemInfo(
        hostname="x", os="linux", arch="x86_64", cpu_cores=8, memory_total=1, memory_available=1, disk_free=1
    )

    async def capabilities(request: web.Request) -> web.Response:
        hive_id = request.match_info["hive"]
        found = Capabilities(
            hive_id=hive_id, fleet="bench", version="0", release="", config_digest="",
            started_at="2026-01-01T00:00:00Z", url=f"http://127.0.0.1:{port}/{hive_id}", system=system,
        )  # fmt: skip
        return web.Response(body=codec.encode(found), content_type="application/json")

    app = web.Application()
    app.router.add_get("/{hive}/capabilities", capabilities)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
    return runner


async def beat_on(url: str, http: aiohttp.ClientSession, seconds: float) -> int:
    """Heartbeats at their real pace; how many were sent."""
    bodies = [("worker", codec.encode(worker_beat(n))) for n in range(WORKERS)]
    bodies += [("hive", codec.encode(hive_beat(n))) for n in range(HIVES)]
    every = INTERVAL / len(bodies)
    began, sent, pending = time.perf_counter(), 0, set[asyncio.Task[None]]()

    async def one(kind: str, body: bytes) -> None:
        async with http.post(f"{url}/v1/{kind}-heartbeat", data=body) as answer:
            assert answer.status == 200, await answer.text()

    for kind, body in itertools.cycle(bodies):
        now = time.perf_counter() - began
        if now >= seconds:
            break
        if (ahead := sent * every - now) > 0:
            await asyncio.sleep(ahead)
        task = asyncio.ensure_future(one(kind, body))
        pending.add(task)
        task.add_done_callback(pending.discard)
        sent += 1
    await asyncio.gather(*pending)
    return sent


async def measured(url: str, her: psutil.Process, http: aiohttp.ClientSession, seconds: float) -> dict[str, float]:
    before = sum(her.cpu_times()[:2])
    sent = await beat_on(url, http, seconds)
    cpu = sum(her.cpu_times()[:2]) - before
    return {
        "beats_per_second": sent / seconds,
        "cpu_percent": 100 * cpu / seconds,
        "rss_mb": her.memory_info().rss / 1e6,
    }


async def look_on(url: str, http: aiohttp.ClientSession) -> None:
    """What a monitor and a dashboard ask, once a second."""
    while True:
        async with http.get(f"{url}/metrics") as answer:
            await answer.read()
        async with http.get(f"{url}/v1/models") as answer:
            await answer.read()
        await asyncio.sleep(1)


async def fleet(url: str, her: psutil.Process, hives_port: int, seconds: float) -> dict[str, dict[str, float]]:
    runner = await hives(hives_port)
    connector = aiohttp.TCPConnector(limit=50)
    async with aiohttp.ClientSession(connector=connector) as http:
        for number in range(WORKERS):
            async with http.post(f"{url}/v1/worker-heartbeat", data=codec.encode(worker_beat(number))) as answer:
                assert answer.status == 200
        while True:
            async with http.get(f"{url}/readyz") as answer:
                said = await answer.json()
            if said["hives_online"] == HIVES and said["workers_ready"] == WORKERS:
                break
            await asyncio.sleep(0.5)
        found = {"heartbeats": await measured(url, her, http, seconds)}
        looking = asyncio.ensure_future(look_on(url, http))
        found["heartbeats, scraped each second"] = await measured(url, her, http, seconds)
        looking.cancel()
    await runner.cleanup()
    return found


def decisions(of_model: int) -> dict[str, float]:
    """Microseconds of one routing decision, with `of_model` workers of the model that is asked for."""
    clock = time.monotonic
    registry = Registry(clock, stale_after=86_400)
    for number in range(WORKERS):
        registry.heartbeat(worker_beat(number, "busy" if number < of_model else ""))
    router = Router(registry, QueenConfig(fleet="bench"), clock)
    took = []
    for number in range(5_000):
        body = json.dumps(
            {"model": "busy", "messages": [{"role": "user", "content": f"question {number % 50}"}]}
        ).encode()
        asked = Asked(
            request_id=str(number), path="/v1/chat/completions", name="busy", models=("busy",), peek=peek(body),
            size=len(body), client=Client(), headers={}, arrived=clock(), ends=None,
        )  # fmt: skip
        began = time.perf_counter()
        worker = router.choose(asked)
        took.append((time.perf_counter() - began) * 1e6)
        assert worker is not None
    took.sort()
    return {"median_us": statistics.median(took), "p99_us": took[int(len(took) * 0.99)]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    pin(psutil.Process().pid, 1)
    port = free_port()
    with queen(port) as (url, her):
        found: dict[str, dict[str, float]] = uvloop.run(fleet(url, her, port, asked.seconds))
    for of_model in (4, 50, 1_000):
        found[f"decision, {of_model} workers of the model"] = decisions(of_model)
    for what, figures in found.items():
        print(f"{what}: " + ", ".join(f"{name} {figure:.1f}" for name, figure in figures.items()))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
