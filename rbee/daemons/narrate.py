# SPDX-License-Identifier: GPL-3.0-or-later
"""Narration of a job: events made, secrets hidden, from any thread, into the job's feed and the store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rbee.adapters.system import now
from rbee.contracts.jobs import ChildJob
from rbee.contracts.narration import Level, narration
from rbee.core.redact import Redactor


@dataclass(slots=True)
class Ties:
    """Between a job's handler and its runner."""

    #: Whether the job is cancelled only because its daemon ends, or is another daemon's by now: what goes on elsewhere
    #: may go on.
    leaving: bool = False
    #: Is told which job of a hive does this one, before the hive is asked to; None when it has refused.
    on_child: Callable[[ChildJob | None], None] = lambda child: None


class JobContext:
    """What a handler gets beside its request: the job's id, and how to tell what it does."""

    __slots__ = ("_actor", "_loop", "_redactor", "_sink", "_thread", "job_id", "ties")

    def __init__(
        self,
        job_id: str,
        *,
        actor: str,
        redactor: Redactor,
        sink: Callable[[dict[str, Any]], None],
        loop: asyncio.AbstractEventLoop,
        ties: Ties | None = None,
    ) -> None:
        self.job_id = job_id
        self.ties = ties or Ties()
        self._actor = actor
        self._redactor = redactor
        self._sink = sink
        self._loop = loop
        self._thread = threading.get_ident()

    def narrate(self, name: str, message: str, level: Level = "info", *, verbatim: bool = False, **fields: Any) -> None:
        """Tells one event, in order, without blocking; from any thread. Secrets in texts are hidden.

        `verbatim` is for fields that are data (a model's answer): in them only secrets known by value are hidden.
        What is told after the job ended is dropped.
        """
        self._emit(
            narration(
                name,
                self._redactor.text(message),
                timestamp=now(),
                job_id=self.job_id,
                actor=self._actor,
                level=level,
                **self._redactor.value(fields, exact=verbatim),
            )
        )

    def relay(self, event: Mapping[str, Any], number: int | None = None) -> None:
        """Tells an event of a child job as it came (its actor and time), under this job's id; `number`: its own."""
        told: dict[str, Any] = self._redactor.value(event, exact=event.get("event") in ("infer_token", "result"))
        if "job_id" in told:
            told["child_job_id"] = told["job_id"]
        if number is not None:
            told["child_event_id"] = number
        told["job_id"] = self.job_id
        self._emit(told)

    def tapped(self, heard: Callable[[dict[str, Any]], None]) -> JobContext:
        """The same job's context; `heard` is shown every event that goes through it."""

        def sink(event: dict[str, Any]) -> None:
            heard(event)
            self._sink(event)

        return JobContext(
            self.job_id, actor=self._actor, redactor=self._redactor, sink=sink, loop=self._loop, ties=self.ties
        )

    def _emit(self, event: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self._sink(event)
        else:
            self._loop.call_soon_threadsafe(self._sink, event)
