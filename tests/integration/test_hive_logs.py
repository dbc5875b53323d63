# SPDX-License-Identifier: GPL-3.0-or-later
"""WorkerLogs over HTTP, of real workers: the end of the log, what comes, and what has failed."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.paths import Paths
from rbee.contracts import defaults
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.workers import WorkerLogs, WorkerProcessDelete, WorkerSpawn
from rbee.core.errors import RbeeError
from rbee.core.lifecycle import Limits
from rbee.core.logs_window import LONGEST, moment
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from rbee.daemons.hive.workers.files import LOG_LIMIT, WorkerFolder
from tests.support.hive import HiveClient, client, install_engine, machine, settings
from tests.support.ports import free_range
from tests.support.spawning import bad_engine
from tests.support.waiting import eventually
from tests.support.workers import llama_cpp

pytestmark = pytest.mark.engine

SPAWN = WorkerSpawn(model="bee-tiny", worker_id="w1", options=WorkerOptions(context_length=128, parallel=1, threads=1))
TURNED = "2026-11-20T08:00:00Z the very last line before the log is turned over"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = machine(tmp_path)
    install_engine(made, llama_cpp())
    return made


@pytest.fixture
def log(paths: Paths) -> Path:
    return WorkerFolder.of(paths.workers, "w1").log


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    daemon = HiveDaemon(settings(free_range()), paths, None, Limits(look_every=0.2))
    await daemon.start()
    async with client(daemon.url) as asked:
        await asked.run(ModelDownload(model="builtin:bee-tiny"))
        yield asked
        for worker in (await asked.capabilities()).workers:
            await asked.run(WorkerProcessDelete(worker_id=worker.worker_id))
    await daemon.stop()


def append(log: Path, *lines: str) -> None:
    with log.open("a") as f:
        f.writelines(f"{line}\n" for line in lines)


def lines(events: list[dict[str, Any]]) -> list[str]:
    return [e["line"] for e in events if e["event"] == "worker_logs_line"]


class Follower:
    """Reads a following job's stream bit by bit."""

    def __init__(self, hive: HiveClient, job: str) -> None:
        self.hive = hive
        self.job = job
        self.stream = hive.events(job)
        self.events: list[dict[str, Any]] = []

    @classmethod
    async def of(cls, hive: HiveClient, **asked: Any) -> Follower:
        return cls(hive, await hive.submit(WorkerLogs(worker_id="w1", follow=True, **asked)))

    async def until(self, text: str) -> None:
        async for event in self.stream:
            self.events.append(event)
            if text in event.get("line", ""):
                return
        raise AssertionError(f"the stream ended without {text!r}")

    async def rest(self) -> None:
        self.events += [e async for e in self.stream]

    async def state(self) -> str:
        async with self.hive.session.get(f"{self.hive.url}/v1/jobs/{self.job}") as answer:
            return str((await answer.json())["state"])


async def test_a_workers_own_words(hive: HiveClient, log: Path) -> None:
    url = (await hive.run(SPAWN)).response.url
    told = await hive.run(WorkerLogs(worker_id="w1"))
    assert told.response.worker_id == "w1"
    assert told.response.lines == len(lines(told.events)) == len(log.read_text().splitlines())
    (event,) = (e for e in told.events if "listens on" in e["message"])
    assert event["message"] == f"worker w1 listens on {url}"
    assert event["line"].startswith('{"time":')
    assert (event["worker_id"], event["level"]) == ("w1", "info")
    assert moment(event["time"]) is not None
    assert (await hive.run(WorkerLogs(worker_id="w1", tail=0))).response.lines == 0
    assert lines((await hive.run(WorkerLogs(worker_id="w1", tail=1))).events) == lines(told.events)[-1:]


async def test_lines_are_harmless_bounded_and_without_secrets(hive: HiveClient, log: Path) -> None:
    await hive.run(SPAWN)
    with log.open("ab") as f:
        f.write(b"api_key=sk-abcdefghijklmnopqrstuvwx\n\x1b[31mred\x1b[0m \xff\x00bin\n" + b"x" * (LONGEST + 5) + b"\n")
    told = await hive.run(WorkerLogs(worker_id="w1", tail=4))
    secret, odd, head, end = (e for e in told.events if e["event"] == "worker_logs_line")
    assert "sk-abc" not in str(secret)
    assert "[redacted]" in secret["line"]
    assert odd["line"] == odd["message"] == "red \ufffd\ufffdbin"
    assert (len(head["line"]), head["more"], end["line"]) == (LONGEST, True, "xxxxx")
    assert "more" not in end


async def test_only_what_is_newer(hive: HiveClient, log: Path) -> None:
    await hive.run(SPAWN)
    append(log, "2000-01-01T00:00:00Z long ago", "  and more of it")
    append(log, "2100-01-01T00:00:00Z far ahead", "  and more of it")
    new = ["2100-01-01T00:00:00Z far ahead", "  and more of it"]
    told = await hive.run(WorkerLogs(worker_id="w1", since="2050-01-01T02:00:00+02:00"))
    assert lines(told.events) == new
    told = await hive.run(WorkerLogs(worker_id="w1", since="10m"))
    assert lines(told.events)[-2:] == new
    assert "long ago" not in str(told.events)
    assert any("listens on" in line for line in lines(told.events))


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"worker_id": "w11"}, "worker_not_found", "Did you mean 'w1'"),
        ({"worker_id": "../../etc/passwd"}, "worker_not_found", "Known: w1"),
        ({"worker_id": "w1", "since": "yesterday"}, "bad_since", "10m"),
    ],
)
async def test_what_cannot_be_read(hive: HiveClient, asked: dict[str, str], code: str, said: str) -> None:
    await hive.run(SPAWN)
    with pytest.raises(RbeeError, match=said) as refused:
        await hive.run(WorkerLogs(**asked))  # type: ignore[arg-type]
    assert refused.value.code == code


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("what", ["pipe", "link", "folder"])
async def test_what_is_no_log_is_told_and_nobody_waits_for_it(
    hive: HiveClient, log: Path, what: str, follow: bool
) -> None:
    await hive.run(SPAWN)
    log.unlink()
    if what == "pipe":
        os.mkfifo(log)
    elif what == "link":
        log.symlink_to("/etc/hostname")
    else:
        log.mkdir()
    with pytest.raises(RbeeError, match="cannot be read") as refused:
        await hive.run(WorkerLogs(worker_id="w1", follow=follow))
    assert refused.value.code == "log_unreadable"


