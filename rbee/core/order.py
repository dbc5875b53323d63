# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be done before what. The rules are a table; the graph follows from the actions that are there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rbee.core.actions import Action, Kind

#: Kinds that come before a kind, where both are about the same hive (or one is about the queen).
BEFORE: dict[Kind, tuple[Kind, ...]] = {
    "hive.start": ("hive.install",),
    "hive.restart": ("hive.install",),
    "engine.install": ("hive.install",),
    "model.push": ("hive.start", "hive.restart"),
    "model.fetch": ("hive.start", "hive.restart"),
    "worker.spawn": ("hive.start", "hive.restart", "engine.install", "model.push", "model.fetch", "worker.stop"),
    "worker.configure": ("hive.start", "hive.restart"),
    "worker.replace": ("hive.start", "hive.restart", "engine.install", "model.push", "model.fetch", "worker.stop"),
    "worker.stop": ("hive.start", "hive.restart"),
    "model.remove": ("hive.start", "hive.restart", "worker.stop", "worker.replace"),
    "engine.remove": ("worker.stop", "worker.replace"),
    "hive.register": ("hive.start", "hive.restart"),
    "hive.unregister": ("worker.stop", "hive.stop"),
    "hive.stop": ("worker.stop", "model.remove", "engine.remove"),
    "hive.uninstall": ("hive.stop",),
}
#: What needs the queen's process: her local hive lives in it, and she registers hives.
QUEEN_UP: tuple[Kind, ...] = ("queen.start", "queen.configure", "queen.restart")
#: Kinds whose order matters only between actions on one subject, so that unlike models do not wait for each other.
_SAME_MODEL: frozenset[Kind] = frozenset({"model.push", "model.fetch"})


def order(
    actions: Iterable[Action], local_hive: str | None, leaving: frozenset[str] = frozenset()
) -> tuple[Action, ...]:
    """The actions with `needs` filled in, in an order that respects them (and is the same every time).

    `local_hive` is the name of the hive that will be inside the queen's process, if any; `leaving` names hives that
    are in it now and will not be. Raises ValueError when the rules form a cycle (they do not).
    """
    listed = list(actions)
    wired = [
        replace(a, needs=tuple(b.id for b in listed if b is not a and _before(b, a, local_hive, leaving)))
        for a in listed
    ]
    done: set[str] = set()
    out: list[Action] = []
    while len(out) < len(wired):
        ready = [a for a in wired if a.id not in done and all(n in done for n in a.needs)]
        if not ready:
            raise ValueError("the plan's order has a cycle: " + ", ".join(a.id for a in wired if a.id not in done))
        out.extend(ready)
        done.update(a.id for a in ready)
    return tuple(out)


def _before(first: Action, then: Action, local_hive: str | None, leaving: frozenset[str]) -> bool:
    """Whether `first` must be done before `then`."""
    if then.kind == "queen.stop":
        return True
    if then.kind == "queen.restart" and first.hive in leaving:
        # The hive ends with the old process: what it has made is cleaned up through it before.
        return first.kind != "hive.unregister"
    if first.kind == "queen.start" and (then.kind == "queen.restart" or then.hive in leaving):
        return True  # she was started once more as she was, for the hive in her process to clean up
    if first.kind in QUEEN_UP:
        if first.kind != "queen.start" and then.kind in ("worker.stop", "worker.replace") and then.hive not in leaving:
            # Else she might start again, as it was, what is being taken away while requests wait for it.
            return True
        return then.kind in ("hive.register", "hive.unregister") or (
            local_hive is not None and then.hive == local_hive and then.kind != "engine.install"
        )
    if first.kind not in BEFORE.get(then.kind, ()):
        return False
    if first.kind == "worker.stop" and then.kind in ("worker.spawn", "worker.replace"):
        # A worker that moves must be gone from its old hive before its name is used again.
        return first.hive == then.hive or first.name == then.name
    if first.hive != then.hive:
        return False
    if first.kind in _SAME_MODEL:
        return first.name == then.params.get("model")
    if first.kind == "engine.install":
        return first.name == then.params.get("binary_id")
    return True
