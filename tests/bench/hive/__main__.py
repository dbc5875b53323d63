# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.hive [--seconds 30]`: a real `rbee-hive` process, loaded and idle; figures beside their goals.

The list of 10,000 models has a benchmark of its own, `tests.bench.catalog`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from rbee.contracts.operations.devices import DeviceList
from rbee.contracts.operations.hives import HiveCheck
from rbee.contracts.operations.models import ModelList
from rbee.contracts.operations.workers import WorkerProcessList
from tests.support.hive import HiveClient, client
from tests.support.hive_process import HiveProcess, hive_process, ready

from . import readers

RESULTS = Path(__file__).parents[1] / "results" / "hive.json"
JOBS = 200
ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    what: str
    value: float
    unit: str
    goal: str = ""
    held: bool | None = None


def rss(hive: HiveProcess) -> float:
    return float(hive.process.memory_info().rss / 1e6)


async def idle(hive: HiveProcess, asked: HiveClient, seconds: float) -> list[Figure]:
    """After its start, with nobody asking."""
    await ready(asked)
    await asyncio.sleep(3)
    before, began = sum(hive.process.cpu_times()[:2]), time.perf_counter()
    await asyncio.sleep(seconds)
    cpu = 100 * (sum(hive.process.cpu_times()[:2]) - before) / (time.perf_counter() - began)
    used = rss(hive)
    return [
        Figure(what=f"idle, CPU over {seconds:.0f} s", value=round(cpu, 3), unit="%", goal="< 0.5", held=cpu < 0.5),
        Figure(what="idle, RSS", value=round(used, 1), unit="MB", goal="< 80", held=used < 80),
    ]


async def jobs(hive: HiveProcess, asked: HiveClient) -> list[Figure]:
    """All submitted at once, each followed to its end on a stream of its own."""
    requests: list[Any] = [HiveCheck(), ModelList(), DeviceList(), WorkerProcessList()]
    took: list[float] = []

    async def one(n: int) -> bool:
        began = time.perf_counter()
        job = await asked.submit(requests[n % len(requests)])
        last = ""
        async for event in asked.events(job):
            last = event.get("event", "error")
        took.append(time.perf_counter() - began)
        return last == "result"

    began = time.perf_counter()
    ends = await asyncio.gather(*(one(n) for n in range(JOBS)))
    wall = time.perf_counter() - began
    done = sum(ends)
    return [
        Figure(what=f"{JOBS} jobs at once, completed", value=done, unit="jobs", goal=f"= {JOBS}", held=done == JOBS),
        Figure(what="  all of them", value=round(wall, 2), unit="s"),
        Figure(what="  one of them, median", value=round(statistics.median(took), 2), unit="s"),
        Figure(what="  RSS after", value=round(rss(hive), 1), unit="MB"),
    ]


async def streams() -> list[Figure]:
    """Pairs of rounds, with and without a stuck reader, in alternating order: the ratio is the median of theirs, for
    what else the machine does is much of a single one."""
    free: list[readers.Round] = []
    stuck: list[readers.Round] = []
    for n in range(ROUNDS):
        for beside in (False, True) if n % 2 else (True, False):
            (stuck if beside else free).append(await readers.measure(int(beside)))
    alone, with_it = (statistics.median(r.seconds for r in rounds) for rounds in (free, stuck))
    ratio = statistics.median(s.seconds / f.seconds for f, s in zip(free, stuck, strict=True))
    cpu = statistics.median(s.cpu / f.cpu for f, s in zip(free, stuck, strict=True))
    grown = statistics.median(r.rss_peak - r.rss_before for r in stuck)
    grown_alone = statistics.median(r.rss_peak - r.rss_before for r in free)
    done = min(r.complete for r in free + stuck)
    of = readers.READERS
    size = readers.EVENTS * readers.BYTES / 1e6
    return [
        Figure(what=f"{of} readers of {size:.0f} MB, complete", value=done, unit="", goal=f"= {of}", held=done == of),
        Figure(what="  time until all are done", value=round(alone, 2), unit="s"),
        Figure(what="  the same beside a stuck one", value=round(with_it, 2), unit="s"),
        Figure(what="  ratio", value=round(ratio, 2), unit="", goal="<= 1.15", held=ratio <= 1.15),
        Figure(what="  CPU of the daemon, ratio", value=round(cpu, 2), unit=""),
        Figure(what="  RSS grows by, without it", value=round(grown_alone, 1), unit="MB"),
        Figure(what="  RSS grows by, with it", value=round(grown, 1), unit="MB", goal="< 32", held=grown < 32),
    ]


async def measure(seconds: float) -> list[Figure]:
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as root, hive_process(Path(root)) as hive:
        async with client(hive.url) as asked:
            found += await idle(hive, asked, seconds)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            found += await jobs(hive, HiveClient(hive.url, session))
    return found + await streams()


def show(found: list[Figure]) -> None:
    for one in found:
        mark = "" if one.held is None else "held" if one.held else "NOT HELD"
        print(f"  {one.what:42} {one.value:10g} {one.unit:5} {one.goal:10} {mark}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hive", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to watch the idle hive")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the figures")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, shared by the hive and whoever asks it")
    found = asyncio.run(measure(asked.seconds))
    show(found)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    print(f"\nfigures: {asked.json}")


if __name__ == "__main__":
    main()
