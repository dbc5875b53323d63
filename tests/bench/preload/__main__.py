# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.preload [--mb 500] [--rounds 5]`: what preloading saves of a worker's start.

A real hive starts a real llama.cpp worker of a GGUF with valid tensors, in turn with nothing of the file in memory
and with the file preloaded. On a virtual machine "cold" is this machine's page cache only: its host may have the file
in memory still, and a real disk be slower.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from rbee.adapters import pagecache
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.preload import ModelPreload, ModelPreloadEvict, ModelPreloadStats
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerSpawn
from rbee.core.spec import WorkerOptions
from tests.support.hive import HiveClient, client, install_engine
from tests.support.hive_process import hive_process, place, ready
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.workers import llama_cpp

RESULTS = Path(__file__).parents[1] / "results" / "preload.json"
WIDTH = 1024
#: MB of one layer of that width.
LAYER = 4 * (WIDTH * WIDTH * 3 + 3 * WIDTH * 4 * WIDTH) / 1e6


async def start(hive: HiveClient) -> float:
    """Seconds from the request until the worker is ready; it is ended after."""
    began = time.perf_counter()
    worker = (
        await hive.run(WorkerSpawn(model="bench", options=WorkerOptions(context_length=128, parallel=1)))
    ).response
    took = time.perf_counter() - began
    await hive.run(WorkerProcessDelete(pid=worker.pid))
    return took


def read_as_an_engine(file: Path) -> float:
    """Seconds to read the whole file, page after page."""
    began = time.perf_counter()
    with file.open("rb") as f:
        while f.read(2**20):
            pass
    return time.perf_counter() - began


async def measure(root: Path, megabytes: int, rounds: int) -> dict[str, float]:
    source = write_tiny_gguf(root / "bench.gguf", width=WIDTH, layers=round(megabytes / LAYER), feed_forward=4 * WIDTH)
    cold, warm, loads, reads_cold, reads_warm = [], [], [], [], []
    locked = False
    install_engine(place(root), llama_cpp())
    with hive_process(root) as process:
        async with client(process.url) as hive:
            await ready(hive)
            await hive.run(ModelDownload(model=f"file:{source}", model_id="bench"))
            (model,) = (await hive.capabilities()).models
            file = Path(model.path)
            await start(hive)  # the engine's own files are in memory from here on
            for _ in range(rounds):
                os.sync()
                pagecache.drop(file)
                assert pagecache.resident(file) == 0, "the file can't be dropped from memory here"
                cold.append(await start(hive))
                pagecache.drop(file)
                reads_cold.append(read_as_an_engine(file))
                pagecache.drop(file)
                loaded = (await hive.run(ModelPreload(model_id="bench"))).response
                loads.append(loaded.preload_time_ms / 1000)
                locked = loaded.locked
                warm.append(await start(hive))
                reads_warm.append(read_as_an_engine(file))
                await hive.run(ModelPreloadEvict(model_id="bench"))
            stats = (await hive.run(ModelPreloadStats())).response
            rss = process.process.memory_info().rss / 1e6
    return {
        "model_mb": round(model.size_bytes / 1e6, 1),
        "locked": locked,
        "cold_start_s": round(statistics.median(cold), 3),
        "preloaded_start_s": round(statistics.median(warm), 3),
        "ratio": round(statistics.median(warm) / statistics.median(cold), 3),
        "cold_read_s": round(statistics.median(reads_cold), 3),
        "preloaded_read_s": round(statistics.median(reads_warm), 3),
        "preload_s": round(statistics.median(loads), 3),
        "hits": stats.hits,
        "misses": stats.misses,
        "hive_rss_mb": round(rss, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.preload", description=__doc__)
    parser.add_argument("--mb", type=int, default=500, help="size of the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the figures")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as root:
        found = asyncio.run(measure(Path(root), asked.mb, asked.rounds))
    print(f"medians of {asked.rounds} rounds in turn, {os.cpu_count()} cores")
    for name, value in found.items():
        print(f"  {name:20} {value}")
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps({"rounds": asked.rounds, **found}, indent=2) + "\n")
    print(f"\nfigures: {asked.json}")


if __name__ == "__main__":
    main()
