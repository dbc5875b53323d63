# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan for people: what will happen to each machine, why, and the summary line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    if plan.on_demand:
        yield Text(_on_demand(plan.on_demand), style="dim")
        yield Text()
    nothing = destroy and plan.empty and not plan.blocked
    yield Text("No changes. Nothing of this fleet is left." if nothing else plan.summary, style="bold")


def _on_demand(ids: Sequence[str]) -> str:
    """`3 workers on demand: chat-2 to chat-4. The queen starts them when wanted.`"""
    groups: dict[str, list[str]] = {}
    for worker_id in ids:
        groups.setdefault(worker_id.rpartition("-")[0], []).append(worker_id)
    named = [_range(group) for group in groups.values()]
    many = f"{len(ids)} workers" if len(ids) > 1 else "1 worker"
    return f"{many} on demand: {', '.join(named)}. The queen starts {'them' if len(ids) > 1 else 'it'} when wanted."


def _range(ids: Sequence[str]) -> str:
    ordered = sorted(ids, key=lambda i: int(i.rpartition("-")[2]))
    return f"{ordered[0]} to {ordered[-1]}" if len(ordered) > 2 else ", ".join(ordered)


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
