# SPDX-License-Identifier: GPL-3.0-or-later
"""Large results of jobs: a file each beside the database, with a bound of their own.

In the database such a one would be written twice (its log, then its pages), stay in that file's size for good, and push
the history of hundreds of other jobs out. All of it runs in the thread of the store.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path

log = logging.getLogger(__name__)


class Results:
    """Bounded by bytes: the oldest go, the last one stays whatever its size.

    Written without waiting for the disk: after a crash of the machine one may be cut short, which its length tells.
    Names of files are never taken from who asks, only looked up.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        #: Bytes by job, the oldest first.
        self._sizes: dict[str, int] = {}
        self._total = 0

    def open(self, known: Collection[str]) -> None:
        """Take over what is there of the jobs `known`; anything else was cut short, or its job is forgotten."""
        found: list[tuple[int, str, int]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name in known:
                    at = entry.stat(follow_symlinks=False)
                    found.append((at.st_mtime_ns, entry.name, at.st_size))
                else:
                    self._unlink(entry.name)
        self._sizes = {name: size for _, name, size in sorted(found)}
        self._total = sum(self._sizes.values())

    def put(self, job_id: str, result: bytes | memoryview) -> None:
        """Raises OSError: disk full, no permission; then it is not kept."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._folder / f".{job_id}"
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
                rest = memoryview(result)
                while rest:
                    rest = rest[file.write(rest) :]
            temporary.replace(self._folder / job_id)
        except BaseException:
            self._unlink(temporary.name)
            raise
        self._total += len(result) - self._sizes.pop(job_id, 0)
        self._sizes[job_id] = len(result)
        while self._total > self._most and len(self._sizes) > 1:
            self.forget([next(iter(self._sizes))])

    def get(self, job_id: str) -> bytes | None:
        """None when it was never kept, or is no more."""
        if job_id not in self._sizes:
            return None
        try:
            found = (self._folder / job_id).read_bytes()
        except OSError as e:
            log.warning("the result of %s cannot be read: %s", job_id, e)
            return None
        return found if len(found) == self._sizes[job_id] else None

    def forget(self, jobs: Iterable[str]) -> None:
        for job_id in jobs:
            if job_id in self._sizes:
                self._total -= self._sizes.pop(job_id)
                self._unlink(job_id)

    def _unlink(self, name: str) -> None:
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as e:
            log.warning("%s in %s cannot be removed: %s", name, self._folder, e)
