# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan: an immutable, complete value. It can be shown, saved, and done later if nothing changed meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rbee.core.actions import Action
from rbee.core.actual import Actual, fingerprint
from rbee.core.desired import Desired
from rbee.core.diff import diff
from rbee.core.digest import digest
from rbee.core.order import order
from rbee.core.problems import Problem, ProblemsError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`made_from` is the digest of what was wanted and what was seen: a saved plan is stale when it differs."""

    fleet: str
    made_from: str
    actions: tuple[Action, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.actions

    @property
    def blocked(self) -> bool:
        """Whether some problem is an error: then apply does the rest and ends with 1."""
        return any(p.severity == "error" for p in self.problems)

    def counts(self) -> dict[str, int]:
        found = Counter(a.change for a in self.actions)
        return {change: found.get(change, 0) for change in ("add", "change", "replace", "remove")}

    @property
    def summary(self) -> str:
        """The last line of a plan for people."""
        if self.empty:
            return "No changes." if self.blocked else "No changes. The fleet is as rbee.yaml says."
        c = self.counts()
        return f"Plan: {c['add']} to add, {c['change']} to change, {c['replace']} to replace, {c['remove']} to remove."


def make_plan(desired: Desired, actual: Actual, local_hive: str | None) -> Plan:
    """Diff, order, and the digest of both inputs."""
    found = diff(desired, actual)
    return Plan(
        fleet=desired.fleet,
        made_from=digest({"desired": desired, "actual": fingerprint(actual)}, 64),
        actions=order(found.actions, local_hive),
        problems=found.problems,
    )


def only(plan: Plan, targets: Sequence[str]) -> Plan:
    """The part of a plan that `--target` names, with all that it needs.

    A target is a subject (`workers.chat-0`), a spec's worker (`workers.chat`), or a hive (`hives.box`: all that
    happens on it). Raises ProblemsError for a target that is not in the plan.
    """
    if not targets:
        return plan
    by_id = {a.id: a for a in plan.actions}
    chosen: set[str] = set()
    missing: list[Problem] = []
    for target in targets:
        hit = [a.id for a in plan.actions if _matches(a, target)]
        known = any(p.subject == target for p in plan.problems)
        if not hit and not known and not _plausible(target):
            subjects = sorted({a.subject for a in plan.actions})
            missing.append(
                Problem(
                    summary=f"--target {target!r} is not an address of the plan",
                    detail="A target is queen, hives.NAME, models.NAME@HIVE, engines.NAME@HIVE or workers.NAME.",
                    mend=did_you_mean(target, subjects),
                )
            )
        chosen.update(hit)
    if missing:
        raise ProblemsError(missing)
    todo = list(chosen)
    while todo:
        for need in by_id[todo.pop()].needs:
            if need not in chosen:
                chosen.add(need)
                todo.append(need)
    return replace(
        plan,
        actions=tuple(a for a in plan.actions if a.id in chosen),
        problems=tuple(p for p in plan.problems if not p.subject or any(_touches(p.subject, t) for t in targets)),
    )


def _matches(action: Action, target: str) -> bool:
    if action.subject == target or (action.hive is not None and target == f"hives.{action.hive}"):
        return True
    stem, _, index = action.subject.rpartition("-")
    return action.subject.startswith("workers.") and index.isdigit() and stem == target


def _plausible(target: str) -> bool:
    kind, _, name = target.partition(".")
    return target == "queen" or (kind in ("hives", "models", "engines", "workers") and bool(name))


def _touches(subject: str, target: str) -> bool:
    return subject == target or subject.startswith(f"{target}-")
