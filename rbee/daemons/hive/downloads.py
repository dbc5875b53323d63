# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads of models: one of a model at a time; who asks for the same again joins and hears the same."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.sources import Located, Source, default_id
from rbee.contracts.heartbeat import ModelChange
from rbee.contracts.operations.models import ModelDownload
from rbee.core.errors import Conflict, Interrupted, InvalidRequest
from rbee.core.records import DownloadProgress, ModelRecord
from rbee.daemons.hive.bringing import Bringing

Narrate = Callable[..., None]


@dataclass(slots=True)
class _Active:
    """A download that runs; `listeners` are the jobs that wait for it."""

    key: tuple[Any, ...]
    task: asyncio.Task[ModelRecord]
    listeners: list[Narrate] = field(default_factory=list)


class Downloads:
    """Fetches models into the catalog. Lives on one event loop."""

    def __init__(
        self, catalog: ModelCatalog, sources: Sequence[Source], on_change: Callable[[ModelChange], None]
    ) -> None:
        self._catalog = catalog
        self._sources = tuple(sources)
        self._on_change = on_change
        self._active: dict[str, _Active] = {}

    async def locate(self, source: str, revision: str | None) -> Located:
        """The files of a source at a revision, as it tells them now. Raises RbeeError, as sources do."""
        found = next((s for s in self._sources if s.supports(source)), None)
        if found is None:
            raise InvalidRequest(f"No source knows {source!r}.")
        return await found.locate(source, revision)

    def active(self, model_id: str) -> bool:
        return model_id in self._active

    def progress(self, model_id: str) -> DownloadProgress | None:
        """How far the download of a model is; None when none runs."""
        return None

    async def stop(self) -> None:
        """Cancel what runs; what was fetched stays for the next time."""
        tasks = [a.task for a in self._active.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def get(self, request: ModelDownload, narrate: Narrate) -> ModelRecord:
        """The model, there and verified. Cancelling the last who waits cancels the download (its part stays).

        Raises RbeeError: conflict when another source is being downloaded under that id, and what sources raise.
        """
        model_id = request.model_id or default_id(request.model)
        key = (request.model, request.revision, request.sha256)
        active = self._active.get(model_id)
        if active is None:
            source = next((s for s in self._sources if s.supports(request.model)), None)
            if source is None:
                raise InvalidRequest(
                    f"No source knows {request.model!r}.",
                    mend="Write hf:ORG/REPO/FILE.gguf, https://..., file:/path or builtin:NAME.",
                )
            tell = functools.partial(self._tell, model_id)
            bringing = Bringing(self._catalog, source, request, model_id, tell, self._on_change)
            active = _Active(key, asyncio.create_task(bringing.run(), name=f"download-{model_id}"))
            self._active[model_id] = active
            active.task.add_done_callback(lambda _: self._active.pop(model_id, None))
        elif active.key != key:
            raise Conflict(
                f"Another download of {model_id!r} runs, from another source.", mend="Cancel that one or wait for it."
            )
        else:
            narrate("model_download_joined", f"{model_id} is being downloaded already.", model_id=model_id)
        return await self._wait(active, narrate)

    async def _wait(self, active: _Active, narrate: Narrate) -> ModelRecord:
        active.listeners.append(narrate)
        try:
            return await asyncio.shield(active.task)
        except asyncio.CancelledError:
            if active.task.cancelled():
                raise Interrupted("The download was cancelled.") from None
            raise
        finally:
            active.listeners.remove(narrate)
            if not active.listeners and not active.task.done():
                active.task.cancel()
                await asyncio.wait({active.task})

    def _tell(self, model_id: str, name: str, message: str, **fields: Any) -> None:
        active = self._active.get(model_id)
        for narrate in list(active.listeners) if active else ():
            narrate(name, message, model_id=model_id, **fields)

    def changed(self, change: ModelChange) -> None:
        """A model came or went by other ways than a download."""
        self._on_change(change)
