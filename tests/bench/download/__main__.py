# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.download [--quick] [--folder DIR]`: rbee's fetch beside `curl -o`, turn by turn.

Both write the same file to the same disk from the same local server; rbee also takes its SHA-256. Then the same from a
server that gives each connection only so much, where several connections are what makes the difference. The disk's
caches are what varies: judge by the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rbee.adapters.fetch import fetch
from rbee.adapters.fetch.download import Tuning
from rbee.adapters.sources import SourceFile

RESULTS = Path(__file__).parents[1] / "results" / "download.json"
BOUNDED = 25e6


@contextmanager
def server(file: Path, most: float | None = None) -> Iterator[str]:
    argv = [sys.executable, "-m", "tests.bench.download.server", str(file), *([str(most)] if most else [])]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/model.gguf"
    finally:
        process.terminate()
        process.wait()


def curl(url: str, target: Path) -> None:
    subprocess.run(["curl", "--silent", "--fail", "--output", str(target), url], check=True)


def with_rbee(url: str, target: Path, tuning: Tuning) -> None:
    asyncio.run(fetch(SourceFile(filename=target.name, url=url), target, None, lambda done, total: None, tuning=tuning))


def turns(runs: dict[str, Callable[[Path], None]], size: int, rounds: int, folder: Path) -> dict[str, float]:
    """Median MB/s of each, taken turn by turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            target = folder / "fetched.gguf"
            target.unlink(missing_ok=True)
            os.sync()
            began = time.monotonic()
            run(target)
            found[name].append(size / (time.monotonic() - began) / 1e6)
    return {name: round(statistics.median(speeds), 1) for name, speeds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be written to")
    asked = parser.parse_args()
    size, rounds = (200_000_000, 3) if asked.quick else (1_000_000_000, 7)
    folder = Path(tempfile.mkdtemp(prefix="rbee-download-", dir=asked.folder))
    one, four = Tuning(connections=1), Tuning()
    always = replace(four, fast=1e15, probe=0.0)
    try:
        file = folder / "served.gguf"
        with file.open("wb") as f:
            for _ in range(size // 1_000_000):
                f.write(os.urandom(1_000_000))
        with server(file) as url:
            free = turns(
                {
                    "curl": lambda target: curl(url, target),
                    "rbee": lambda target: with_rbee(url, target, four),
                    "rbee, one connection": lambda target: with_rbee(url, target, one),
                    "rbee, always four": lambda target: with_rbee(url, target, always),
                },
                size,
                rounds,
                folder,
            )
        with server(file, BOUNDED) as url:
            bounded = turns(
                {
                    "curl": lambda target: curl(url, target),
                    "rbee": lambda target: with_rbee(url, target, four),
                },
                size,
                1 if asked.quick else 3,
                folder,
            )
    finally:
        shutil.rmtree(folder)
    told = {
        "bytes": size,
        "rounds": rounds,
        "mb_per_second": {"free": free, f"{BOUNDED / 1e6:.0f} MB/s a connection": bounded},
        "of_curl": {
            "free": round(free["rbee"] / free["curl"], 2),
            "bounded": round(bounded["rbee"] / bounded["curl"], 2),
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
