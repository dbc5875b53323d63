# SPDX-License-Identifier: GPL-3.0-or-later
"""Where devices are looked for, and the tools that tell of them: run with a limit, and never a reason to fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rbee.core.records import Device

#: More than any tool says of a machine with hundreds of devices.
_MOST = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """This machine; tests give another root, or a `path` of tools that stand in."""

    system: str = sys.platform
    root: Path = Path("/")
    path: str | None = None
    #: Seconds until a tool counts as hanging: a driver that has to wake its card takes one or two.
    timeout: float = 5.0

    def text(self, *parts: str) -> str:
        """What stands in a file under the root, stripped; empty when it cannot be read."""
        try:
            return self.root.joinpath(*parts).read_text(errors="replace").strip()
        except OSError:
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A process that has memory of a device; `vram_mb` is None when its driver does not tell how much."""

    device: str
    pid: int
    vram_mb: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a backend found. `error` says why nothing, or not all; with a `driver` on the machine something is broken,
    without one there is nothing to find."""

    devices: tuple[Device, ...] = ()
    error: str | None = None
    driver: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A tool's output; `error` when it is missing, failed or did not end."""

    text: str = ""
    error: str | None = None
    missing: bool = field(default=False)


def run(host: Host, argv: tuple[str, ...], *places: str) -> Said:
    """Run a tool, found on PATH or in one of `places`, and read what it says. Blocks up to `timeout`; never raises.

    A tool that hangs is killed with all that it started. One that the kernel does not let go of (a driver that is
    stuck) is left behind rather than waited for.
    """
    tool = shutil.which(argv[0], path=host.path)
    tool = tool or next((found for p in places if (found := shutil.which(argv[0], path=str(host.root / p)))), None)
    if tool is None:
        return Said(error=f"{argv[0]} is not installed", missing=True)
    # Files, not pipes: what a tool leaves running may keep a pipe open for ever.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                [tool, *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as e:
            return Said(error=f"{argv[0]} cannot be run: {e.strerror or e}")
        try:
            code = child.wait(host.timeout)
        except subprocess.TimeoutExpired:
            _kill(child)
            return Said(error=f"{argv[0]} did not answer within {host.timeout:g} s")
        text, words = _read(out), _read(err)
    if code:
        return Said(text=text, error=f"{argv[0]} failed ({code}): {_last(words) or _last(text) or 'it says nothing'}")
    return Said(text=text)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(1.0)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_MOST).decode(errors="replace")


def _last(text: str) -> str:
    """The last line that says something, of a length that fits a message."""
    return next((line.strip()[:200] for line in reversed(text.splitlines()) if line.strip()), "")


def mb(size: float | None) -> int | None:
    """Bytes as MB of 2^20."""
    return None if size is None else int(size) // 2**20
