# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee jobs` as real processes, against a queen and a small hive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rbee.contracts.operations.hives import HiveCheckResponse
from rbee.core.errors import RbeeError
from rbee.daemons.jobs import JobContext
from tests.support.hive_tool import Typed
from tests.support.queen import Client, FakeHive, queen_config, queen_in
from tests.support.waiting import eventually
from tests.support.workers import ROOT

GO_ON = "Checked once more."


class Bench:
    def __init__(self, client: Client, root: Path) -> None:
        self.client = client
        self.go = asyncio.Event()
        names = {f"XDG_{x}_HOME": str(root / x) for x in ("CONFIG", "CACHE", "DATA", "STATE")}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RBEE_")}
        self.env = kept | names | {"NO_COLOR": "1", "RBEE_QUEEN_URL": client.url}

    async def begin(self, *words: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rbee.cli",
            "jobs",
            *words,
            env=self.env,
            cwd=ROOT,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )

    async def type(self, *words: str, said: bytes = b"") -> Typed:
        begun = await self.begin(*words)
        out, err = await asyncio.wait_for(begun.communicate(said), 60)
        return Typed(begun.returncode or 0, out.decode(), err.decode())


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    go = asyncio.Event()

    async def check(context: JobContext, request: Any) -> HiveCheckResponse:
        context.narrate("hive_check_start", "Checking.")
        context.narrate("hive_check_step", "Look \x1b[31mhere\x1b[0m.", "warning")
        await go.wait()
        context.narrate("hive_check_step", GO_ON)
        return HiveCheckResponse(hive_id="h1", message="All is well.")

    async def refuse(context: JobContext, request: Any) -> None:
        raise RbeeError("There is no such model.", code="model_not_found")

    hive = FakeHive(handlers={"HiveCheck": check, "ModelGet": refuse})
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(hive.run(tmp_path / "hive"))
        client = await stack.enter_async_context(queen_in(tmp_path / "queen", queen_config(hives=(hive.known,))))
        made = Bench(client, tmp_path)
        made.go = go
        yield made


async def test_a_job_is_submitted_watched_and_told_in_every_way(bench: Bench, tmp_path: Path) -> None:
    submitted = await bench.type("submit", "HiveCheck", "--field", "hive_id=h1")
    assert submitted.code == 0, submitted
    job_id = submitted.out.strip()
    assert job_id.startswith("job-")
    assert [x["job_id"] for x in (await bench.type("list", "-o", "json")).lines] == [job_id]

    async def told() -> bool:
        return "here" in (await bench.type("logs", job_id)).out

    await eventually(told)
    so_far = await bench.type("logs", job_id)
    assert (so_far.code, len(so_far.out.splitlines())) == (0, 2), so_far
    first, second = so_far.out.splitlines()
    assert first.endswith(" Checking.")
    assert "warning: Look" in second
    assert "\x1b" not in so_far.out
    running = await bench.type("status", job_id)
    assert {line.split()[0]: line.split()[1] for line in running.out.splitlines()}["state:"] == "running"
    assert "hive:" in running.out

    follower = await bench.begin("logs", job_id, "--follow", "--format", "json")
    assert follower.stdout is not None
    assert json.loads(await follower.stdout.readline())["event"] == "hive_check_start"
    bench.go.set()
    out, _ = await asyncio.wait_for(follower.communicate(), 60)
    assert follower.returncode == 0
    assert [json.loads(line)["message"] for line in out.decode().splitlines()][-1] == GO_ON

    ended = (await bench.type("status", job_id, "--format", "json")).lines[0]
    assert ended["state"] == "completed"
    assert ended["result"] == {"hive_id": "h1", "message": "All is well.", "checks": []}
    listed = await bench.type(
        "list", "--state", "completed", "--operation", "HiveCheck", "--hive", "h1", "--since", "1h"
    )
    assert [line.split()[:4] for line in listed.out.splitlines()] == [
        ["JOB", "OPERATION", "STATE", "HIVE"],
        [job_id, "HiveCheck", "completed", "h1"],
    ]
    assert (await bench.type("list", "--state", "failed")).out == "No jobs.\n"
    assert (await bench.type("list", "--since", "2999-01-01T00:00:00+02:00")).out == "No jobs.\n"
    late = await bench.type("cancel", job_id)
    assert (late.code, "already ended: completed" in late.err) == (1, True), late


