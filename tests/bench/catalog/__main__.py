# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.catalog [--models N] [--lists N]`: a hive with that many models, listed that often.

Each list is timed as a call (`Catalog.list()` in this process), as a job over HTTP to a hive of its own process (from
the POST until its stream's `[DONE]`, the result in it), and as `/capabilities`; beside it the processor time that the
hive spent on each, which a busy machine changes less. Its resident memory is read after its first and tenth list and
after the last, and the size of what it keeps of its jobs. The models' folders are old enough for their times to be
trusted, as those of a catalog that was not made a moment ago are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.paths import Paths, write_atomic
from rbee.contracts import codec
from rbee.core.records import ModelRecord
from tests.support.hive import machine, settings
from tests.support.ports import free_range

ROOT = Path(__file__).parents[3]
RESULTS = Path(__file__).parents[1] / "results" / "catalog.json"
SETTLED = 2.1


def fill(paths: Paths, count: int) -> None:
    """So many models, each a folder with a file and a full record; then wait until their times prove something."""
    for number in range(count):
        name = f"llama-{number:05}-Q4_K_M"
        folder = paths.models / name
        folder.mkdir(parents=True)
        (folder / "model.gguf").write_bytes(b"x" * 64)
        record = ModelRecord(
            id=name, name=name, path=str(folder / "model.gguf"), size_bytes=64, status="available",
            source=f"hf:bartowski/{name}/{name}.gguf", revision="main", commit="c" * 40, checksum="d" * 64,
            verified=True, architecture="llama", quantization="Q4_K_M", context_length=131072, layers=16, heads=32,
            kv_heads=8, embedding_length=2048, parameters=1_235_814_432, parameter_count="1.2B",
            tokenizer="gpt2/llama-bpe", chat_template=True, gguf_version=3, tensor_count=147, kv_count=35,
            added_at="2026-11-20T12:00:00.000Z", updated_at="2026-11-20T12:00:00.000Z",
            last_accessed="2026-11-20T12:00:00.000Z",
        )  # fmt: skip
        entry = {"artifact": record, "added_at": record.added_at, "last_accessed": record.last_accessed}
        (folder / "metadata.json").write_bytes(codec.encode_pretty(entry))
    time.sleep(SETTLED)


def figures(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: the first apart, for it reads all."""
    rest = sorted(s * 1000 for s in seconds[1:])
    return {
        "first_ms": round(seconds[0] * 1000, 1),
        "median_ms": round(statistics.median(rest), 1),
        "p95_ms": round(rest[int(len(rest) * 0.95)], 1),
        "worst_ms": round(rest[-1], 1),
    }


def call(paths: Paths, lists: int) -> dict[str, float]:
    catalog, taken = ModelCatalog(paths.models), []
    for _ in range(lists):
        began = time.perf_counter()
        catalog.list()
        taken.append(time.perf_counter() - began)
    return figures(taken)


async def timed(
    hive: psutil.Process, lists: int, one: Callable[[], Awaitable[int]], after: Callable[[int], None]
) -> dict[str, float]:
    taken, before = [], 0.0
    for number in range(lists):
        if number == 1:
            before = cpu(hive)
        began = time.perf_counter()
        size = await one()
        taken.append(time.perf_counter() - began)
        after(number)
    return {**figures(taken), "cpu_ms": round((cpu(hive) - before) / (lists - 1) * 1000, 1), "answer_bytes": size}


def cpu(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


async def over_http(url: str, pid: int, lists: int) -> dict[str, Any]:
    memory: dict[int, float] = {}
    hive = psutil.Process(pid)

    def look(number: int) -> None:
        if number in (0, 9, lists - 1):
            memory[number] = resident_mb(pid)

    async with aiohttp.ClientSession(url, read_bufsize=2**20) as session:  # nothing is parsed here

        async def job() -> int:
            async with session.post("/v1/jobs", json={"operation": {"ModelList": {}}}) as accepted:
                stream = (await accepted.json())["sse_url"]
            async with session.get(stream) as answer:
                body = await answer.read()
            assert body.endswith(b"}}\n\ndata: [DONE]\n\n"), body[-200:]
            assert len(body) > 100_000, body
            return len(body)

        async def capabilities() -> int:
            async with session.get("/capabilities") as answer:
                return len(await answer.read())

        async def metrics() -> int:
            async with session.get("/metrics") as answer:
                return len(await answer.read())

        found = {"ModelList job over HTTP": await timed(hive, lists, job, look)}
        found["/capabilities"] = await timed(hive, min(lists, 30), capabilities, lambda _: None)
        found["/metrics"] = await timed(hive, min(lists, 30), metrics, lambda _: None)
    told = {f"rss_mb_after_{n + 1}": mb for n, mb in sorted(memory.items())}
    return {**found, "hive": told}


async def bench(models: int, lists: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        paths = machine(Path(folder))
        # As the hive's process finds them: one folder `rbee` under each of the four.
        paths = Paths(**{name: getattr(paths, name) / "rbee" for name in ("config", "cache", "data", "state")})
        await asyncio.to_thread(fill, paths, models)
        found: dict[str, Any] = {"models": models, "lists": lists, "cores": os.cpu_count()}
        found["Catalog.list()"] = await asyncio.to_thread(call, paths, lists)
        hive = await started(paths, Path(folder))
        try:
            run = json.loads((paths.state / "hive.run.json").read_text())
            found |= await over_http(run["url"], hive.pid, lists)
            kept = [p for p in paths.data.rglob("hive.*") if p.is_file()] + list(paths.data.glob("hive.results/*"))
            found["hive"]["kept_mb"] = round(sum(p.stat().st_size for p in kept) / 1e6, 1)
            return found
        finally:
            hive.terminate()
            await hive.wait()


async def started(paths: Paths, folder: Path) -> asyncio.subprocess.Process:
    """A hive's process that answers."""
    write_atomic(paths.hive_config, codec.encode_pretty(settings(free_range())))
    names = {"XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data", "XDG_STATE_HOME": "state"}
    env = {**os.environ, **{key: str(folder / name) for key, name in names.items()}}
    argv = [sys.executable, "-m", "rbee.cli.daemons", "hive", "--config", str(paths.hive_config)]
    hive = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env=env)
    while not (paths.state / "hive.run.json").exists():
        if hive.returncode is not None:
            raise RuntimeError(f"the hive ended with {hive.returncode}")
        await asyncio.sleep(0.05)
    return hive


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.catalog", description=__doc__)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--lists", type=int, default=200)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the figures")
    asked = parser.parse_args()
    found = asyncio.run(bench(asked.models, asked.lists))
    asked.json.parent.mkdir(exist_ok=True)
    asked.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
