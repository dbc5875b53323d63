# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that outlive their maker: started detached, told apart from strangers, ended with their group.

A process is known by pid *and* start time: pids are reused, the pair is not (until a reboot; whoever stores an
identity also checks a word of the argv, see `is_ours`). Nothing here is async; `ended` tells a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import psutil

from rbee.core.errors import Conflict

Step = Literal["sigterm", "sigkill"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`start_time`: clock ticks since boot (field 22 of /proc/PID/stat), or without /proc hundredths of a second."""

    pid: int
    start_time: int


def identify(pid: int) -> Identity | None:
    """Who runs under this pid now; None when nobody does. A zombie still has its identity."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        # The name of the program is in brackets and may hold spaces and brackets itself.
        return Identity(pid=pid, start_time=int(stat[stat.rindex(b")") + 2 :].split()[19]))
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, ValueError, IndexError):
        return None
    try:
        return Identity(pid=pid, start_time=int(psutil.Process(pid).create_time() * 100))
    except psutil.Error:
        return None


def myself() -> Identity:
    """The identity of this process."""
    found = identify(os.getpid())
    if found is None:  # pragma: no cover - a process always sees itself
        raise RuntimeError("this process is not in the process table")
    return found


def alive(identity: Identity) -> bool:
    """Whether that very process still runs; a zombie does not."""
    if identify(identity.pid) != identity:
        return False
    try:
        return psutil.Process(identity.pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def argv_of(pid: int) -> tuple[str, ...]:
    """The argv of a process; empty when it is gone, a zombie, or not ours to read."""
    try:
        return tuple(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ()


def is_ours(identity: Identity, *words: str) -> bool:
    """Whether it is alive, the same process, and has each of `words` as an item of its argv."""
    for _ in range(20):
        if not alive(identity):
            return False
        if argv := argv_of(identity.pid):
            return set(words) <= set(argv)
        time.sleep(0.001)  # one that was started this moment has none yet
    return False


def spawn_detached(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> Identity:
    """Start a program in a session of its own, standard input closed, output appended to `log` (mode 0600).

    It outlives this process. Whoever started it calls `exit_status` once it has ended, or it stays a zombie.
    Raises OSError when there is no such program or no log can be made.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Opened here: of one that the child could not open, the error would name the program.
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    try:
        # Python ignores SIGPIPE, and ignoring is inherited.
        pid = os.posix_spawnp(
            argv[0],
            list(argv),
            dict(os.environ if env is None else env),
            file_actions=[nothing, (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE],
        )
    finally:
        os.close(out)
    # Not reaped yet, so it is there even if it has ended already.
    return identify(pid) or Identity(pid=pid, start_time=0)


def exit_status(identity: Identity) -> int | None:
    """Exit code, or minus the signal, of an ended child of this process; reaps it.

    None while it runs, when it was reaped before, or when it is no child of this process.
    """
    try:
        pid, status = os.waitpid(identity.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None


def wait_ended(identity: Identity, timeout: float) -> bool:
    """Block until the process has ended or `timeout` seconds are over; whether it has ended."""
    fd = _pidfd(identity)
    if fd is None:
        end = time.monotonic() + timeout
        while alive(identity):
            if (left := end - time.monotonic()) <= 0:
                return False
            time.sleep(min(0.1, left))
        return True
    try:
        # Not `alive`: a process is a zombie before its last thread has ended, and only after that can it be reaped.
        if identify(identity.pid) != identity:
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(fd)


async def ended(identity: Identity, poll: float = 1.0) -> None:
    """Return once the process has ended: at once by pidfd on Linux, else within `poll` seconds."""
    fd = _pidfd(identity)
    if fd is None:
        while alive(identity):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(poll)
        return
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_reader(fd, done.set)
    try:
        if identify(identity.pid) == identity:  # see wait_ended
            await done.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def stop(identity: Identity, drain: float, on_step: Callable[[Step], None] = lambda step: None) -> bool:
    """SIGTERM to the process, up to `drain` seconds, then SIGKILL to its whole group and to all that it has started,
    in whatever group (a worker's engine has its own). Blocks.

    The process must lead its own group, as `spawn_detached` makes it. Members that outlive their leader are
    killed too. Returns whether it went by itself; True also when it was gone before.
    """
    graceful = True
    if alive(identity):
        on_step("sigterm")
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, signal.SIGTERM)
        graceful = wait_ended(identity, drain)
    family: list[Identity] = []
    if not graceful:
        on_step("sigkill")
        family = _family(identity)
    kill_group(identity)
    if not graceful:
        _kill_all(family)
        for one in (identity, *family):
            wait_ended(one, 10.0)
    return graceful


async def end(identity: Identity, drain: float, on_step: Callable[[Step], None] = lambda step: None) -> bool:
    """`stop`, without blocking the loop."""
    graceful = True
    if alive(identity):
        on_step("sigterm")
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, signal.SIGTERM)
        graceful = await _ended_within(identity, drain)
    family: list[Identity] = []
    if not graceful:
        on_step("sigkill")
        family = await asyncio.to_thread(_family, identity)
    kill_group(identity)
    if not graceful:
        _kill_all(family)
        # Until the last of them is gone, so is nothing of the memory that the next one may count on.
        await asyncio.gather(*(_ended_within(one, 10.0) for one in (identity, *family)))
    return graceful


async def _ended_within(identity: Identity, seconds: float) -> bool:
    try:
        await asyncio.wait_for(ended(identity, 0.1), seconds)
    except asyncio.TimeoutError:
        return False
    return True


def _family(identity: Identity) -> list[Identity]:
    """All that the process has started, and they: whoever's parent dies first belongs to nobody, so look before."""
    try:
        children = psutil.Process(identity.pid).children(recursive=True)
    except psutil.Error:
        return []
    found = [identify(child.pid) for child in children] if identify(identity.pid) == identity else []
    return [one for one in found if one is not None]


def _kill_all(identities: Iterable[Identity]) -> None:
    for one in identities:
        if identify(one.pid) == one:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(one.pid, signal.SIGKILL)


def kill_group(identity: Identity) -> None:
    """SIGKILL to what is left of the group that this process leads or led; never to a stranger's.

    The kernel gives a pid to nobody while a group bears it. So when the pid is somebody else's now, the group is
    gone.
    """
    if identify(identity.pid) not in (None, identity):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(identity.pid, signal.SIGKILL)


def _pidfd(identity: Identity) -> int | None:
    """A pidfd of the process, when the system has them and it is still the same process."""
    try:
        return os.pidfd_open(identity.pid)
    except (AttributeError, OSError):
        return None


@dataclass(slots=True)
class Lock:
    """A lock file held until `release` or the end of this process, however it ends."""

    path: Path
    file: IO[str]

    def release(self) -> None:
        self.file.close()


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def hold(path: Path, what: str, doing: str = "") -> Lock:
    """Hold `path` for this process alone. Raises Conflict, naming the holder, when another one does.

    `doing` is told with this process's pid to whoever comes next.

    Blocks up to a second: a process that was killed lets go a moment after it is seen to be dead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    end = time.monotonic() + 1.0
    while not (held := _flock(file.fileno())) and time.monotonic() < end:
        time.sleep(0.02)
    if not held:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise Conflict(
            f"{what} runs already{f' (pid {holder})' if holder else ''}.", mend="Stop that one first, or use it."
        )
    file.truncate(0)
    file.write(f"{os.getpid()}{f', {doing}' if doing else ''}\n")
    file.flush()
    return Lock(path=path, file=file)
