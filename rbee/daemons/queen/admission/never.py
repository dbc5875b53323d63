# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that no worker of their model will ever answer: refused at once with 400, where a 503 would make clients
come again and again."""

from __future__ import annotations

from collections.abc import Iterable

from rbee.contracts.configs import KnownWorker, QueenConfig
from rbee.core.errors import InvalidRequest
from rbee.core.routing import Needs, unfit
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Registry

_FIELDS = {"/v1/completions": "prompt", "/v1/responses": "input", "/v1/embeddings": "input", "/v1/rerank": "documents"}


class Never:
    """Looked at for requests that have to wait, so it may cost more than routing. `configure` replaces the plan."""

    def __init__(self, registry: Registry, config: QueenConfig) -> None:
        self._registry = registry
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self._planned: dict[str, list[KnownWorker]] = {}
        for worker in config.workers:
            self._planned.setdefault(worker.model, []).append(worker)

    def check(self, asked: Asked, needs: Needs) -> None:
        """Raises InvalidRequest when every known worker lacks what the request needs, and the plan has no other kind
        of worker for its models."""
        workers = self._registry.of_models(asked.models)
        why = unfit(workers, needs)
        if why is None or self._another_kind(asked.models):
            return
        code, lacking = why
        raise InvalidRequest(
            f"The model {asked.name!r} cannot answer this: it {lacking}.",
            code=code,
            mend="`GET /v1/models` tells what each model can.",
            param="model" if code == "unsupported_endpoint" else _FIELDS.get(asked.path, "messages"),
        )

    def _another_kind(self, models: Iterable[str]) -> bool:
        """Whether a worker could be started that differs from those that are there."""
        planned = [w for model in models for w in self._planned.get(model, ())]
        there = {_kind(w) for w in planned if w.worker_id in self._registry.workers}
        return any(_kind(w) not in there for w in planned)


def _kind(worker: KnownWorker) -> tuple[object, ...]:
    return worker.model, worker.engine, worker.options.task, worker.options.context_length
