# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan: an immutable, complete value. It can be shown, saved, and done later if nothing changed meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rbee.core.actions import Action
from rbee.core.actual import Actual, HiveActual, fingerprint
from rbee.core.desired import Desired
from rbee.core.diff import diff
from rbee.core.digest import digest
from rbee.core.order import order
from rbee.core.placement import worker_ids
from rbee.core.problems import Problem, ProblemsError, did_you_mean
from rbee.core.spec import Spec

_NUMBER = "-0123456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`made_from` is the digest of what was wanted and what was seen: a saved plan is stale when it differs."""

    fleet: str
    made_from: str
    actions: tuple[Action, ...] = ()
    problems: tuple[Problem, ...] = ()
    #: Ids of the workers that the queen starts when they are wanted, and no plan ever does.
    on_demand: tuple[str, ...] = ()

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
            return (
                "Nothing to do beside the problems below."
                if self.blocked
                else "No changes. The fleet is as rbee.yaml says."
            )
        c = self.counts()
        return f"Plan: {c['add']} to add, {c['change']} to change, {c['replace']} to replace, {c['remove']} to remove."


def make_plan(desired: Desired, actual: Actual, local_hive: str | None) -> Plan:
    """Diff, order, and the digest of both inputs."""
    found = diff(desired, actual)
    leaving = {n for n, h in actual.hives.items() if isinstance(h, HiveActual) and not h.address} - {local_hive}
    hers = [(n, w) for n, h in sorted(desired.hives.items()) for w in h.workers if w.on_demand]
    # Of problems only what they are: their details hold numbers (free memory) that change by themselves.
    told = sorted((p.subject, p.summary) for p in desired.problems)
    seen = fingerprint(actual, {(hive, w.worker_id, w.digest) for hive, w in hers})
    return Plan(
        fleet=desired.fleet,
        made_from=digest([replace(desired, problems=()), told, seen], 64),
        actions=order(found.actions, local_hive, frozenset(n for n in leaving if n)),
        problems=found.problems,
        on_demand=tuple(w.worker_id for _, w in hers),
    )


def check_targets(spec: Spec, targets: Sequence[str]) -> None:
    """Raises ProblemsError for targets that name nothing of the file, all at once, with the nearest that would.

    Hives and workers that only exist live (to be removed) are let through when their name is no near miss of one
    of the file's; another number at its end (a replica too many) makes it another name, not a near miss.
    """
    known = ["queen", *(f"hives.{h}" for h in spec.hives), *(f"workers.{w}" for w in spec.workers)]
    known += [f"workers.{i}" for w in spec.workers.values() for i in worker_ids(w)]
    problems = [
        Problem(
            summary=f"--target {target!r} names nothing of this file",
            detail="A target is queen, hives.NAME, models.NAME@HIVE, engines.NAME@HIVE or workers.NAME.",
            mend=did_you_mean(target, known),
        )
        for target in targets
        if target not in known and not (_plausible(target) and _only_live(spec, target))
    ]
    if problems:
        raise ProblemsError(problems)


def _only_live(spec: Spec, target: str) -> bool:
    """Whether a target that the file does not name may be something that is still there, or comes from the file."""
    kind, _, name = target.partition(".")
    names = {"hives": list(spec.hives), "workers": list(spec.workers)}.get(kind, [])
    others = [n for n in names if n.rstrip(_NUMBER) != name.rstrip(_NUMBER)]
    return not did_you_mean(name, others).startswith("Did you mean")


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
        if not hit and not _plausible(target):
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
    idle = {t for t in targets if not any(_matches(a, t) for a in plan.actions)}
    return replace(
        plan,
        actions=tuple(a for a in plan.actions if a.id in chosen),
        problems=tuple(p for p in plan.problems if not p.subject or any(_touches(p, t, t in idle) for t in targets)),
    )


def _matches(action: Action, target: str) -> bool:
    return (
        action.subject == target
        or (action.hive is not None and target == f"hives.{action.hive}")
        or _replica_of(action.subject, target)
    )


def _replica_of(subject: str, target: str) -> bool:
    """Whether `workers.chat-0` is meant by `workers.chat`."""
    stem, _, index = subject.rpartition("-")
    return subject.startswith("workers.") and index.isdigit() and stem == target


def _plausible(target: str) -> bool:
    kind, _, name = target.partition(".")
    return target == "queen" or (kind in ("hives", "models", "engines", "workers") and bool(name))


def _touches(problem: Problem, target: str, idle: bool) -> bool:
    """Whether a problem is about a target. Nothing to do for a target may be because of any hive's problem."""
    subject, (kind, _, name) = problem.subject, target.partition(".")
    if subject == target or _replica_of(subject, target):
        return True
    if kind == "hives":
        return subject.rpartition("@")[2] == name
    if "@" in target:
        return subject == f"hives.{target.rpartition('@')[2]}"
    return idle and kind == "workers" and subject.startswith("hives.")
