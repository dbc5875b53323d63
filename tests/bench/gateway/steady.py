# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.gateway.steady [--seconds 60]`: 300 streams of 50 tokens/s, through nginx and the
queen with every feature on.

Every answer is compared byte for byte: an event that is lost, doubled or out of order ends the run. What is told is by
how much events came later after the one before than they were sent, and the memory before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import uvloop

from . import load
from .__main__ import cpu_seconds, free_port, pin, process, wait_for
from .contenders import CONTENDERS, WHOLE, Contender, Setup

STREAMS, RATE = 300, 50
RESULTS = Path(__file__).parents[1] / "results" / "steady.json"


def quantiles(late: Sequence[float]) -> dict[str, float]:
    """Of sorted seconds, in milliseconds."""
    return {f"p{share * 100:g}_ms": late[int((len(late) - 1) * share)] * 1e3 for share in (0.5, 0.99, 0.999, 1.0)}


def one(contender: Contender, engine: subprocess.Popen[str], engine_port: int, seconds: float) -> dict[str, float]:
    """One run with one gateway between; `direct` has none."""
    tokens = int(seconds * RATE)
    if contender.argv is None:
        return quantiles(uvloop.run(load.delays(engine_port, count=STREAMS, tokens=tokens, rate=RATE)))
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(engine_port, free_port(), Path(folder))
        with process(contender.argv(setup), 0) as started:
            wait_for(setup.port, started)
            uvloop.run(load.plain(setup.port, total=500))
            before, cpu, began = psutil.Process(started.pid).memory_info().rss, cpu_seconds(started.pid), time.time()
            late = uvloop.run(load.delays(setup.port, count=STREAMS, tokens=tokens, rate=RATE))
            return {
                **quantiles(late),
                "cpu_percent": 100 * (cpu_seconds(started.pid) - cpu) / (time.time() - began),
                "rss_before_mb": before / 1e6,
                "rss_after_mb": psutil.Process(started.pid).memory_info().rss / 1e6,
            }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway.steady", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    pin(os.getpid(), 1)
    found: dict[str, dict[str, float]] = {}
    engine_argv = [sys.executable, "-m", "tests.support.mock_engine"]
    with process(engine_argv, 1, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        engine_port = int(engine.stdout.readline())
        for contender in CONTENDERS:
            if contender.name in ("direct", "nginx", WHOLE) and not contender.missing(print):
                print(f"{contender.name}: {STREAMS} streams for {asked.seconds:g} s", file=sys.stderr)
                found[contender.name] = one(contender, engine, engine_port, asked.seconds)
    for name, figures in found.items():
        print(f"{name}: " + ", ".join(f"{what} {figure:.2f}" for what, figure in figures.items()))
    if "nginx" in found:
        more = found[WHOLE]["p99_ms"] - found["nginx"]["p99_ms"]
        print(f"queen's p99 beyond nginx's: {more:.2f} ms (goal: under 5)")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
