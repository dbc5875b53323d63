# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a process ended, in words that a person can act on; and whether the kernel killed it for want of memory."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_BY_SIGNAL = {
    signal.SIGKILL: "killed by SIGKILL (by somebody, or by the kernel for lack of memory)",
    signal.SIGTERM: "ended by SIGTERM, which its hive did not send",
    signal.SIGINT: "ended by SIGINT, which its hive did not send",
    signal.SIGILL: "killed by SIGILL: the CPU lacks an instruction the engine needs",
    signal.SIGBUS: "killed by SIGBUS: a file that it had mapped was cut short, or its disk failed",
    signal.SIGSEGV: "killed by SIGSEGV: a defect of the engine, or a model file that is hurt",
    signal.SIGABRT: "killed by SIGABRT: it gave up by itself",
}
#: After these the last words of the log say why; after the others they are of what it was doing.
_TALKATIVE = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS})
OUT_OF_MEMORY = "killed by the kernel: out of memory"


def in_words(code: int | None, *, out_of_memory: bool = False) -> str:
    """What a process did at its end, by its exit code or minus its signal; None when nobody could wait for it."""
    if out_of_memory and code in (None, -signal.SIGKILL):
        return f"was {OUT_OF_MEMORY}"
    if code is None:
        return "ended; its exit code is not known, because the hive was restarted while it ran"
    if code >= 0:
        return f"ended with exit code {code}"
    said = {int(number): text for number, text in _BY_SIGNAL.items()}.get(-code)
    if said is None:
        known = -code in {int(s) for s in signal.Signals}
        said = f"killed by {signal.Signals(-code).name if known else f'signal {-code}'}"
    return f"was {said}"


def sentence(code: int | None, last_words: str, *, out_of_memory: bool = False) -> str:
    """`Its process ended with exit code 1: Address already in use`."""
    said = f"Its process {in_words(code, out_of_memory=out_of_memory)}"
    talks = code is None or code > 0 or -code in _TALKATIVE
    return f"{said}: {last_words}" if last_words and talks and not out_of_memory else f"{said}."


def killed_pids(lines: Iterable[str], since: float) -> set[int]:
    """Pids that the kernel's log (`/dev/kmsg`) tells as killed for want of memory, at `since` (seconds of the
    boot clock) or later."""
    found = set()
    for line in lines:
        head, _, text = line.partition(";")
        told = re.search(r"[Oo]ut of memory.*: Killed process (\d+) ", text)
        if told and int(head.split(",")[2]) / 1e6 >= since:
            found.add(int(told.group(1)))
    return found


def counted(text: str) -> int | None:
    """`oom_kill` of a cgroup's memory.events (v2), memory.oom_control (v1), or of /proc/vmstat."""
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found.group(1)) if found else None


@dataclass(slots=True)
class OomWitness:
    """Remembers how often the kernel had killed for want of memory around a process, so that a SIGKILL later can be
    laid at its door. `root` is `/` but in tests. Every call reads a file or two; none raises."""

    pid: int
    root: Path = Path("/")
    _counter: Path | None = field(init=False, default=None)
    _before: int | None = field(init=False, default=None)
    _since: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._counter = next((c for c in self._counters() if self._read(c) is not None), None)
        self.refresh()

    def refresh(self) -> None:
        """It is well now: kills up to here were others'."""
        self._before = self._read(self._counter)
        self._since = time.monotonic()

    def saw(self) -> bool:
        """Whether the kernel has killed it, or at least somebody of its cgroup, since the last `refresh`."""
        if self.pid in killed_pids(self._kernel_log(), self._since - 1.0):
            return True
        after = self._read(self._counter)
        return after is not None and self._before is not None and after > self._before

    def _counters(self) -> Iterator[Path]:
        cgroups = self.root / "sys/fs/cgroup"
        try:
            lines = (self.root / f"proc/{self.pid}/cgroup").read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            number, controllers, path = [*line.split(":", 2), "", ""][:3]
            if number == "0":
                yield cgroups / path.lstrip("/") / "memory.events"
            elif "memory" in controllers.split(","):
                yield cgroups / "memory" / path.lstrip("/") / "memory.oom_control"
        yield cgroups / "memory.events"
        yield cgroups / "memory/memory.oom_control"
        yield self.root / "proc/vmstat"

    @staticmethod
    def _read(counter: Path | None) -> int | None:
        try:
            return counted(counter.read_text()) if counter is not None else None
        except OSError:
            return None

    def _kernel_log(self) -> Iterator[str]:
        """Records that are there now; none where it may not be read."""
        try:
            log = os.open(self.root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return
        try:
            while True:
                try:
                    record = os.read(log, 8192)
                except BrokenPipeError:  # overwritten while we read: go on with the next
                    continue
                except OSError:  # BlockingIOError: that was the last
                    return
                if not record:
                    return
                yield from record.decode("utf-8", "replace").splitlines()
        finally:
            os.close(log)
