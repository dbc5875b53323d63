# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.gateway.memory [--requests 1000000]`: the queen's memory, every feature
on, after few requests and after many."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import uvloop

from . import load
from .__main__ import free_port, pin, process, wait_for
from .contenders import CONTENDERS, WHOLE, Setup

FIRST, STEP = 10_000, 50_000
RESULTS = Path(__file__).parents[1] / "results" / "memory.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway.memory", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    asked = parser.parse_args()
    pin(os.getpid(), 1)
    (queen,) = [one for one in CONTENDERS if one.name == WHOLE]
    found: dict[int, float] = {}
    engine_argv = [sys.executable, "-m", "tests.support.mock_engine"]
    with process(engine_argv, 1, stdout=subprocess.PIPE) as engine, tempfile.TemporaryDirectory() as folder:
        assert engine.stdout is not None and queen.argv is not None
        setup = Setup(int(engine.stdout.readline()), free_port(), Path(folder))
        with process(queen.argv(setup), 0) as started:
            wait_for(setup.port, started)
            done, began = 0, time.time()
            while done < asked.requests:
                many = FIRST if not done else min(STEP, asked.requests - done)
                uvloop.run(load.plain(setup.port, total=many))
                done += many
                found[done] = psutil.Process(started.pid).memory_info().rss / 1e6
            took = time.time() - began
    first, last = found[FIRST], found[max(found)]
    print(f"RSS after {FIRST:,} requests {first:.1f} MB, after {max(found):,} {last:.1f} MB (goal: within 5 MB)")
    print(f"most in between {max(found.values()):.1f} MB; {took:.0f} s")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
