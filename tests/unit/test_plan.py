# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as a value: what it counts and says, what makes it stale, and the part that `--target` names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rbee.core.actual import Actual
from rbee.core.plan import Plan, check_targets, make_plan, only
from rbee.core.problems import Problem, ProblemsError
from rbee.core.records import WorkerRecord
from rbee.core.spec import HiveSpec, Replicas, Spec, WorkerSpec
from tests.unit.strategies import (
    ENGINE,
    FLEET,
    bare,
    desired,
    example_plan,
    hive_actual,
    hive_wanted,
    queen_actual,
    wanted_worker,
    worker,
)


def test_the_example_has_all_four_signs() -> None:
    plan = example_plan()
    assert plan.counts() == {"add": 7, "change": 2, "replace": 1, "remove": 2}
    assert plan.summary == "Plan: 7 to add, 2 to change, 1 to replace, 2 to remove."
    assert plan.blocked
    assert not plan.empty


def test_a_plan_with_nothing_to_do_says_so() -> None:
    done = make_plan(desired(hive_wanted()), Actual(queen=queen_actual("box"), hives={"box": hive_actual()}), None)
    assert done.empty
    assert not done.blocked
    assert done.summary == "No changes. The fleet is as rbee.yaml says."
    assert replace(done, problems=(Problem(summary="x"),)).summary == "Nothing to do beside the problems below."
    assert not replace(done, problems=(Problem(summary="x", severity="warning"),)).blocked


def test_a_plan_is_stale_when_what_it_was_made_from_differs() -> None:
    wanted, seen = desired(hive_wanted()), Actual(queen=queen_actual("box"), hives={"box": hive_actual()})
    made = make_plan(wanted, seen, None).made_from
    moved = replace(seen, hives={"box": hive_actual(memory_available=5)})
    assert make_plan(wanted, moved, None).made_from == made
    other = replace(wanted, hives={"box": hive_wanted(config_digest="c2")})
    assert make_plan(other, seen, None).made_from != made
    assert make_plan(wanted, replace(seen, hives={"box": hive_actual(workers=())}), None).made_from != made


def test_a_number_in_a_problems_words_does_not_make_a_plan_stale() -> None:
    def made(detail: str, summary: str = "Not enough memory on hive 'box'") -> str:
        problem = Problem(summary=summary, detail=detail, subject="hives.box")
        return make_plan(desired(hive_wanted(), problems=(problem,)), Actual(queen=queen_actual()), None).made_from

    assert made("12 MB are free") == made("13 MB are free")
    assert made("12 MB are free") != made("12 MB are free", "Another")


# ------------------------------------------------------------ --target


def plan() -> Plan:
    box = hive_wanted("box", workers=(wanted_worker(), wanted_worker("chat-1")))
    wanted = desired(box, hive_wanted("attic", workers=(wanted_worker("talk-0"),)))
    return make_plan(wanted, Actual(queen=queen_actual(), hives={"box": bare(), "attic": bare()}), None)


def ids(part: Plan) -> set[str]:
    return {a.id for a in part.actions}


def test_no_target_is_the_whole_plan() -> None:
    assert only(plan(), []) == plan()


def test_a_worker_brings_what_it_needs() -> None:
    assert ids(only(plan(), ["workers.chat-0"])) == {
        "hive.install box",
        "hive.start box",
        f"engine.install {ENGINE} on box",
        "model.fetch tiny on box",
        "worker.spawn chat-0 on box",
    }


def test_a_workers_name_means_all_its_replicas() -> None:
    assert {a.name for a in only(plan(), ["workers.chat"]).actions if a.kind == "worker.spawn"} == {"chat-0", "chat-1"}


def test_a_hive_means_all_that_happens_there() -> None:
    assert ids(only(plan(), ["hives.attic"])) == {a.id for a in plan().actions if a.hive == "attic"}


def test_several_targets_are_joined() -> None:
    found = ids(only(plan(), ["models.tiny@box", "models.tiny@attic"]))
    assert found == {
        f"{k} {h}" for h in ("box", "attic") for k in ("hive.install", "hive.start", "model.fetch tiny on")
    }


