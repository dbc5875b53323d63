# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan for people: what will happen to each machine, why, and the summary line."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from rbee.core.actions import SIGN, Action
from rbee.core.plan import Plan

COLOUR = {"add": "green", "change": "yellow", "replace": "magenta", "remove": "red"}


def render(plan: Plan, destroy: bool = False) -> Iterator[Text]:
    """Lines of a plan, machine by machine; the summary line last. Without colour they are plain text."""
    if not plan.empty:
        yield Text(f"Fleet {plan.fleet}:")
        yield Text()
        for title, actions in _grouped(plan):
            yield Text(title, style="bold")
            width = max(len(_what(a)) for a in actions)
            for action in actions:
                yield _line(action, width)
            yield Text()
    nothing = destroy and plan.empty and not plan.blocked
    yield Text("No changes. Nothing of this fleet is left." if nothing else plan.summary, style="bold")


def _grouped(plan: Plan) -> list[tuple[str, list[Action]]]:
    groups: dict[str, list[Action]] = {}
    for action in plan.actions:
        groups.setdefault(f"hive {action.hive}" if action.hive else "queen", []).append(action)
    return sorted(groups.items(), key=lambda g: (g[0] != "queen", g[0]))


def _what(action: Action) -> str:
    return action.kind if action.kind.startswith(("queen.", "hive.")) else f"{action.kind} {action.name}"


def _line(action: Action, width: int) -> Text:
    line = Text("  ")
    line.append(f"{SIGN[action.change]:>3} ", style=COLOUR[action.change])
    line.append(f"{_what(action):<{width}}")
    line.append(f"  {action.reason}", style="dim")
    return line