async def test_who_waits_gets_the_result_and_its_exit_code(bench: Bench, tmp_path: Path) -> None:
    bench.go.set()
    done = await bench.type("submit", "HiveCheck", "-f", "-", "--wait", "-o", "json", said=b'{"hive_id": "h1"}')
    assert done.code == 0, done
    assert [x.get("event", "") for x in done.lines] == [
        "", "hive_check_start", "hive_check_step", "hive_check_step", "",
    ]  # fmt: skip
    assert done.lines[-1] == {"hive_id": "h1", "message": "All is well.", "checks": []}
    people = await bench.type("submit", "HiveCheck", "--wait")
    assert "All is well." in people.out
    assert GO_ON in people.err
    failed = await bench.type("submit", "ModelGet", "--field", "model_id=x", "--wait")
    assert (failed.code, "There is no such model." in failed.err) == (1, True), failed
    job_id = failed.err.splitlines()[0]
    followed = await bench.type("logs", job_id, "--follow")
    assert (followed.code, "There is no such model." in followed.err) == (1, True), followed
    assert "model_not_found" in (await bench.type("status", job_id)).out


async def test_a_cancel_reaches_the_hive_and_ctrl_c_leaves_the_job_alone(bench: Bench) -> None:
    waiter = await bench.begin("submit", "HiveCheck", "--wait", "-o", "json")
    assert waiter.stdout is not None
    job_id = json.loads(await waiter.stdout.readline())["job_id"]
    assert json.loads(await waiter.stdout.readline())["event"] == "hive_check_start"
    waiter.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(waiter.communicate(), 60)
    assert waiter.returncode == 130
    assert f"rbee jobs logs {job_id} --follow" in err.decode()
    assert (await bench.client.get(f"/v1/jobs/{job_id}"))["state"] == "running"
    cancelled = await bench.type("cancel", job_id)
    assert cancelled.out == f"{job_id} (HiveCheck): cancelled.\n", cancelled
    again = await bench.type("logs", job_id, "--follow")
    assert (again.code, "was cancelled" in again.err) == (1, True)


async def test_what_is_wrong_is_said_clearly(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for words, code, said in (
        (("submit", "HiveChek"), 1, "Did you mean 'HiveCheck'?"),
        (("submit", "zzz"), 1, "There is no operation 'zzz'"),
        (("submit", "HiveCheck", "--field", "hive_id"), 2, "write NAME=VALUE"),
        (("submit", "HiveCheck", "--field", "a..b=1"), 2, "write NAME=VALUE"),
        (("submit", "HiveCheck", "--field", "a=1", "--field", "a.b=1"), 2, "a has another value already"),
        (("submit", "HiveCheck", "--field", "hive=h1"), 1, "Did you mean 'hive_id'?"),
        (("submit", "Status", "--field", "hive=h1"), 1, "Status has no field 'hive'."),
        (("submit", "WorkerLogs", "--field", "worker_id=7", "--field", "tail=many"), 1, "tail"),
        (("submit", "ModelGet"), 1, "Add --field model_id=VALUE."),
        (("submit", "HiveCheck", "-f", str(tmp_path / "list.json")), 1, "no JSON object"),
        (("submit", "HiveCheck", "-f", str(tmp_path / "bytes")), 1, "is no text"),
        (("submit", "HiveCheck", "-f", str(tmp_path / "nowhere")), 1, "No such file"),
        (("status", "job-none"), 1, "There is no job 'job-none'"),
        (("logs", "job-none"), 1, "There is no job 'job-none'"),
        (("logs", "job-none", "--follow"), 1, "There is no job 'job-none'"),
        (("cancel", "job-none"), 1, "rbee jobs list"),
        (("status", "../v1/queen"), 1, "There is no job"),
        (("list", "--operation", "HiveChek"), 1, "Did you mean 'HiveCheck'?"),
        (("list", "--since", "yesterday"), 1, "`since` must be a time"),
        (("list", "--state", "odd"), 2, "odd"),
        (("list", "--queen-url", "http://127.0.0.1:1"), 1, "Nothing answers at"),
    ):
        typed = await bench.type(*words)
        assert (typed.code, said in typed.err) == (code, True), (words, typed)
        assert "Traceback" not in typed.err


async def test_a_long_list_is_read_page_by_page(bench: Bench) -> None:
    for _ in range(230):
        await bench.client.submit("QueenCheck")
    assert len((await bench.type("list", "--all", "-o", "json")).lines) == 230
    short = await bench.type("list", "--limit", "3")
    assert len(short.out.splitlines()) == 4
    assert "There are more" in short.err
