# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be done before what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rbee.core.actions import Action, Kind
from rbee.core.actual import Actual, HiveActual, QueenActual, Unknown
from rbee.core.desired import Desired
from rbee.core.diff_hive import new_action
from rbee.core.order import order
from rbee.core.plan import make_plan
from tests.unit.strategies import (
    ENGINE,
    FLEET,
    bare,
    desired,
    hive_actual,
    hive_wanted,
    queen_actual,
    wanted_model,
    wanted_worker,
    worker,
)


def needs(actions: tuple[Action, ...]) -> dict[str, set[str]]:
    return {a.id: set(a.needs) for a in actions}


def test_a_first_apply_on_another_machine() -> None:
    wanted = desired(hive_wanted(models=(wanted_model(), wanted_model("big"))))
    plan = make_plan(wanted, Actual(queen=QueenActual(running=False), hives={"box": bare()}), None)
    assert needs(plan.actions) == {
        "hive.install box": set(),
        "queen.start queen": set(),
        "hive.start box": {"hive.install box"},
        f"engine.install {ENGINE} on box": {"hive.install box"},
        "model.fetch tiny on box": {"hive.start box"},
        "model.fetch big on box": {"hive.start box"},
        "hive.register box": {"hive.start box", "queen.start queen"},
        # not the model that it does not use
        "worker.spawn chat-0 on box": {
            "hive.start box",
            f"engine.install {ENGINE} on box",
            "model.fetch tiny on box",
        },
    }


def test_on_this_machine_all_but_engines_waits_for_the_queen() -> None:
    wanted = desired(hive_wanted("here", local=True))
    plan = make_plan(wanted, Actual(queen=QueenActual(running=False), hives={"here": bare(address="")}), "here")
    found = needs(plan.actions)
    assert found[f"engine.install {ENGINE} on here"] == set()
    assert found["model.fetch tiny on here"] == {"queen.start queen"}
    assert "queen.start queen" in found["worker.spawn chat-0 on here"]


def test_hives_do_not_wait_for_each_other() -> None:
    wanted = desired(hive_wanted("a", workers=()), hive_wanted("b", workers=()))
    plan = make_plan(wanted, Actual(queen=queen_actual("a", "b"), hives={"a": bare(), "b": bare()}), None)
    assert all(n.endswith(a.hive or "") for a in plan.actions for n in a.needs)


def test_a_worker_that_moves_ends_first_where_it_was() -> None:
    wanted = desired(hive_wanted("a", workers=()), hive_wanted("b"))
    seen: dict[str, HiveActual | Unknown] = {"a": hive_actual(), "b": hive_actual(workers=())}
    found = needs(make_plan(wanted, Actual(queen=queen_actual("a", "b"), hives=seen), None).actions)
    assert found["worker.spawn chat-0 on b"] == {"worker.stop chat-0 on a"}


def test_what_is_not_needed_goes_when_nothing_uses_it_any_more() -> None:
    wanted = desired(hive_wanted(engines=(), models=(), workers=()))
    found = needs(make_plan(wanted, Actual(queen=queen_actual("box"), hives={"box": hive_actual()}), None).actions)
    stop = "worker.stop chat-0 on box"
    assert found == {stop: set(), "model.remove tiny on box": {stop}, f"engine.remove {ENGINE} on box": {stop}}


def test_a_hive_is_cleaned_up_before_it_goes_and_is_forgotten_last() -> None:
    found = needs(make_plan(desired(), Actual(queen=queen_actual("box"), hives={"box": hive_actual()}), None).actions)
    things = {"worker.stop chat-0 on box", "model.remove tiny on box", f"engine.remove {ENGINE} on box"}
    assert found["hive.stop box"] == things
    assert found["hive.uninstall box"] == {"hive.stop box"}
    assert found["hive.unregister box"] == {"hive.stop box", "worker.stop chat-0 on box"}


def test_the_queen_ends_last() -> None:
    seen: dict[str, HiveActual | Unknown] = {"box": hive_actual(), "here": hive_actual(address="")}
    plan = make_plan(Desired(fleet=FLEET, queen=None), Actual(queen=queen_actual(), hives=seen), "here")
    assert plan.actions[-1].kind == "queen.stop"
    assert set(plan.actions[-1].needs) == {a.id for a in plan.actions[:-1]}


def test_a_hive_that_leaves_the_queens_process_is_cleaned_up_before_she_restarts() -> None:
    seen = Actual(queen=queen_actual("here", boot_digest="b0"), hives={"here": hive_actual(address="")})
    found = needs(make_plan(desired(), seen, None).actions)
    assert found["queen.restart queen"] == {
        "worker.stop chat-0 on here",
        "model.remove tiny on here",
        f"engine.remove {ENGINE} on here",
    }
    assert "queen.restart queen" in found["hive.unregister here"]


def test_a_replacement_waits_for_memory_to_be_free() -> None:
    wanted = desired(hive_wanted(workers=(wanted_worker(digest="d1"),)))
    seen = hive_actual(workers=(worker(), worker("old-0")))
    found = needs(make_plan(wanted, Actual(queen=queen_actual("box"), hives={"box": seen}), None).actions)
    assert found["worker.replace chat-0 on box"] == {"worker.stop old-0 on box"}


def test_a_cycle_is_an_error_and_not_an_endless_loop() -> None:
    """There is one queen; two that each end last is the one cycle that actions can make."""

    def stop(name: str) -> Action:
        return Action(id=name, kind="queen.stop", change="remove", subject="queen", name=name, hive=None, reason="")

    with pytest.raises(ValueError, match="cycle: one, two"):
        order([stop("one"), stop("two")], None)


@pytest.mark.parametrize("kind", ["worker.stop", "worker.replace"])
def test_what_is_taken_away_is_told_to_the_queen_before(kind: Kind) -> None:
    """She would start it again as it was, for a request that waits."""
    told = new_action("queen.configure", "change", "queen", "", subject="queen")
    gone = new_action(kind, "remove", "chat-0", "", subject="workers.chat-0", hive="box")
    assert order([gone, told], None) == (told, replace(gone, needs=(told.id,)))
    # One that starts knows no more than what is wanted now.
    started = new_action("queen.start", "add", "queen", "", subject="queen")
    assert [a.needs for a in order([gone, started], None)] == [(), ()]
