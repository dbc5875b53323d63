# SPDX-License-Identifier: GPL-3.0-or-later
"""Since when each model is known: by its file on some hive, else by its workers, else since the queen heard of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import QueenConfig
from rbee.core.moments import epoch
from rbee.daemons.queen.known.hives import Hives
from rbee.daemons.queen.known.registry import Registry

#: A moment as it was written, and in epoch seconds. The texts sort as the moments do.
_Moment = tuple[str, int]


class Since:
    """`of` gives the same at each call as long as no older file comes to light; `look` is to be called before.

    `clock` gives epoch seconds.
    """

    def __init__(
        self, registry: Registry, hives: Hives, config: QueenConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self._registry = registry
        self._hives = hives
        self._clock = clock
        #: What was looked at, by hive: another object when a hive told something new.
        self._looked: dict[str, Capabilities] = {}
        #: The earliest by model.
        self._files: dict[str, _Moment] = {}
        self._workers: dict[str, _Moment] = {}
        self._heard: dict[str, int] = {}
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        now = int(self._clock())
        self._heard = {m.name: self._heard.get(m.name, now) for m in config.models}

    def look(self) -> None:
        """Takes in what hives told since the last look, and forgets models that nobody has any more."""
        hives = {name: h.capabilities for name, h in self._hives.by_id.items() if h.capabilities is not None}
        if hives.keys() != self._looked.keys() or any(self._looked[name] is not said for name, said in hives.items()):
            self._looked, self._files = hives, {}
            for said in hives.values():
                for model in said.models:
                    _note(self._files, model.id, model.added_at)
        if len(self._workers) > 2 * len(self._registry.models):
            self._workers = {m: at for m, at in self._workers.items() if m in self._registry.models}

    def of(self, model: str) -> int:
        """Epoch seconds; 0: it is not known, or not yet, as some hive has not told what it has."""
        found = self._files.get(model)
        if found is None:
            for worker in self._registry.of_model(model).values():
                _note(self._workers, model, worker.beat.started_at)
            found = self._workers.get(model)
        if found is not None:
            return found[1]
        if any(h.capabilities is None and not h.error for h in self._hives.by_id.values()):
            return 0
        return self._heard.get(model, 0)


def _note(of: dict[str, _Moment], model: str, text: str) -> None:
    """Keeps the earlier one. A text that is no moment of our time counts for nothing."""
    known = of.get(model)
    if known is None or text < known[0]:
        at = epoch(text)
        if at is not None and at > 0:
            of[model] = text, int(at)
