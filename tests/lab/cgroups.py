# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's control groups: its memory limit and its freezer, on version 2 and on version 1 trees."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from .shell import LabError

TOP = Path("/sys/fs/cgroup")


class Cgroup:
    """The groups of one host. Making them is best effort; asking for what could not be made raises LabError."""

    def __init__(self, name: str) -> None:
        self.unified = (TOP / "cgroup.controllers").exists()
        kinds = {"memory": TOP, "freezer": TOP} if self.unified else {k: TOP / k for k in ("memory", "freezer")}
        self.directories = {kind: top / name for kind, top in kinds.items()}

    def create(self, memory_mib: int | None) -> list[Path]:
        """Make the groups; the answer is the `cgroup.procs` files to join.

        Raises LabError when a limit cannot be set.
        """
        for directory in self.directories.values():
            with contextlib.suppress(OSError):
                directory.mkdir(exist_ok=True)
        if memory_mib is not None:
            self._limit(memory_mib << 20)
        return sorted({path / "cgroup.procs" for path in self.directories.values() if path.is_dir()})

    def _limit(self, size: int) -> None:
        try:
            if self.unified:
                (TOP / "cgroup.subtree_control").write_text("+memory")
            name = "memory.max" if self.unified else "memory.limit_in_bytes"
            (self.directories["memory"] / name).write_text(str(size))
        except OSError as error:
            raise LabError(f"trait mem: no memory control group to be had here ({error})") from error

    def freeze(self, frozen: bool) -> None:
        """Stop every process of the host where it stands, or let all go on; returns when it is so."""
        name, words = ("cgroup.freeze", "01") if self.unified else ("freezer.state", ("THAWED", "FROZEN"))
        try:
            (self.directories["freezer"] / name).write_text(words[frozen])
        except OSError as error:
            raise LabError(f"freeze: no freezer control group to be had here ({error})") from error

    def remove(self) -> None:
        """Remove the groups; their processes must be dead, but the kernel may need a moment to count them out."""
        for directory in self.directories.values():
            if not directory.is_dir():
                continue
            nested = sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True)
            for path in (*nested, directory):
                for _ in range(100):
                    try:
                        path.rmdir()
                    except FileNotFoundError:
                        break
                    except OSError:
                        time.sleep(0.02)
                    else:
                        break
