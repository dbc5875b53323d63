# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan is the same after it was saved; what is no plan is refused in words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from rbee.contracts.planfile import FORMAT, PlanFile, dump, load
from rbee.core.actual import Actual
from rbee.core.desired import Desired
from rbee.core.errors import RbeeError
from rbee.core.plan import Plan, make_plan
from tests.unit.strategies import LOCAL, actuals, desireds, example_plan


def saved(plan: Plan, **kw: object) -> PlanFile:
    said = {"format": FORMAT, "rbee": "1", "made_at": "2026-01-01T00:00:00Z", "source": "rbee.yaml", **kw}
    return PlanFile(plan=plan, **said)  # type: ignore[arg-type]


@given(desireds(), actuals())
def test_a_saved_plan_is_the_same_plan(wanted: Desired, seen: Actual) -> None:
    whole = saved(make_plan(wanted, seen, LOCAL), targets=("hives.box",), destroy=wanted.queen is None)
    assert load(dump(whole), "p") == whole


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff\xfe", b"fleet: home", b"[1]", b'{"format": 1}', b'{"format": "1"}', b"null"]
)
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(RbeeError, match=r"^p\.plan is not a plan: .* Make one with") as e:
        load(data, "p.plan")
    assert e.value.code == "bad_plan"


def test_an_action_that_this_rbee_does_not_know_is_refused() -> None:
    written = json.loads(dump(saved(example_plan())))
    written["plan"]["actions"][0]["kind"] = "hive.paint"
    with pytest.raises(RbeeError, match="is not a plan"):
        load(json.dumps(written).encode(), "p")


def test_another_format_is_told_as_such_whatever_else_is_in_it() -> None:
    with pytest.raises(RbeeError, match=r"p has plan format 2; this rbee reads 1\. Make the plan again\.") as e:
        load(b'{"format": 2, "steps": []}', "p")
    assert e.value.code == "bad_plan"
