# SPDX-License-Identifier: GPL-3.0-or-later
"""Desired x Actual -> the actions that lead from one to the other, and the problems in the way. Pure.

Three rules hold whatever the input: nothing is done to a machine that is Unknown or has a problem; nothing is
removed that does not carry this fleet's mark; a fleet that is as desired yields no action.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rbee.core.actions import Action
from rbee.core.actual import Actual, HiveActual, QueenActual, Unknown
from rbee.core.desired import Desired, HiveWanted, QueenWanted
from rbee.core.diff_hive import clashes, hive_actions, leaves_work, new_action, removals
from rbee.core.problems import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Actions without their order (see `rbee.core.order`), and what stands in the way."""

    actions: tuple[Action, ...] = ()
    problems: tuple[Problem, ...] = ()


def diff(desired: Desired, actual: Actual) -> Diff:
    """Every difference, each with its reason. Raises nothing: what is in the way is a problem."""
    problems = list(desired.problems)
    actions: list[Action] = []
    blocked: set[str] = set()
    for name in sorted(desired.hives.keys() | actual.hives.keys()):
        wanted, seen = desired.hives.get(name), actual.hives.get(name)
        if seen is None or isinstance(seen, Unknown):
            problems.append(_unseen(f"Hive {name!r}", f"hives.{name}", seen or Unknown(why="It was not looked at.")))
            blocked.add(name)
        elif standing := _in_the_way(name, wanted, seen, desired.fleet):
            problems.extend(standing)
            blocked.add(name)
        elif isinstance(actual.queen, Unknown) and not seen.address:
            blocked.add(name)  # this machine's hive lives in the queen's process, whose problem is told below
        elif wanted is not None:
            actions.extend(hive_actions(wanted, seen, desired.fleet))
            problems.extend(clashes(wanted, seen, desired.fleet))
        elif _foreign(seen, desired.fleet) is None:
            actions.extend(removals(name, seen, desired))
    actions.extend(_queen(desired, actual, blocked))
    if isinstance(actual.queen, Unknown):
        problems.append(_unseen("The queen", "queen", actual.queen))
    return Diff(actions=tuple(actions), problems=tuple(problems))


def _unseen(what: str, subject: str, why: Unknown) -> Problem:
    return Problem(
        summary=f"{what} could not be observed, so nothing is planned for it",
        detail=why.why,
        mend=why.mend,
        subject=subject,
    )


def _in_the_way(name: str, wanted: HiveWanted | None, seen: HiveActual, fleet: str) -> tuple[Problem, ...]:
    """Problems that keep a machine from being touched at all.

    What only keeps it from being a hive does not matter to a machine that is to be cleaned up; only one that
    could not be looked into (`platform` is empty) is left alone then, and that is a warning.
    """
    if wanted is None:
        return () if seen.platform else tuple(replace(p, severity="warning") for p in seen.problems)
    if seen.problems:
        return seen.problems
    other = _foreign(seen, fleet)
    if other is None:
        return ()
    return (
        Problem(
            summary=f"Hive {name!r} belongs to the fleet {other!r}",
            detail=f"A hive of another fleet runs at {seen.address or 'this machine'}; this file is fleet {fleet!r}.",
            mend="Destroy that fleet first, or give this one its own address and ports.",
            subject=f"hives.{name}",
        ),
    )


def _foreign(seen: HiveActual, fleet: str) -> str | None:
    """Name of the other fleet whose hive runs there, if one does."""
    return seen.live.fleet if seen.live is not None and seen.live.fleet != fleet else None


# ---------------------------------------------------------------- the queen


def _queen(desired: Desired, actual: Actual, blocked: set[str]) -> Iterator[Action]:
    seen, wanted = actual.queen, desired.queen
    if isinstance(seen, Unknown):
        return
    revived = seen.fleet and not seen.running and _left_here(desired, actual, blocked)
    if revived:
        yield new_action(
            "queen.start", "add", "queen", "not running; her hive must clean up", subject="queen", as_it_was=True
        )
    if wanted is None:
        if seen.running and seen.workers:
            yield new_action("queen.configure", "change", "queen", "she starts no worker any more", subject="queen")
        if seen.running or seen.fleet:
            yield new_action("queen.stop", "remove", "queen", "the fleet is destroyed", subject="queen")
        return
    if revived:
        yield new_action("queen.restart", "change", "queen", "her hive is not in this file any more", subject="queen")
    else:
        yield from _queen_daemon(wanted, seen)
    online = {h.hive_id for h in seen.hives if h.online} if seen.running else set()
    for hive in wanted.hives:
        if hive not in online and hive not in blocked and not desired.hives[hive].local:
            yield new_action("hive.register", "add", hive, "unknown to the queen", hive=hive, subject=f"hives.{hive}")
    for known in seen.hives:
        if known.hive_id not in wanted.hives and known.hive_id not in blocked:
            yield new_action(
                "hive.unregister", "remove", known.hive_id, "not in this file", hive=known.hive_id,
                subject=f"hives.{known.hive_id}",
            )  # fmt: skip


def _left_here(desired: Desired, actual: Actual, blocked: set[str]) -> bool:
    """Whether this machine's hive is to go and left work behind, which only the queen's process can clean up."""
    return any(
        isinstance(h, HiveActual) and not h.address and h.live is None and leaves_work(h, desired)
        for name, h in actual.hives.items()
        if name not in desired.hives and name not in blocked
    )


def _queen_daemon(wanted: QueenWanted, seen: QueenActual) -> Iterator[Action]:
    if not seen.running:
        yield new_action("queen.start", "add", "queen", "not running", subject="queen")
        return
    reasons = [
        text
        for differs, text in (
            (seen.release != wanted.release, f"runs release {seen.release or '(unknown)'}"),
            (seen.token_digest not in (None, wanted.token_digest), "has another token"),
            (seen.boot_digest != wanted.boot_digest, "listens, stores, traces or runs its hive otherwise"),
        )
        if differs
    ]
    if reasons:
        yield new_action("queen.restart", "change", "queen", "; ".join(reasons), subject="queen")
    elif seen.config_digest != wanted.config_digest:
        reason = "models, workers, aliases, policies, keys or hives changed"
        yield new_action("queen.configure", "change", "queen", reason, subject="queen")
