# SPDX-License-Identifier: GPL-3.0-or-later
"""The log of a daemon: one line of JSON for a record, on stderr, with the job it belongs to, secrets hidden."""

from __future__ import annotations

import contextvars
import logging
import sys
import traceback
from collections.abc import Iterable
from datetime import datetime, timezone

from rbee.contracts import codec
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
            "time": moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z",
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


def configure(actor: str, *, secrets: Iterable[str] = (), level: str = "INFO") -> None:
    """Sends this process's log to stderr. Called once, by a composition root; replaces earlier handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(actor, Redactor(secrets)))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").disabled = True
    logging.getLogger("asyncio").setLevel(logging.WARNING)
