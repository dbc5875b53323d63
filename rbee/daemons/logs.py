# SPDX-License-Identifier: GPL-3.0-or-later
"""The log of a daemon: one line of JSON for a record, on stderr, with the job it belongs to, secrets hidden."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import shutil
import stat
import sys
import traceback
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rbee.contracts import codec, defaults
from rbee.core.moments import rfc3339
from rbee.core.redact import Redactor

#: The job that the current task works for; empty outside of one.
current_job: contextvars.ContextVar[str] = contextvars.ContextVar("rbee_job", default="")


class Lines(logging.Formatter):
    """`{"time", "level", "actor", "logger", "message", "job_id"?, "error"?}`, redacted as a whole."""

    def __init__(self, actor: str, redactor: Redactor) -> None:
        super().__init__()
        self._actor = actor
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, str] = {
            "time": rfc3339(moment),
            "level": record.levelname.lower(),
            "actor": self._actor,
            "logger": record.name,
            "message": self._redactor.text(record.getMessage()),
        }
        if job := current_job.get():
            line["job_id"] = job
        if record.exc_info:
            line["error"] = self._redactor.text("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return codec.encode(line).decode()


if TYPE_CHECKING:
    _ToStream = logging.StreamHandler[TextIO]
else:  # Python 3.10 knows no parameter of it
    _ToStream = logging.StreamHandler


class Bounded(_ToStream):
    """Writes to a stream; when that is a file which has grown beyond `limit`, it starts anew.

    What it held is kept beside it as `NAME.1` where the system tells its name (Linux). For daemons whose supervisor
    gave them a file for a stderr: nobody else turns it over. The file must be open for appending.
    """

    def __init__(self, stream: TextIO, limit: int = defaults.LOG_BYTES) -> None:
        super().__init__(stream)
        self._limit = limit

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        with contextlib.suppress(OSError, ValueError):
            fd = self.stream.fileno()
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_size > self._limit:
                with contextlib.suppress(OSError):
                    _keep(Path(f"/proc/self/fd/{fd}").readlink())
                os.ftruncate(fd, 0)


def _keep(log: Path) -> None:
    """Copy a log to its `.1`, for nobody else's eyes either; readers see the former one or all of this."""
    older, copy = log.with_name(f"{log.name}.1"), log.with_name(f".{log.name}.1")
    try:
        with (
            log.open("rb") as source,
            os.fdopen(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as to,
        ):
            shutil.copyfileobj(source, to, 2**20)
        copy.replace(older)
    finally:
        copy.unlink(missing_ok=True)


def configure(actor: str, *, secrets: Iterable[str] = (), level: str = "INFO") -> None:
    """Sends this process's log to stderr. Called once, by a composition root; replaces earlier handlers."""
    handler = Bounded(sys.stderr)
    handler.setFormatter(Lines(actor, Redactor(secrets)))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").disabled = True
    logging.getLogger("asyncio").setLevel(logging.WARNING)
