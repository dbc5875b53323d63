# SPDX-License-Identifier: GPL-3.0-or-later
"""What a routing decision costs: `python -m tests.bench.routing`. Medians in microseconds, of one process.

Goals: choosing among 4 workers of a model under 10, among 100 of them, with thousands of others known, under 50.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from multidict import CIMultiDict, CIMultiDictProxy

from rbee.adapters import cel
from rbee.contracts.configs import QueenConfig
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.contracts.openai import Peek
from rbee.core.spec import PolicySpec
from rbee.daemons.queen.admission.clients import Client
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.routing.router import Router

#: As OpenAI's Python client sends them.
HEADERS = {
    "Host": "127.0.0.1:7833",
    "Accept": "application/json",
    "User-Agent": "OpenAI/Python",
    "Connection": "keep-alive",
    "Content-Type": "application/json",
    "Content-Length": "900",
    "Authorization": "Bearer x",
    **{f"X-Stainless-{name}": "x" for name in ("Lang", "OS", "Arch", "Runtime", "Async", "Retry-Count")},
}
PATHS = ("/v1/models", "/v1/completions", "/v1/chat/completions")
POLICY = PolicySpec(filter="worker.busy < worker.slots && request.path != 'x'", score="-worker.load")


def registry(workers: int, others: int) -> Registry:
    """So many workers of the model `m`, and so many of fifty others."""
    known = Registry(time.monotonic)
    for i in range(workers + others):
        model = "m" if i < workers else f"o{i % 50}"
        beat = WorkerHeartbeat(
            worker_id=f"w{i}", hive_id="h", model=model, engine="e", worker_type="cpu", device="cpu",
            url=f"http://10.{i >> 16}.{(i >> 8) & 255}.{i & 255}:9300", status="ready", slots=4, requests_handled=9,
            context_length=8192, capabilities=("tools",), paths=PATHS,
        )  # fmt: skip
        known.heartbeat(beat)
    draw = random.Random(1)
    for worker in known.of_model("m").values():
        worker.in_flight = draw.randint(0, 2)
    return known


def asked(number: int, prefix: int | None) -> Asked:
    peek = Peek(model="m", stream=True, messages=3, prefix=prefix)
    return Asked(
        request_id=f"r{number}", path="/v1/chat/completions", name="m", models=("m",), peek=peek, size=900,
        client=Client(), headers=CIMultiDictProxy(CIMultiDict(HEADERS)), arrived=0.0, ends=None,
    )  # fmt: skip


def median(step: Callable[[Asked], object], requests: list[Asked]) -> float:
    times = []
    for request in requests:
        began = time.perf_counter_ns()
        step(request)
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1e3


def measure(known: Registry, policies: dict[str, PolicySpec], about: str) -> None:
    worker = known.of_model("m")["w0"]
    router = Router(known, QueenConfig(fleet="f", policies=policies), time.monotonic, compile=cel.compiler())
    many = 300 if policies else 5000
    prefixes: dict[str, list[int | None]] = {
        "no prefix": [None] * many,
        "new prefixes": list(range(many)),
        "one prefix": [7] * many,
    }
    for kind, given in prefixes.items():
        requests = [asked(i, prefix) for i, prefix in enumerate(given)]
        admit, choose, able = (median(f, requests) for f in (router.admit, router.choose, router.able))
        note = median(lambda r: router.note(r, "sent", "", worker), requests)
        told = f"admit {admit:6.2f}  choose {choose:8.2f}  able {able:8.2f}  note {note:6.2f}"
        print(f"{about}, {len(policies)} policies, {kind:12}: {told}")


def main() -> None:
    for workers, others in ((4, 0), (4, 2000), (100, 2000)):
        known = registry(workers, others)
        for policies in ({}, {"p": POLICY}):
            measure(known, policies, f"{workers:4} of {workers + others:5} workers")


if __name__ == "__main__":
    main()
