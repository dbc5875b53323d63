# SPDX-License-Identifier: GPL-3.0-or-later
"""The names that clients may ask for: declared models, models of live workers, aliases."""

from __future__ import annotations

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
