# SPDX-License-Identifier: GPL-3.0-or-later
"""How the lab calls the machine's own tools: argv lists in, text out, one kind of error."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(RuntimeError):
    """Something in the lab went wrong; the text says what and with which output."""


class LabUnavailable(LabError):
    """This machine cannot run a lab; the text is the reason, with the mend where there is one."""


def run(
    *argv: object,
    check: bool = True,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run one program to its end; stdout and stderr come back together in `stdout`.

    Raises LabError with that output when `check` and the exit status is not 0, and when it takes
    longer than `timeout` seconds or does not exist.
    """
    words = [str(word) for word in argv]
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}", "LC_ALL": "C", **(env or {})}
    try:
        done = subprocess.run(
            words, input=input, env=environment, timeout=timeout, text=True, errors="replace",
            stdin=subprocess.DEVNULL if input is None else None, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{shlex.join(words)}: {error}") from error
    if check and done.returncode != 0:
        raise LabError(f"{shlex.join(words)}: exit {done.returncode}: {done.stdout.strip()}")
    return done


def ip(lines: Sequence[str], *, netns: str | None = None) -> None:
    """Run `ip` commands as one batch, in the network namespace `netns` when given."""
    if lines:
        inside = ("-n", netns) if netns else ()
        run("ip", *inside, "-batch", "-", input="\n".join(lines) + "\n")


def process_start(pid: int) -> int | None:
    """When the kernel started `pid`, in ticks since boot: with the pid, the identity of a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return start_of_stat(stat)


def start_of_stat(stat: str) -> int | None:
    """The start time in the text of a /proc/PID/stat; None for a zombie, which is as good as gone."""
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
