# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes: identity, detached start, end with the whole group, locks. All real."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rbee.adapters import process
from rbee.core.errors import Conflict
from tests.support.waiting import until


def python(code: str, log: Path) -> process.Identity:
    return process.spawn_detached([sys.executable, "-c", code], log=log)


def test_spawned_process_is_detached_logged_and_identified(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log"
    who = python("import os,sys; print(os.getsid(0) == os.getpid()); print('err', file=sys.stderr)", log)
    assert process.wait_ended(who, 10)
    assert process.exit_status(who) == 0
    assert log.read_text().split() == ["True", "err"]
    assert log.stat().st_mode & 0o777 == 0o600
    assert not process.alive(who)
    assert process.identify(who.pid) is None


def test_zombie_is_not_alive_and_tells_its_exit_once(tmp_path: Path) -> None:
    who = python("raise SystemExit(3)", tmp_path / "log")
    until(lambda: not process.alive(who))
    assert process.exit_status(who) == 3
    assert process.exit_status(who) is None


def test_pid_with_another_start_time_is_a_stranger(tmp_path: Path) -> None:
    who = python("import time; time.sleep(60)", tmp_path / "log")
    stranger = process.Identity(pid=who.pid, start_time=who.start_time - 1)
    try:
        assert process.alive(who)
        assert not process.alive(stranger)
        assert process.stop(stranger, 5)
        assert process.alive(who), "a stranger's group was killed"
        assert process.is_ours(who, "-c")
        assert not process.is_ours(who, "--config")
    finally:
        process.kill_group(who)
        until(lambda: process.exit_status(who) == -signal.SIGKILL)


def test_stop_lets_a_process_drain(tmp_path: Path) -> None:
    code = "import signal,sys,time; signal.signal(15, lambda *a: sys.exit(7)); print('up', flush=True); time.sleep(60)"
    who = python(code, tmp_path / "log")
    until(lambda: "up" in (tmp_path / "log").read_text())
    steps: list[str] = []
    assert process.stop(who, 10, steps.append)
    assert steps == ["sigterm"]
    assert process.exit_status(who) == 7


def test_stop_kills_the_group_of_one_that_will_not_go(tmp_path: Path) -> None:
    code = (
        "import signal,subprocess,sys,time; signal.signal(15, signal.SIG_IGN);"
        "p=subprocess.Popen(['sleep','60']); print(p.pid, flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    who = python(code, log)
    until(lambda: log.read_text().endswith("\n"))
    grandchild = process.identify(int(log.read_text()))
    assert grandchild is not None
    steps: list[str] = []
    assert not process.stop(who, 0.1, steps.append)
    assert steps == ["sigterm", "sigkill"]
    assert process.exit_status(who) == -signal.SIGKILL
    until(lambda: not process.alive(grandchild))


async def test_end_is_stop_for_a_loop(tmp_path: Path) -> None:
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    stubborn, willing = python(code, tmp_path / "log"), python("import time; time.sleep(60)", tmp_path / "other")
    until(lambda: "up" in (tmp_path / "log").read_text())
    steps: list[str] = []
    assert not await process.end(stubborn, 0.1, steps.append)
    assert steps == ["sigterm", "sigkill"]
    assert await process.end(willing, 10)
    assert [process.exit_status(who) for who in (stubborn, willing)] == [-signal.SIGKILL, -signal.SIGTERM]
    assert await process.end(willing, 10)


def test_members_that_outlive_their_leader_are_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    who = python("import subprocess; print(subprocess.Popen(['sleep','60']).pid)", log)
    assert process.wait_ended(who, 10)
    member = process.identify(int(log.read_text()))
    assert member is not None
    assert process.alive(member)
    process.exit_status(who)
    assert process.stop(who, 1)
    until(lambda: not process.alive(member))


async def test_ended_wakes_on_a_kill(tmp_path: Path) -> None:
    who = python("import time; time.sleep(60)", tmp_path / "log")
    waiting = asyncio.create_task(process.ended(who))
    await asyncio.sleep(0)
    os.kill(who.pid, signal.SIGKILL)
    await asyncio.wait_for(waiting, 10)
    assert process.exit_status(who) == -signal.SIGKILL


async def test_ended_of_one_long_gone_returns(tmp_path: Path) -> None:
    await asyncio.wait_for(process.ended(process.Identity(pid=2**22 - 1, start_time=1)), 5)


#: Starts another one in a session of its own, as a worker does its engine; says its pid; ends for no SIGTERM.
_PARENT = (
    "import signal,subprocess,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "c=subprocess.Popen([sys.executable,'-c','import time; time.sleep(60)'],start_new_session=True);"
    "print(c.pid,flush=True); time.sleep(60)"
)


@pytest.mark.parametrize("blocking", [True, False])
async def test_all_that_a_killed_process_has_started_goes_with_it(tmp_path: Path, blocking: bool) -> None:
    log = tmp_path / "log"
    who = python(_PARENT, log)
    until(lambda: log.exists() and log.read_text().endswith("\n"))
    child = process.identify(int(log.read_text()))
    assert child is not None
    steps: list[str] = []
    gone = process.stop(who, 0.1, steps.append) if blocking else await process.end(who, 0.1, steps.append)
    assert not gone
    assert steps == ["sigterm", "sigkill"]
    assert process.exit_status(who) == -signal.SIGKILL
    until(lambda: not process.alive(child))


def test_a_process_with_many_threads_can_be_reaped_as_soon_as_it_is_said_to_have_ended(tmp_path: Path) -> None:
    code = "import threading,time\nfor _ in range(50): threading.Thread(target=time.sleep,args=(60,)).start()\n"
    code += "print('up',flush=True)"
    for number in range(5):
        log = tmp_path / str(number)
        who = python(code, log)
        until(lambda log=log: log.exists() and "up" in log.read_text())  # type: ignore[misc]
        process.stop(who, 5)
        assert process.exit_status(who) == -signal.SIGTERM


def test_lock_is_exclusive_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "hive.lock"
    code = (
        f"import sys,time,pathlib; from rbee.adapters import process;"
        f"process.hold(pathlib.Path({str(path)!r}), 'A hive'); print('held', flush=True); time.sleep(60)"
    )
    # The lock must live as long as the process, even with nothing referring to it.
    code = code.replace("process.hold(", "keep = process.hold(")
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Conflict, match=rf"A hive runs already \(pid {holder.pid}\)"):
            process.hold(path, "A hive")
    finally:
        holder.kill()
        holder.communicate()
    process.hold(path, "A hive").release()
