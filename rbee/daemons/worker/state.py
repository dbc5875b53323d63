# SPDX-License-Identifier: GPL-3.0-or-later
"""What the worker is doing and has done. Changed from the event loop only; whoever listens hears of each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rbee.contracts.configs import WorkerConfig
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.core.records import WorkerStatus

#: Of the engine behind us. `stopping` and `failed` are final.
Phase = Literal["starting", "serving", "stopping", "failed"]


class WorkerState:
    """Counters since the start, and the phase. `started_at` is RFC 3339."""

    def __init__(self, config: WorkerConfig, started_at: str, slots: int, context_length: int | None) -> None:
        self._config = config
        self.started_at = started_at
        self.slots = slots
        self.context_length = context_length
        self.phase: Phase = "starting"
        self.reason: str | None = None
        self.active = 0
        self.requests = 0
        self.errors = 0
        self.cancelled = 0
        self.engine_starts = 0
        #: OpenAI paths that it serves, and what it can beyond them.
        self.paths = config.provider.paths_for(config.options.task)
        self.capabilities: tuple[str, ...] = ()
        #: How much of the model is in memory, 0 to 1; None: nobody knows.
        self.progress: Callable[[], float | None] = lambda: None
        self.prompt_tokens = 0
        self.tokens = 0
        #: Those of `tokens` whose seconds are known, and their seconds, summed over requests.
        self.timed_tokens = 0
        self.generating = 0.0
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls `listener()` on every change of status or of busy slots; it must not block."""
        self._listeners.append(listener)

    def enter(self, phase: Phase, reason: str | None = None) -> None:
        """Changes the phase; nothing follows `stopping`, and only `stopping` follows `failed`."""
        if self.phase == "stopping" or (self.phase == "failed" and phase != "stopping"):
            return
        self.phase, self.reason = phase, reason
        self._changed()

    @property
    def status(self) -> WorkerStatus:
        """`busy`: every slot has a request."""
        if self.phase == "serving":
            return "busy" if self.active >= self.slots else "ready"
        return self.phase

    @property
    def slots_busy(self) -> int:
        return min(self.active, self.slots)

    @property
    def tokens_per_second(self) -> float:
        """Average speed of one request's generation; 0 before the first."""
        return self.timed_tokens / self.generating if self.generating else 0.0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request while it is here."""
        self.active += 1
        self._changed()
        try:
            yield
        finally:
            self.active -= 1
            self.requests += 1
            self._changed()

    def count(self, prompt_tokens: int, tokens: int, seconds: float) -> None:
        """Adds what one finished request used; `seconds` 0: nobody told, and the average leaves it out."""
        self.prompt_tokens += prompt_tokens
        self.tokens += tokens
        if seconds:
            self.timed_tokens += tokens
            self.generating += seconds

    def heartbeat(self) -> WorkerHeartbeat:
        """What the queen is told."""
        c = self._config
        return WorkerHeartbeat(
            worker_id=c.worker_id,
            hive_id=c.hive_id,
            model=c.model,
            engine=c.provider.name,
            worker_type=c.worker_type,
            device=c.device,
            url=c.url,
            status=self.status,
            slots=self.slots,
            slots_busy=self.slots_busy,
            requests_handled=self.requests,
            tokens_generated=self.tokens,
            avg_tokens_per_sec=round(self.tokens_per_second, 2),
            errors=self.errors,
            context_length=self.context_length,
            paths=self.paths,
            capabilities=self.capabilities,
            progress=self.progress() if self.phase == "starting" else None,
            prompt_tokens=self.prompt_tokens,
            started_at=self.started_at,
            reason=self.reason,
        )

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()
