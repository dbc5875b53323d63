# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hive keeps on disk of each worker, so that the next hive knows it again. Blocks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from rbee.adapters import process
from rbee.adapters.paths import write_atomic
from rbee.contracts import codec, defaults
from rbee.contracts.configs import WorkerConfig
from rbee.core.records import Mark, WorkerStatus
from rbee.core.slug import slug

_LAST_WORDS = 4096
#: A log longer than this is cut by the hive.
LOG_LIMIT = defaults.LOG_BYTES * 5 // 4
#: Bytes beyond the limit that are kept all the same, so that a copy is nearly always whole (see `worker_logs`).
_SLACK = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFile:
    """`process.json`: who the process is, and what the hive decided when it started it.

    `threads` counts against the machine's cores, `predicted` bytes against its memory until the worker is ready.
    `ends` are the times (epoch) of its processes' ends that count towards giving it up.
    """

    pid: int = 0
    start_time: int = 0
    started_at: str = ""
    port: int = 0
    threads: int = 0
    predicted: int = 0
    slots: int = 1
    context_length: int | None = None
    status: WorkerStatus = "starting"
    reason: str | None = None
    was_ready: bool = False
    #: Whether the threads were asked for, and are not only its share of the cores.
    threads_asked: bool = False
    #: A port of the hive's choice may be exchanged for another; one that was asked for may not.
    port_chosen: bool = False
    ends: tuple[float, ...] = ()
    restarts: int = 0
    last_end: str | None = None
    mark: Mark | None = None

    @property
    def identity(self) -> process.Identity | None:
        return process.Identity(pid=self.pid, start_time=self.start_time) if self.pid else None


@dataclass(frozen=True, slots=True)
class WorkerFolder:
    """One worker's directory: `worker.json` (its settings), `process.json`, `worker.log`."""

    path: Path

    @classmethod
    def of(cls, root: Path, worker_id: str) -> WorkerFolder:
        return cls(root / slug(worker_id))

    @property
    def config_file(self) -> Path:
        return self.path / "worker.json"

    @property
    def log(self) -> Path:
        return self.path / "worker.log"

    def save_config(self, config: WorkerConfig) -> None:
        """What stands there already is not written again: a full disk keeps no worker from being started anew."""
        text = codec.encode_pretty(config)
        with contextlib.suppress(OSError):
            if self.config_file.read_bytes() == text:
                return
        write_atomic(self.config_file, text, 0o600)

    def save_process(self, state: ProcessFile) -> None:
        write_atomic(self.path / "process.json", codec.encode_pretty(state), 0o600)

    def load(self) -> tuple[WorkerConfig, ProcessFile] | None:
        """None when its settings cannot be read, or are those of another worker (a copied folder): then nothing is
        known of it. A lost `process.json` is made up for by looking for the process itself."""
        try:
            config = codec.decode(WorkerConfig, self.config_file.read_bytes())
        except (OSError, codec.CodecError):
            return None
        if slug(config.worker_id) != self.path.name or not config.listen.rpartition(":")[2].isdecimal():
            return None
        try:
            return config, codec.decode(ProcessFile, (self.path / "process.json").read_bytes())
        except (OSError, codec.CodecError):
            return config, self._found_running(config)

    def _found_running(self, config: WorkerConfig) -> ProcessFile:
        """For a hive killed between starting a worker and writing down its pid."""
        port = int(config.listen.rpartition(":")[2])
        if (who := self.running()) is not None:
            return ProcessFile(pid=who.pid, start_time=who.start_time, port=port)
        return ProcessFile(port=port, status="failed", reason="It was never started: the hive ended before that.")

    def running(self) -> process.Identity | None:
        """The process that runs with these settings, looked for among all."""
        for pid in psutil.pids():
            if str(self.config_file) in process.argv_of(pid) and (who := process.identify(pid)) is not None:
                return who
        return None

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def bound_log(self) -> None:
        """Keep the log under a bound: what it held is kept as `worker.log.1`. The worker appends, so it may be cut.

        Cheap and safe at any time, so call it at each look at a worker: usually it is one `stat`. A worker bounds
        what goes through its logger itself, at `LOG_BYTES` (see `daemons.logs.Bounded`); this is for what is written
        past that, and waits a little longer so that the two do not meet. Of a log that has grown without measure
        only the newest part is kept. What is written between copy and cut is lost; a full disk loses the copy, never
        the bound.
        """
        try:
            if self.log.stat().st_size <= LOG_LIMIT:
                return
            with self.log.open("r+b", buffering=0) as f:
                try:
                    self._keep_newest(f)
                finally:
                    f.truncate(0)
        except OSError:
            return

    def _keep_newest(self, f: io.FileIO) -> None:
        older = older_log(self.log)
        copy = older.with_name(f".{older.name}.cut")  # not the name that the worker itself uses
        try:
            with os.fdopen(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as to:
                f.seek(max(0, f.seek(0, os.SEEK_END) - LOG_LIMIT - _SLACK))
                left = LOG_LIMIT + 2 * _SLACK  # who writes faster than this copies is not chased for ever
                while left > 0 and (block := f.read(min(left, 2**20))):
                    left -= to.write(block)
            copy.replace(older)
        finally:
            copy.unlink(missing_ok=True)

    def last_words(self) -> str:
        """The last line of the log that says something, for a person; empty when there is none."""
        try:
            with self.log.open("rb") as f:
                f.seek(max(0, self.log.stat().st_size - _LAST_WORDS))
                lines = f.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        try:
            said = json.loads(last)
        except ValueError:
            return last
        return str(said.get("message", last)) if isinstance(said, dict) else last


def older_log(log: Path) -> Path:
    """Where a log's former part stands once it was turned over."""
    return log.with_name(f"{log.name}.1")


def running(root: Path) -> dict[Path, process.Identity]:
    """Every process that runs with the settings of a worker of these folders, by that folder: also one that its hive
    did not live to note, and one whose folder was deleted. One look at all processes."""
    found = {}
    for pid in psutil.pids():
        argv = process.argv_of(pid)
        folder = Path(argv[-1]).parent if argv[-3:-1] == ("worker", "--config") else None
        if folder is None or folder.parent != root:
            continue
        if (who := process.identify(pid)) is not None and process.is_ours(who, argv[-1]):
            found[folder] = who
    return found


def folders(root: Path) -> list[WorkerFolder]:
    """The folders of all workers that were ever started and not forgotten."""
    try:
        return [WorkerFolder(path) for path in sorted(root.iterdir()) if path.is_dir()]
    except FileNotFoundError:
        return []