@pytest.mark.parametrize("tail", [-1, 10_001])
async def test_a_tail_out_of_bounds_is_no_job(hive: HiveClient, tail: int) -> None:
    body = {"operation": {"WorkerLogs": {"worker_id": "w1", "tail": tail}}}
    async with hive.session.post(f"{hive.url}/v1/jobs", json=body) as answer:
        assert answer.status == 400
        assert "tail" in await answer.text()


async def test_one_that_failed_can_still_be_read(hive: HiveClient, paths: Paths) -> None:
    with pytest.raises(RbeeError, match="on fire"):
        await hive.run(dataclasses.replace(SPAWN, engine=bad_engine(paths, "dies"), options=WorkerOptions()))
    told = await hive.run(WorkerLogs(worker_id="w1"))
    assert any("the accelerator is on fire" in line for line in lines(told.events))


async def test_following_ends_when_the_worker_goes_and_has_its_last_words(hive: HiveClient, log: Path) -> None:
    pid = (await hive.run(SPAWN)).response.pid
    follower = await Follower.of(hive, tail=1)
    append(log, "first that came")
    await follower.until("first that came")
    append(log, "second that came")
    await follower.until("second that came")
    with log.open("a") as f:
        f.write("without an end")
    await hive.run(WorkerProcessDelete(pid=pid))
    await follower.rest()
    assert await follower.state() == "completed"
    told = lines(follower.events)
    assert len(told) == len(set(told))
    assert any("without an end" in line for line in told)
    assert [e["event"] for e in follower.events[-2:]] == ["worker_logs_end", "result"]
    assert follower.events[-1]["result"] == {"worker_id": "w1", "lines": len(told)}


async def test_following_goes_on_over_every_turn_of_the_log(hive: HiveClient, log: Path) -> None:
    await hive.run(SPAWN)
    append(log, "it follows")
    follower = await Follower.of(hive, tail=1)
    await follower.until("it follows")
    for n in range(3):
        append(log, f"{n} before", f"{n} {TURNED}")
        await follower.until(f"{n} before")
        shutil.copyfile(log, log.with_name("worker.log.1"))
        os.truncate(log, 0)
        append(log, f"{n} after")
        await follower.until(f"{n} after")
    told = lines(follower.events)[1:]
    assert told == [line for n in range(3) for line in (f"{n} before", f"{n} {TURNED}", f"{n} after")]
    assert not [e for e in follower.events if e["event"] == "worker_logs_skipped"]
    await hive.cancel(follower.job)
    assert await follower.state() == "cancelled"


async def test_a_cancelled_follower_leaves_nothing_open(hive: HiveClient, log: Path) -> None:
    await hive.run(SPAWN)

    def held() -> list[str]:
        """The log, as often as this process has it open."""
        found = []
        for fd in Path("/proc/self/fd").iterdir():
            try:
                found.append(str(fd.readlink()))
            except OSError:
                continue
        return [name for name in found if name.startswith(str(log.parent))]

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    followers = [await Follower.of(hive, tail=1) for _ in range(5)]
    append(log, "for all")
    for follower in followers:
        await follower.until("for all")
    assert len(held()) == 5
    for follower in followers:
        await hive.cancel(follower.job)
    await eventually(lambda: not held())


async def test_an_engine_that_writes_without_end_is_bounded_on_disk_and_followed(
    hive: HiveClient, paths: Paths, log: Path
) -> None:
    await hive.run(dataclasses.replace(SPAWN, engine=bad_engine(paths, "chatty"), options=WorkerOptions()))
    follower = await Follower.of(hive, tail=10)
    await follower.until("word")
    older = log.with_name("worker.log.1")
    sizes: list[int] = []

    def turned() -> bool:
        sizes.append(sum(f.stat().st_size for f in (log, older) if f.exists()))
        return older.exists() and len(sizes) > 5

    await eventually(turned)
    assert max(sizes) < 2 * LOG_LIMIT + 2**20
    async for event in follower.stream:
        follower.events.append(event)
        if event["event"] == "worker_logs_skipped":
            break
    # It is told what was left out, and the hive still answers everybody else.
    assert follower.events[-1]["level"] == "warning"
    assert (await hive.run(WorkerLogs(worker_id="w1", tail=5))).response.lines == 5
    await hive.cancel(follower.job)
    assert defaults.LOG_BYTES <= LOG_LIMIT


async def test_what_is_written_past_the_workers_logger_is_bounded_by_the_hive(hive: HiveClient, log: Path) -> None:
    await hive.run(SPAWN)
    with log.open("ab") as f:
        f.write(b"x" * 99 + b"\n")
        os.ftruncate(f.fileno(), LOG_LIMIT + 1)
        await eventually(lambda: log.stat().st_size <= LOG_LIMIT)
        f.write(b"goes on\n")
    assert log.with_name("worker.log.1").stat().st_size > LOG_LIMIT
    assert "goes on" in lines((await hive.run(WorkerLogs(worker_id="w1", tail=1))).events)
