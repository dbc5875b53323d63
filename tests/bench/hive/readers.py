# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty readers of one job, with and without one more that never reads."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

EVENTS, BYTES = 2_000, 8_000
READERS = 50


@dataclass(frozen=True, slots=True)
class Round:
    seconds: float
    cpu: float
    complete: int
    rss_before: float
    rss_peak: float


async def _read(host: str, port: int, job: str) -> tuple[int, bool]:
    """Events read, and whether the stream came to its end. By hand, so that the readers cost little."""
    reader, writer = await asyncio.open_connection(host, port, limit=2**20)
    writer.write(f"GET /v1/jobs/{job}/stream HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    count, left = 0, b""
    while data := await reader.read(2**18):
        whole = left + data
        count += whole.count(b"\nid: ") - left.count(b"\nid: ")
        left = whole[-64:]
        if b"data: [DONE]" in left:
            break
    writer.close()
    return count, b"data: [DONE]" in left


def _stuck(host: str, port: int, job: str) -> socket.socket:
    """A reader that asks and then reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, port))
    sock.sendall(f"GET /v1/jobs/{job}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock


async def _watch(process: psutil.Process, seen: list[float]) -> None:
    while True:
        seen.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(0.02)


async def measure(stuck: int) -> Round:
    """One job, read by all from its first event to its end."""
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as folder:
        argv = [sys.executable, "-m", "tests.bench.hive.talker", f"{folder}/jobs.db", str(EVENTS), str(BYTES)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as talker:
            assert talker.stdout is not None
            url = talker.stdout.readline().strip()
            host, _, port = url.removeprefix("http://").partition(":")
            async with aiohttp.ClientSession() as http:
                body: dict[str, object] = {"operation": {"HiveCheck": {}}}
                async with http.post(f"{url}/v1/jobs", json=body) as answer:
                    job = (await answer.json())["job_id"]
            held = [_stuck(host, int(port), job) for _ in range(stuck)]
            process = psutil.Process(talker.pid)
            readers = [asyncio.create_task(_read(host, int(port), job)) for _ in range(READERS)]
            await asyncio.sleep(0.5)  # all are there
            before = process.memory_info().rss / 1e6
            seen: list[float] = [before]
            watching = asyncio.create_task(_watch(process, seen))
            began, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
            talker.send_signal(signal.SIGUSR1)
            ends = await asyncio.gather(*readers)
            seconds = time.perf_counter() - began
            cpu = sum(process.cpu_times()[:2]) - cpu
            watching.cancel()
            for sock in held:
                sock.close()
            talker.terminate()
            talker.wait(30)
    complete = sum(done and count >= EVENTS for count, done in ends)
    return Round(seconds, cpu, complete, before, max(seen))
