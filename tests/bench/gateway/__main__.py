# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.gateway [--quick]`: starts each gateway, loads them in turn, prints what they cost.

The gateway under load has one core, load and mock engine the other. CPU figures hold under noise, times don't.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop

from . import load
from .contenders import CONTENDERS, Contender, Setup


@dataclass(frozen=True)
class Size:
    """How much load a round is."""

    rounds: int
    requests: int
    large: int
    streams: int
    tokens: int
    firsts: int


QUICK = Size(rounds=2, requests=2_000, large=500, streams=300, tokens=100, firsts=60)
FULL = Size(rounds=4, requests=8_000, large=3_000, streams=300, tokens=250, firsts=200)

MEASURES = {
    "request": "CPU s per 1,000 requests",
    "request_32k": "same, 32 KiB prompts",
    "chunk": "CPU s per 1M chunks",
    "first_token_ms": "added ms to first token",
    "rss_mb": "RSS MB",
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children: to the nanosecond where the kernel tells, else as psutil has it."""
    total = 0.0
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        try:
            tasks = Path(f"/proc/{one.pid}/task").iterdir()
            total += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
        except (OSError, ValueError):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def pin(pid: int, core: int) -> None:
    """One core for the gateways and one for the rest, where there are two and the system lets us."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) > 1:
        psutil.Process(pid).cpu_affinity([cores[core]])


@contextlib.contextmanager
def process(argv: list[str], core: int, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Runs a command until the block ends."""
    started = subprocess.Popen(argv, text=True, **options)  # type: ignore[call-overload]
    try:
        pin(started.pid, core)
        yield started
    finally:
        started.kill()
        started.wait()
        if started.stdout:
            started.stdout.close()


def wait_for(port: int, started: subprocess.Popen[str], patience: float = 20) -> None:
    """Waits until something listens on `port`."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and started.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise SystemExit(f"{started.args!r} does not listen on {port}")


@dataclass(frozen=True)
class Running:
    """A contender that listens; `pid` is whose CPU time counts."""

    contender: Contender
    port: int
    pid: int


async def cost(running: Running, work: Awaitable[object], units: float) -> float:
    """CPU seconds for each of `units` of what `work` does."""
    before = cpu_seconds(running.pid)
    await work
    return (cpu_seconds(running.pid) - before) / units


async def measure(running: Running, size: Size) -> dict[str, float]:
    """One round with one contender."""
    port, share, exact = running.port, running.contender.share, not running.contender.rewrites
    requests, large, firsts = (max(16, int(n * share)) for n in (size.requests, size.large, size.firsts))
    count = max(4, int(size.streams * share))
    chunks = count * (size.tokens + 1) / 1e6
    streams = load.streams(port, count=count, tokens=size.tokens, rate=50, exact=exact)
    return {
        "request": await cost(running, load.plain(port, total=requests, exact=exact), requests / 1000),
        "request_32k": await cost(running, load.plain(port, total=large, prompt=32768, exact=exact), large / 1000),
        "chunk": await cost(running, streams, chunks),
        "first_token_ms": await load.first_token(port, total=firsts, exact=exact) * 1000,
        "rss_mb": psutil.Process(running.pid).memory_info().rss / 2**20,
    }


async def rounds(everyone: list[Running], size: Size, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Medians over interleaved rounds, by contender and measure; the time to the first token is what is added."""
    found: dict[str, list[dict[str, float]]] = {running.contender.name: [] for running in everyone}
    for running in everyone:
        few = max(16, int(300 * running.contender.share))
        await load.plain(running.port, total=few, exact=not running.contender.rewrites)
    for number in range(size.rounds):
        for running in everyone:
            say(f"round {number + 1}/{size.rounds}: {running.contender.name}")
            found[running.contender.name].append(await measure(running, size))
    medians = {
        name: {measure: statistics.median(one[measure] for one in results) for measure in MEASURES}
        for name, results in found.items()
    }
    base = medians["direct"]["first_token_ms"]
    for values in medians.values():
        values["first_token_ms"] -= base
    return medians


def ratios(medians: dict[str, dict[str, float]]) -> dict[str, float]:
    """What the goals speak of, for those contenders that ran."""
    found: dict[str, float] = {}
    for name in medians:
        if name not in ("splice", "queen", "queen, all on"):
            continue
        for peer, goal in (("vllm-router", "0.8"), ("sglang-router", "-"), ("LiteLLM", "0.02")):
            if peer in medians:
                key = f"{name}: CPU per request / {peer}'s (goal {goal})"
                found[key] = medians[name]["request"] / medians[peer]["request"]
        found[f"{name}: CPU per request / aiohttp relay's (goal 0.35)"] = (
            medians[name]["request"] / medians["aiohttp relay"]["request"]
        )
        if "nginx" in medians:
            for measure, goal in (("chunk", "1.2"), ("request", "-"), ("first_token_ms", "1.5")):
                key = f"{name}: {MEASURES[measure]} / nginx's (goal {goal})"
                found[key] = medians[name][measure] / medians["nginx"][measure]
    return found


def table(medians: dict[str, dict[str, float]]) -> str:
    """The medians, one line for each contender; below, what those of ours do with a request."""
    lines = [" | ".join([f"{'gateway':<14}", *MEASURES.values()])]
    for name, values in medians.items():
        cells = [f"{values[measure]:>{len(title)}.3f}" for measure, title in MEASURES.items()]
        lines.append(" | ".join([f"{name:<14}", *cells]))
    lines += [f"{one.name}: {one.does}" for one in CONTENDERS if one.does and one.name in medians]
    return "\n".join(lines)


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, without other people's gateways")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="these, besides direct")
    parser.add_argument("--json", type=Path, help="where to write the figures (default: a temporary file)")
    asked = parser.parse_args()
    size = QUICK if asked.quick else FULL
    chosen = [one for one in CONTENDERS if not asked.only or one.name in asked.only or one.argv is None]
    if asked.quick and not asked.only:
        chosen = [one for one in chosen if one.peer is None]
    for one in list(chosen):
        if why := one.missing(lambda line: print(line, file=sys.stderr)):
            print(f"without {one.name}: {why}", file=sys.stderr)
            chosen.remove(one)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pin(os.getpid(), 1)
        engine_argv = [sys.executable, "-m", "tests.support.mock_engine"]
        engine = stack.enter_context(process(engine_argv, 1, stdout=subprocess.PIPE))
        assert engine.stdout is not None
        engine_port = int(engine.stdout.readline())
        everyone: list[Running] = []
        for one in chosen:
            if one.argv is None:
                everyone.append(Running(one, engine_port, engine.pid))
                continue
            setup = Setup(engine_port, free_port(), folder / one.name.replace(" ", "-"))
            setup.dir.mkdir()
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if one.peer else {}
            started = stack.enter_context(process(one.argv(setup), 0, **quiet))
            wait_for(setup.port, started, one.patience)
            everyone.append(Running(one, setup.port, started.pid))
        medians = uvloop.run(rounds(everyone, size, lambda line: print(line, file=sys.stderr)))
    compared = ratios(medians) if "aiohttp relay" in medians else {}
    print(table(medians))
    for what, ratio in compared.items():
        print(f"{what}: {ratio:.2f}")
    out = asked.json or Path(tempfile.gettempdir()) / "rbee-bench-gateway.json"
    out.write_text(json.dumps({"quick": asked.quick, "medians": medians, "ratios": compared}, indent=2))
    print(f"figures: {out}")


if __name__ == "__main__":
    main()
