# SPDX-License-Identifier: GPL-3.0-or-later
"""How a plan looks, as plain text in tests/unit/goldens/plan.

After a change that is meant, write the goldens anew and read the difference before you commit it:

    RBEE_GOLDENS=write pytest tests/unit/test_plan_view.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rbee.cli.views.plan import COLOUR, render
from rbee.core.actions import SIGN
from rbee.core.actual import Actual, QueenActual
from rbee.core.desired import Desired
from rbee.core.plan import Plan, make_plan, only
from rbee.core.problems import Problem
from tests.unit.strategies import (
    FLEET,
    bare,
    desired,
    example_plan,
    hive_actual,
    hive_wanted,
    queen_actual,
    wanted_worker,
)

GOLDENS = Path(__file__).parent / "goldens" / "plan"
DONE = Actual(queen=queen_actual("box"), hives={"box": hive_actual()})
DEAD = Actual(
    queen=queen_actual("box", "here", running=False),
    hives={"box": hive_actual(live=None), "here": hive_actual(address="", live=None)},
)
NOTHING = Desired(fleet=FLEET, queen=None)
BLOCKED = desired(hive_wanted(), problems=(Problem(summary="No usable hive fits worker 'chat'"),))
PLANS: dict[str, Plan] = {
    "example": example_plan(),
    "example-hive": only(example_plan(), ["hives.attic"]),
    "first-apply": make_plan(
        desired(hive_wanted("here", local=True)),
        Actual(queen=QueenActual(running=False), hives={"here": bare(address="")}),
        "here",
    ),
    "destroy-what-is-dead": make_plan(NOTHING, DEAD, "here"),
    "nothing-to-do": make_plan(desired(hive_wanted()), DONE, None),
    "on-demand": make_plan(
        desired(
            hive_wanted(
                workers=(
                    wanted_worker(),
                    *(wanted_worker(f"chat-{i}", on_demand=True) for i in (1, 2, 3)),
                    wanted_worker("code-0", on_demand=True),
                )
            )
        ),
        DONE,
        None,
    ),
    "nothing-can-be-done": make_plan(BLOCKED, DONE, None),
}


def text(plan: Plan) -> str:
    return "".join(f"{line.plain.rstrip()}\n" for line in render(plan))


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_looks_as_it_did(name: str) -> None:
    golden = GOLDENS / f"{name}.txt"
    if os.environ.get("RBEE_GOLDENS") == "write":
        golden.write_text(text(PLANS[name]), encoding="utf-8")
    assert text(PLANS[name]) == golden.read_text(encoding="utf-8")


def test_there_is_no_golden_too_many() -> None:
    assert {p.stem for p in GOLDENS.iterdir()} == set(PLANS)


def test_every_action_has_a_line_with_its_sign_and_reason() -> None:
    plan = example_plan()
    lines = text(plan).splitlines()
    for action in plan.actions:
        assert any(f" {SIGN[action.change]} {action.kind}" in li and li.endswith(f"  {action.reason}") for li in lines)
    assert lines[-1] == plan.summary


def test_every_change_has_a_colour_and_a_sign() -> None:
    assert COLOUR.keys() == SIGN.keys()


def test_a_destroy_that_finds_nothing_does_not_speak_of_the_file() -> None:
    nothing = Plan(fleet=FLEET, made_from="", actions=(), problems=())
    assert [line.plain for line in render(nothing, destroy=True)] == ["No changes. Nothing of this fleet is left."]
    assert [line.plain for line in render(nothing)] == [nothing.summary]
