# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to a worker, on real processes: its engine dies, hangs or cannot load; it is killed; it drains."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import rbee.adapters.guard
from rbee.core.spec import WorkerOptions
from rbee.daemons.worker.supervisor import Limits
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.waiting import eventually
from tests.support.workers import ROOT, alive, healthy, llama_cpp, process, running, worker_config

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
LONG = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "stream": True}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf", context=32768)


def config(model: Path, **changes: Any) -> Any:
    return worker_config(model, **{"options": WorkerOptions(context_length=32768, parallel=1, threads=1), **changes})


async def test_an_engine_killed_in_a_stream_comes_back(model: Path) -> None:
    async with running(config(model)) as w:
        first = (await w.info())["engine_pid"]
        async with w.client.post(CHAT, json=LONG) as answer:
            await answer.content.readany()
            queued = asyncio.create_task(w.post(CHAT, LONG))
            await eventually(lambda: w.daemon.state.active == 2)
            os.kill(first, signal.SIGKILL)
            *_, last = (await answer.text()).strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        status, refusal = await queued
        assert (status, refusal["error"]["code"]) in ((503, "engine_died"), (503, "model_loading"))

        await eventually(lambda: w.daemon.state.engine_starts == 2)
        assert await healthy(w.client)
        info = await w.info()
        assert info["engine_pid"] != first
        assert (info["errors"], info["status"]) == (2, "ready")
        assert (await w.post(CHAT, {**LONG, "stream": False, "max_tokens": 2}))[0] == 200


WATCHFUL = Limits(look_every=0.2, look_timeout=0.2, backoff=0.05)


async def test_an_engine_that_hangs_is_killed_and_comes_back(model: Path) -> None:
    async with running(config(model), WATCHFUL) as w:
        first = (await w.info())["engine_pid"]
        async with w.client.post(CHAT, json=LONG) as answer:
            await answer.content.readany()
            os.kill(first, signal.SIGSTOP)
            *_, last = (await answer.text()).strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        await eventually(lambda: w.daemon.state.engine_starts == 2)
        assert not alive(first)
        assert (await w.post(CHAT, {**LONG, "stream": False, "max_tokens": 2}))[0] == 200


async def test_an_engine_at_work_is_not_hung_though_it_has_no_time_to_answer(model: Path) -> None:
    async with running(config(model), Limits(look_every=0.4, look_timeout=0.000001)) as w:
        first = (await w.info())["engine_pid"]
        async with w.client.post(CHAT, json={**LONG, "max_tokens": 3000}) as answer:
            text = await answer.text()
        assert text.endswith("data: [DONE]\n\n")
        assert (await w.info())["engine_pid"] == first


async def test_an_engine_killed_before_its_one_answer_is_a_503(model: Path) -> None:
    async with running(config(model)) as w:
        asked = asyncio.create_task(w.client.post(CHAT, json={**LONG, "stream": False}))
        await eventually(w.engine_slots_busy)
        os.kill((await w.info())["engine_pid"], signal.SIGKILL)
        answer = await asked
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert (await answer.json())["error"]["code"] == "engine_died"


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (0.5, "not within the file bounds, model is corrupted or incomplete"),
        (0.005, "failed to read key-value pairs"),
    ],
)
async def test_a_hurt_model_is_a_failure_with_its_reason(model: Path, keep: float, words: str) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: int(len(data) * keep)])
    async with running(config(model)) as w:
        async with w.client.get("/health") as answer:
            health = await answer.json()
            assert (answer.status, health["status"]) == (503, "failed")
        assert words in health["reason"]
        assert "llama-cpp could not load" in health["reason"]
        assert str(model) in health["reason"]
        status, refusal = await w.post(CHAT, LONG)
        assert (status, refusal["error"]["code"]) == (503, "worker_failed")


