# SPDX-License-Identifier: GPL-3.0-or-later
"""The names that clients may ask for: declared models, models of live workers, aliases."""

from __future__ import annotations

from typing import Any

from rbee.contracts.configs import QueenConfig
from rbee.core.errors import NotFound
from rbee.core.problems import did_you_mean
from rbee.core.routing import models_for
from rbee.daemons.queen.known.registry import Registry


class Catalog:
    """Names over the registry; `configure` replaces what was declared."""

    def __init__(self, registry: Registry, config: QueenConfig) -> None:
        self._registry = registry
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self._declared = {m.name: m for m in config.models}
        self.aliases = dict(config.aliases)
        self._resolved: dict[str, tuple[str, ...]] = {}
        self._resolved_at = -1

    def resolve(self, name: str) -> tuple[str, ...]:
        """The models that answer for `name`, first choice first. Raises NotFound with what is known."""
        if self._resolved_at != self._registry.generation:
            self._resolved, self._resolved_at = {}, self._registry.generation
        models = self._resolved.get(name)
        if models is None:
            models = self._resolved[name] = self._resolve(name)
        return models

    def _resolve(self, name: str) -> tuple[str, ...]:
        live = self._registry.models
        if name in self._declared or name in live:
            return (name,)
        models = models_for(name, self.aliases, {*self._declared, *live}) if name in self.aliases else ()
        if not models:
            raise NotFound(
                f"The model {name!r} does not exist.",
                code="model_not_found",
                mend=did_you_mean(name, self.names()),
                param="model",
            )
        return models

    def names(self) -> list[str]:
        """Everything that `/v1/models` lists, sorted."""
        return sorted({*self._declared, *self._registry.models, *self.aliases})

    def entry(self, name: str) -> dict[str, Any]:
        """OpenAI's model object, and under `rbee` what stands behind it. Raises NotFound."""
        models = self.resolve(name)
        workers = self._registry.of_models(models)
        ready = sum(self._registry.why_not(w) is None for w in workers)
        about: dict[str, Any] = {"state": "ready" if ready else "no_worker", "workers": ready}
        if not ready and any(w.status == "starting" for w in workers):
            about["state"] = "starting"
        if name in self.aliases and models != (name,):
            about["alias_of"] = list(models)
        elif lengths := [w.beat.context_length for w in workers if w.beat.context_length]:
            about["context_length"] = max(lengths)
        return {"id": name, "object": "model", "created": 0, "owned_by": "rbee", "rbee": about}
