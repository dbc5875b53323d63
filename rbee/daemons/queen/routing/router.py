# SPDX-License-Identifier: GPL-3.0-or-later
"""Routing on the queen's own registry: the pure decision fed with facts, kept so that it can be explained."""

from __future__ import annotations

from collections.abc import Callable

from rbee.contracts.configs import QueenConfig
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Registry, Worker

#: How many workers are asked for one request, at most.
MAX_TRIES = 4


class Router:
    """`configure` replaces the policies."""

    def __init__(self, registry: Registry, config: QueenConfig, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self._policies = config.policies

    def admit(self, asked: Asked) -> None:
        """Applies the policies that reject. Raises RbeeError `policy_rejected` with the policy's reason."""

    def choose(self, asked: Asked) -> Worker | None:
        """The worker for it, of those that have a free slot; None: none has. Nothing is taken yet."""
        return self._registry.pick(asked.models, asked.tried) if len(asked.tried) < MAX_TRIES else None

    def able(self, asked: Asked) -> bool:
        """Whether a worker could serve it now if it had a free slot."""
        workers = self._registry.of_models(asked.models) if len(asked.tried) < MAX_TRIES else ()
        return any(self._registry.why_not(w) is None and w.worker_id not in asked.tried for w in workers)

    def reasons(self, asked: Asked) -> tuple[str, ...]:
        """Why nobody can, as `worker: reason`."""
        return self._registry.reasons(asked.models, asked.tried)
