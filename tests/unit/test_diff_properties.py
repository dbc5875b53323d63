# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds of every plan, whatever is wanted and whatever was seen."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.core.actual import Actual, HiveActual, QueenActual, Unknown
from rbee.core.desired import Desired
from rbee.core.diff import diff
from rbee.core.order import order
from rbee.core.plan import make_plan, only
from rbee.core.problems import ProblemsError
from rbee.core.records import Mark
from tests.unit.simulator import apply
from tests.unit.strategies import FLEET, LOCAL, actuals, desireds


@given(desireds(), actuals())
@settings(max_examples=150)
def test_a_plan_that_was_done_leaves_nothing_to_do(wanted: Desired, seen: Actual) -> None:
    plan = make_plan(wanted, seen, LOCAL)
    after = apply(plan.actions, wanted, seen)  # refuses what is out of order or not ours
    assert diff(wanted, after).actions == ()


@given(desireds(), actuals())
def test_nothing_is_done_to_an_unknown_machine_and_it_is_told(wanted: Desired, seen: Actual) -> None:
    found = diff(wanted, seen)
    for name in wanted.hives.keys() | seen.hives.keys():
        hive = seen.hives.get(name)
        if hive is None or isinstance(hive, Unknown):
            assert [a for a in found.actions if a.hive == name] == []
            assert [p for p in found.problems if p.subject == f"hives.{name}"]
        elif name in wanted.hives and hive.problems:
            assert [a for a in found.actions if a.hive == name] == []
            assert set(hive.problems) <= set(found.problems)
    if isinstance(seen.queen, Unknown):
        assert not [a for a in found.actions if a.kind.startswith("queen.") or a.kind.endswith("register")]
        assert [p for p in found.problems if p.subject == "queen"]


@given(desireds(), actuals())
def test_only_what_has_our_mark_is_removed_replaced_or_overwritten(wanted: Desired, seen: Actual) -> None:
    for action in diff(wanted, seen).actions:
        if action.change == "add" or not action.kind.startswith(("engine.", "model.", "worker.")):
            continue
        hive = seen.hives[action.hive or ""]
        assert isinstance(hive, HiveActual)
        about: dict[str, tuple[str, Mark | None]] = {b.id: (b.status, b.mark) for b in hive.binaries}
        about |= {w.worker_id: (w.status, w.mark) for w in hive.workers}
        about |= {m.id: (m.status, m.mark) for m in hive.models}
        status, mark = about[action.name]
        half = action.kind in ("model.fetch", "model.push") and status != "available"
        assert half or (mark is not None and mark.fleet == FLEET)


@given(desireds(), actuals())
def test_what_runs_without_our_mark_keeps_its_engine_and_model(wanted: Desired, seen: Actual) -> None:
    removed = {(a.hive, a.name) for a in diff(wanted, seen).actions if a.kind in ("engine.remove", "model.remove")}
    for name in wanted.hives:
        hive = seen.hives.get(name)
        for w in hive.workers if isinstance(hive, HiveActual) else ():
            if (w.mark is None or w.mark.fleet != FLEET) and w.status in ("starting", "ready", "busy"):
                assert not {(name, w.engine), (name, w.model)} & removed


@given(desireds(), actuals())
def test_the_order_respects_needs_and_ids_are_unique(wanted: Desired, seen: Actual) -> None:
    actions = make_plan(wanted, seen, LOCAL).actions
    place = {a.id: i for i, a in enumerate(actions)}
    assert len(place) == len(actions)
    assert all(place[n] < place[a.id] for a in actions for n in a.needs)


@given(desireds(), actuals(), st.randoms(use_true_random=False))
def test_the_graph_does_not_depend_on_the_order_of_the_actions(wanted: Desired, seen: Actual, random: Random) -> None:
    actions = list(diff(wanted, seen).actions)
    straight = {a.id: set(a.needs) for a in order(actions, LOCAL)}
    random.shuffle(actions)
    assert {a.id: set(a.needs) for a in order(actions, LOCAL)} == straight


@given(desireds(), actuals())
def test_equal_inputs_give_an_equal_plan(wanted: Desired, seen: Actual) -> None:
    backwards = replace(seen, hives=dict(reversed(seen.hives.items())))
    wanted_backwards = replace(wanted, hives=dict(reversed(wanted.hives.items())))
    assert make_plan(wanted, seen, LOCAL) == make_plan(wanted_backwards, backwards, LOCAL)


@given(desireds(), actuals(), st.data())
def test_a_targeted_plan_has_all_that_it_needs(wanted: Desired, seen: Actual, data: st.DataObject) -> None:
    plan = make_plan(wanted, seen, LOCAL)
    subjects = [a.subject for a in plan.actions] or ["queen"]
    targets = data.draw(st.lists(st.sampled_from(subjects), min_size=1, max_size=3))
    part = only(plan, targets)
    ids = {a.id for a in part.actions}
    assert all(set(a.needs) <= ids for a in part.actions)
    assert {a.id for a in plan.actions if a.subject in targets} <= ids
    assert [a for a in plan.actions if a.id in ids] == list(part.actions)
    needed = {n for a in part.actions for n in a.needs}
    hives = {t for t in targets if t.startswith("hives.")}
    extra = [a for a in part.actions if a.subject not in targets and a.id not in needed]
    assert all(f"hives.{a.hive}" in hives for a in extra)


def test_a_target_that_is_nothing_is_refused() -> None:
    with pytest.raises(ProblemsError):
        only(make_plan(Desired(fleet=FLEET, queen=None), Actual(queen=QueenActual(running=False)), None), ["what"])
