# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's side of a keeper: a process that reads files into memory, and holds them there while it runs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rbee.adapters import pagecache
from rbee.core.errors import RbeeError


class Keeper:
    """One model's files. `name` is shown in the process list. `load` and `end` block: for threads."""

    def __init__(self, name: str) -> None:
        """Starts the process. Raises OSError."""
        # `-I -S`: no site packages, so it is small and starts at once.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(pagecache.__file__)), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self.locked = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(self, files: Sequence[tuple[str, int]], tell: Callable[[int], None]) -> None:
        """Until all is in memory; then `locked` says whether it stays. `tell` hears how many bytes are read.

        Raises RbeeError `preload_failed`: a file cannot be read or has changed, or the keeper was ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        last = ""
        try:
            self._process.stdin.write(json.dumps([list(file) for file in files]) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                last = line.strip()
                if last.isdecimal():
                    tell(int(last))
                else:
                    break
        except (OSError, ValueError):
            pass  # it was ended; said below
        self.locked = last == "locked"
        if last == "read":
            self.end()
        elif not self.locked:
            self.end()
            why = last.removeprefix("error ") if last.startswith("error ") else "its reader was ended"
            raise RbeeError(f"The model could not be read into memory: {why}.", code="preload_failed")

    @property
    def holds(self) -> bool:
        """Whether the files are locked at this moment: somebody else may have ended the process."""
        return self.locked and self._process.poll() is None

    def kill(self) -> None:
        """Lets go, without waiting; `end` comes after."""
        self._process.kill()

    def end(self) -> None:
        """Lets go, and returns when it is done. Safe to call again, and from two threads."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()
        self.locked = False