def test_targets_that_are_no_addresses_are_told_all_at_once() -> None:
    with pytest.raises(ProblemsError) as e:
        only(plan(), ["worker.chat-0", "hives.", "hives.box"])
    assert [p.summary for p in e.value.problems] == [
        "--target 'worker.chat-0' is not an address of the plan",
        "--target 'hives.' is not an address of the plan",
    ]
    assert e.value.problems[0].mend == "Did you mean 'workers.chat-0'?"


def test_a_target_that_needs_nothing_is_no_error() -> None:
    done = make_plan(desired(hive_wanted()), Actual(queen=queen_actual("box"), hives={"box": hive_actual()}), None)
    assert only(done, ["workers.chat-0", "queen", "engines.llama-cpp@box"]).empty


FILE = Spec(
    version=1,
    fleet=FLEET,
    hives={"box": HiveSpec(name="box")},
    workers={"chat": WorkerSpec(name="chat", model="tiny", replicas=Replicas(min=1, max=2))},
)


@pytest.mark.parametrize(
    "target",
    [
        "queen",
        "hives.box",
        "workers.chat",
        "workers.chat-1",
        "models.tiny@box",
        "engines.e@box",
        "hives.cellar",  # only live: the plan may remove it
        "workers.something-7",
        "workers.chat-2",  # a replica that is not asked for any more
        "hives.box-2",
    ],
)
def test_targets_that_may_be_meant(target: str) -> None:
    check_targets(FILE, [target])


def test_targets_that_name_nothing_are_told_all_at_once_before_anything_is_looked_at() -> None:
    with pytest.raises(ProblemsError) as e:
        check_targets(FILE, ["quen", "workers.chatt", "queen", "worker.chat-1", "hives.", "!"])
    told = {p.summary.split("'")[1]: p.mend for p in e.value.problems}
    assert list(told) == ["quen", "workers.chatt", "worker.chat-1", "hives.", "!"]
    assert told["quen"] == "Did you mean 'queen'?"
    assert told["workers.chatt"] == "Did you mean 'workers.chat'?"
    assert told["worker.chat-1"] == "Did you mean 'workers.chat-1'?"


def test_without_targets_there_is_nothing_to_check() -> None:
    check_targets(FILE, [])


def problems(subjects: list[str], targets: list[str]) -> list[str]:
    whole = replace(plan(), problems=tuple(Problem(summary=s, subject=s) for s in subjects))
    return [p.subject for p in only(whole, targets).problems]


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("hives.box", ["", "hives.box", "models.tiny@box"]),
        ("workers.chat", ["", "workers.chat-7"]),
        ("workers.chat-7", ["", "hives.box", "hives.box-2", "workers.chat-7"]),  # nothing to do: a hive may be why
        ("models.tiny@box", ["", "hives.box", "models.tiny@box"]),
        ("engines.llama-cpp@box-2", ["", "hives.box-2"]),
        ("queen", ["", "queen"]),
    ],
)
def test_only_problems_that_touch_a_target_are_kept(target: str, kept: list[str]) -> None:
    subjects = ["", "hives.box", "hives.box-2", "models.tiny@box", "queen", "workers.chat-7", "workers.chatter-0"]
    assert problems(subjects, [target]) == kept


def test_a_targeted_plan_is_of_the_same_fleet_and_inputs() -> None:
    part = only(plan(), ["hives.box"])
    assert (part.fleet, part.made_from) == (FLEET, plan().made_from)


def test_what_the_queen_starts_and_stops_makes_no_saved_plan_stale() -> None:
    wanted = desired(hive_wanted(workers=(wanted_worker(), wanted_worker("chat-1", on_demand=True))))

    def made(*workers: WorkerRecord) -> Plan:
        return make_plan(wanted, Actual(queen=queen_actual("box"), hives={"box": hive_actual(workers=workers)}), None)

    plan = made(worker())
    assert (plan.on_demand, plan.summary) == (("chat-1",), "No changes. The fleet is as rbee.yaml says.")
    assert made(worker(), worker("chat-1")) == made(worker(), worker("chat-1", status="unloaded")) == plan
    assert made(worker(), worker("chat-1", digest="d9")).made_from != plan.made_from
    assert made(worker("chat-1")).made_from != plan.made_from
