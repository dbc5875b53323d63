# SPDX-License-Identifier: GPL-3.0-or-later
"""One download as a hive holds it: where it stands, who waits for it, what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Literal

from rbee.adapters.sources import default_id
from rbee.adapters.tasks import end_tasks
from rbee.contracts.operations.downloads import DownloadInfo, DownloadStatus
from rbee.contracts.operations.models import ModelDownload
from rbee.core.errors import Conflict, InvalidRequest
from rbee.core.records import DownloadProgress, ModelRecord
from rbee.core.redact import Redactor
from rbee.core.slug import slug
from rbee.daemons.hive.models.bringing import Bringing
from rbee.daemons.hive.models.unfinished import Unfinished

RUNNING: Final = ("queued", "downloading")
LONGEST_ID: Final = 200
Narrate = Callable[..., None]
Key = tuple[str, str, str | None, str | None, str | None]


def key_of(request: ModelDownload) -> Key:
    """What makes two requests the same download; a secret in the source is no part of it."""
    model_id = request.model_id or default_id(request.model)
    return model_id, Redactor().text(request.model), request.revision, request.commit, request.sha256


def without_secrets(request: ModelDownload) -> ModelDownload:
    """As it may be written down."""
    hide, declared = Redactor().text, request.declared_source
    return replace(request, model=hide(request.model), declared_source=hide(declared) if declared else None)


def usable_id(request: ModelDownload, others: Iterable[str]) -> str:
    """The id that a model will have. Raises InvalidRequest for what no terminal and no client could say, Conflict when
    it would be in the folder that one of the `others` is downloaded to."""
    model_id = request.model_id or default_id(request.model)
    if not model_id.isprintable() or model_id.strip() != model_id or len(model_id) > LONGEST_ID:
        mend = f"Give one of up to {LONGEST_ID} characters that can be seen."
        raise InvalidRequest(f"{model_id[:80]!r} is no id for a model.", mend=mend)
    for other in others:
        if other != model_id and slug(other).lower() == slug(model_id).lower():
            raise Conflict(f"{model_id!r} would be in the folder of {other!r}.", mend="Give it another id.")
    return model_id


class Download:
    """Owned by `Downloads`, on its loop. `result` is what jobs wait for; a pause leaves it open."""

    def __init__(self, state: Unfinished, here: int, request: ModelDownload | None = None) -> None:
        self._state = state
        #: With the secrets that the state has not.
        self.request = request or state.request
        self.bringing: Bringing | None = None
        self.task: asyncio.Task[None] | None = None
        self.intent: Literal["pause", "cancel"] | None = None
        #: Somebody let it go on though nobody waits: it does so, whoever joins and leaves.
        self.detached = False
        #: Whether the disk knows of it from before this run.
        self.was_kept = request is None
        self._here = here
        self._waiters: dict[object, tuple[str, Narrate]] = {}
        self._result: asyncio.Future[ModelRecord] | None = None

    @property
    def state(self) -> Unfinished:
        """As the run that brings it has it now, or the last one had it."""
        return self.bringing.state if self.bringing is not None else self._state

    @state.setter
    def state(self, state: Unfinished) -> None:
        self._state = state
        if self.bringing is not None:
            self.bringing.state = state

    @property
    def model_id(self) -> str:
        return self._state.model_id

    @property
    def id(self) -> str:
        return f"download-{slug(self.model_id)}"

    @property
    def key(self) -> Key:
        return key_of(self.request)

    @property
    def status(self) -> DownloadStatus:
        return self.state.status

    def is_paused(self) -> bool:
        return self.status == "paused"

    @property
    def bytes_here(self) -> int:
        """What is on the disk, or was when it stopped."""
        meter = self.bringing.meter if self.bringing is not None else None
        return meter.done if meter is not None and meter.started else self._here

    @property
    def result(self) -> asyncio.Future[ModelRecord]:
        if self._result is None:
            self._result = asyncio.get_running_loop().create_future()
        return self._result

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def join(self, job_id: str, narrate: Narrate) -> object:
        waiter = object()
        self._waiters[waiter] = (job_id, narrate)
        return waiter

    def leave(self, waiter: object) -> None:
        self._waiters.pop(waiter, None)

    def narrates(self) -> list[Narrate]:
        return [narrate for _, narrate in self._waiters.values()]

    def begin(self, bringing: Bringing) -> None:
        self._here = self.bytes_here
        self.bringing, self.intent = bringing, None

    def again(self) -> None:
        """Another try after a failed one: for who waits from now on."""
        self._result = None
        self.was_kept = True

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)
            # Nobody need wait for it.
            self.result.exception()

    async def set(self, status: DownloadStatus, error: str | None = None) -> None:
        """Also on the disk, once anything of it is there."""
        self.state = replace(self.state, status=status, error=error)
        if self.bringing is not None and (self.bringing.begun or self.was_kept):
            await self.bringing.save()

    async def halt(self, intent: Literal["pause", "cancel"] | None = None) -> None:
        """End what runs, and wait until it has."""
        task = self.task
        if task is not None and not task.done():
            self.intent = intent
            await end_tasks(task)

    def info(self) -> DownloadInfo:
        meter, running = self.bringing.meter if self.bringing else None, self.status == "downloading"
        return DownloadInfo(
            download_id=self.id,
            model_id=self.model_id,
            source=Redactor().text(self.request.declared_source or self.request.model),
            status=self.status,
            bytes_downloaded=self.bytes_here,
            total_bytes=meter.total if meter else self.state.total_bytes,
            speed_bytes_per_sec=meter.speed if meter and running else 0,
            eta_seconds=meter.eta if meter and running else None,
            started_at=self.state.started_at,
            job_ids=tuple(job_id for job_id, _ in self._waiters.values() if job_id),
            error=self.state.error,
        )

    def progress(self) -> DownloadProgress:
        info = self.info()
        return DownloadProgress(
            bytes_downloaded=info.bytes_downloaded,
            total_bytes=info.total_bytes,
            speed_bytes_per_sec=info.speed_bytes_per_sec,
            eta_seconds=info.eta_seconds,
            started_at=info.started_at,
            source_url=info.source,
        )
