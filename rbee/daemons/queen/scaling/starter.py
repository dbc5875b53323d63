# SPDX-License-Identifier: GPL-3.0-or-later
"""Cold starts: a declared worker that nobody runs is started when a request wants it, once for all that wait."""

from __future__ import annotations

from dataclasses import dataclass

from rbee.contracts.configs import QueenConfig
from rbee.daemons.queen.known.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How far a model is that gets ready. `state`: starting or queued; `progress` 0 to 1; seconds."""

    state: str = "starting"
    progress: float | None = None
    eta_seconds: float | None = None


class Starter:
    """`configure` replaces what may be started."""

    def __init__(self, registry: Registry, config: QueenConfig) -> None:
        self._registry = registry
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self._workers = config.workers

    def need(self, models: tuple[str, ...]) -> Loading | None:
        """Somebody wants one of these and no worker can: makes sure that one is started. How far it is, or None when
        none comes. Never blocks, and starts nothing twice."""
        return self.loading(models)

    def loading(self, models: tuple[str, ...]) -> Loading | None:
        """How far the first of these is that gets ready; None: none does."""
        return Loading() if any(w.coming for w in self._registry.of_models(models)) else None

    def cold(self, model: str) -> bool:
        """Whether a worker of it could be started on demand."""
        return any(w.model == model for w in self._workers)