@pytest.mark.parametrize(
    ("how", "words"), [("dies", "the accelerator is on fire"), ("silent", "was not ready after 0.3 seconds")]
)
async def test_an_engine_that_never_starts_is_given_up(model: Path, how: str, words: str) -> None:
    script = str(ROOT / "tests" / "support" / "bad_engine.py")
    bad = dataclasses.replace(llama_cpp(), launcher=None, command=("{python}", script, how, "{port}"))
    limits = Limits(start_timeout=0.3 if how == "silent" else 20.0, restarts=2, backoff=0.01)
    async with running(config(model, provider=bad), limits, ready=False) as w:
        await eventually(lambda: w.daemon.state.phase == "failed")
        assert words in str(w.daemon.state.reason)
        assert "3 times" in str(w.daemon.state.reason)


async def test_while_it_loads_it_says_so(model: Path) -> None:
    script = str(ROOT / "tests" / "support" / "bad_engine.py")
    slow = dataclasses.replace(llama_cpp(), launcher=None, command=("{python}", script, "silent", "{port}"))
    async with running(config(model, provider=slow), ready=False) as w:
        await eventually(lambda: w.daemon.supervisor.loading_pid)
        async with w.client.get("/health") as answer:
            health = await answer.json()
            assert (answer.status, health["status"]) == (503, "starting")
            assert 0 <= health["progress"] < 1
        async with w.client.post(CHAT, json=LONG) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "model_loading")
            assert "Retry-After" in answer.headers


async def test_no_engine_outlives_its_killed_worker(model: Path, tmp_path: Path) -> None:
    async with process(config(model), tmp_path) as (child, w):
        await eventually(lambda: healthy(w.client))
        engine = (await w.info())["engine_pid"]
        assert alive(engine)
        child.kill()
        await eventually(lambda: not alive(engine))


async def test_sigterm_lets_a_stream_end_and_takes_no_more(model: Path, tmp_path: Path) -> None:
    async with process(config(model), tmp_path) as (child, w):
        await eventually(lambda: healthy(w.client))
        engine = (await w.info())["engine_pid"]
        async with w.client.post(CHAT, json={**LONG, "max_tokens": 1500}) as answer:
            await answer.content.readany()
            child.terminate()
            await eventually(lambda: stopping(w.client))
            async with w.client.post(CHAT, json=LONG) as refused:
                assert (refused.status, "Retry-After" in refused.headers) == (503, True)
            assert (await answer.text()).endswith("data: [DONE]\n\n")
        assert await asyncio.to_thread(child.wait, 20) == 0
        assert not alive(engine)


async def stopping(client: aiohttp.ClientSession) -> bool:
    async with client.get("/health") as answer:
        return bool((await answer.json())["status"] == "stopping")


async def test_a_second_sigterm_ends_at_once(model: Path, tmp_path: Path) -> None:
    async with process(config(model), tmp_path) as (child, w):
        await eventually(lambda: healthy(w.client))
        engine = (await w.info())["engine_pid"]
        async with w.client.post(CHAT, json=LONG) as answer:
            await answer.content.readany()
            child.terminate()
            await eventually(lambda: stopping(w.client))
            child.terminate()
            assert await asyncio.to_thread(child.wait, 20) == 128 + signal.SIGTERM
        await eventually(lambda: not alive(engine))


async def test_the_key_of_the_engine_is_in_no_command_line(model: Path) -> None:
    async with running(config(model)) as w:
        engine = w.daemon.supervisor.engine
        assert engine is not None
        assert engine.launch.key.encode() not in Path(f"/proc/{engine.pid}/cmdline").read_bytes()
        url = f"http://127.0.0.1:{engine.upstream.port}/v1/models"
        async with aiohttp.ClientSession() as stranger, stranger.get(url) as answer:
            assert answer.status == 401


def test_a_watching_guard_ends_its_command_when_its_input_does(tmp_path: Path) -> None:
    """The way of systems without PR_SET_PDEATHSIG."""
    tell = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"
    argv = [sys.executable, str(rbee.adapters.guard.__file__), "0", "--watch", "--", sys.executable, "-c", tell]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guard:
        assert guard.stdin is not None and guard.stdout is not None
        command = int(guard.stdout.readline())
        assert alive(command)
        guard.stdin.close()
        assert guard.wait(20) == 128 + signal.SIGKILL
        assert not alive(command)
