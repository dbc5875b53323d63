# SPDX-License-Identifier: GPL-3.0-or-later
"""Every reason that a plan gives, and every problem that keeps something out of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rbee.core.actions import Action
from rbee.core.actual import Actual, HiveActual, HiveLive, QueenActual, Unknown
from rbee.core.desired import Desired, HiveWanted, QueenWanted
from rbee.core.diff import Diff, diff
from rbee.core.plan import make_plan
from rbee.core.problems import Problem
from rbee.core.records import Mark, WorkerRecord
from tests.unit.strategies import (
    ENGINE,
    FLEET,
    bare,
    binary,
    desired,
    hive_actual,
    hive_wanted,
    model,
    queen_actual,
    queen_wanted,
    wanted_model,
    wanted_worker,
    worker,
)

NOTHING = Desired(fleet=FLEET, queen=None)


def compare(wanted: HiveWanted, seen: HiveActual | Unknown, **queen: Any) -> Diff:
    return diff(desired(wanted), Actual(queen=queen_actual(wanted.name, **queen), hives={wanted.name: seen}))


def told(found: Diff) -> list[tuple[str, str, str]]:
    return [(a.id, a.change, a.reason) for a in found.actions]


def one(found: Diff) -> Action:
    assert len(found.actions) == 1, told(found)
    return found.actions[0]


def test_a_fleet_that_is_as_wanted_needs_nothing() -> None:
    assert compare(hive_wanted(), hive_actual()) == Diff()


def test_a_bare_machine_gets_everything() -> None:
    found = diff(desired(hive_wanted()), Actual(queen=QueenActual(running=False), hives={"box": bare()}))
    assert told(found) == [
        ("hive.install box", "add", "release r1 is not installed"),
        ("hive.start box", "add", "not running"),
        (f"engine.install {ENGINE} on box", "add", "not installed"),
        ("model.fetch tiny on box", "add", "not on the machine"),
        ("worker.spawn chat-0 on box", "add", "model tiny on cpu"),
        ("queen.start queen", "add", "not running"),
        ("hive.register box", "add", "unknown to the queen"),
    ]
    assert found.problems == ()
    spawn = found.actions[4].params
    assert spawn["digest"] == "d0"
    options = {"context_length": None, "parallel": None, "batch_size": None, "threads": None, "memory_limit_mb": None}
    assert spawn["options"] == {**options, "task": None}


def test_a_local_hive_has_no_daemon_of_its_own_and_is_not_registered() -> None:
    found = diff(
        desired(hive_wanted("here", local=True)),
        Actual(queen=QueenActual(running=False), hives={"here": bare(address="")}),
    )
    assert [a.kind for a in found.actions] == ["engine.install", "model.fetch", "worker.spawn", "queen.start"]


LIVE = HiveLive(fleet=FLEET, release="r1", config_digest="c1")


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (hive_actual(live=replace(LIVE, release="r0")), "runs release r0"),
        (hive_actual(live=replace(LIVE, release="")), "runs release (unknown)"),
        (hive_actual(token_digest="t0"), "has another token"),
        (hive_actual(live=replace(LIVE, config_digest="c0")), "has other settings"),
        (
            hive_actual(live=replace(LIVE, config_digest="c0"), token_digest=None),
            "has another token; has other settings",
        ),
    ],
)
def test_a_hive_that_differs_is_restarted(seen: HiveActual, reason: str) -> None:
    assert told(compare(hive_wanted(), seen)) == [("hive.restart box", "change", reason)]


def test_an_upgrade_installs_beside_what_is_there() -> None:
    assert told(compare(hive_wanted(release="r2"), hive_actual())) == [
        ("hive.install box", "change", "release r2 is not installed"),
        ("hive.restart box", "change", "runs release r1"),
    ]


# ------------------------------------------------------------ engines and models


def test_an_engine_that_is_broken_is_installed_again() -> None:
    assert one(compare(hive_wanted(), hive_actual(binaries=(binary(status="failed"),)))).kind == "engine.install"


@pytest.mark.parametrize(("mark", "removed"), [(Mark(fleet=FLEET), True), (Mark(fleet="other"), False), (None, False)])
def test_only_our_own_superfluous_things_are_removed(mark: Mark | None, removed: bool) -> None:
    seen = hive_actual(
        binaries=(binary(), binary("old-engine", engine="old", mark=mark)), models=(model(), model("old", mark=mark))
    )
    expected = [
        ("engine.remove old-engine on box", "remove", "no worker of this file needs it"),
        ("model.remove old on box", "remove", "no worker of this file needs it there"),
    ]
    assert told(compare(hive_wanted(), seen)) == (expected if removed else [])


def test_a_worker_made_by_hand_keeps_its_engine_and_model() -> None:
    by_hand = worker("mine-0", fleet=None, model="old", engine="old")
    seen = hive_actual(
        binaries=(binary(), binary("old-engine", engine="old")),
        models=(model(), model("old")),
        workers=(worker(), by_hand),
    )
    assert compare(hive_wanted(), seen) == Diff()
    dead = replace(seen, workers=(worker(), replace(by_hand, status="dead")))
    assert [a.kind for a in compare(hive_wanted(), dead).actions] == ["engine.remove", "model.remove"]


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        ({"status": "failed", "error": "bad magic"}, "there, but unusable: bad magic"),
        ({"status": "failed"}, "there, but unusable: unknown reason"),
        ({"status": "downloading"}, "only half there"),
        ({"source": "hf:else/where.gguf"}, "came from hf:else/where.gguf"),
        ({"source": ""}, "came from elsewhere"),
        ({"revision": "v2"}, "came from hf:org/tiny.gguf"),
        ({"checksum": "f" * 64}, f"has SHA-256 {'f' * 12}..., wanted {'c' * 12}..."),
    ],
)
def test_a_model_that_will_not_do_is_brought_again(there: dict[str, Any], reason: str) -> None:
    wanted = hive_wanted(models=(wanted_model(sha256="c" * 64),))
    action, after = compare(wanted, hive_actual(models=(model(**there),))).actions
    assert (action.id, action.change, action.reason) == ("model.fetch tiny on box", "change", reason)
    # It has the former file open.
    assert (after.kind, after.reason) == ("worker.replace", "model tiny is brought anew")
    assert one(compare(replace(wanted, workers=()), hive_actual(models=(model(**there),), workers=()))).id == action.id


def test_a_digest_that_was_never_computed_is_no_difference() -> None:
    wanted = hive_wanted(models=(wanted_model(sha256="c" * 64),))
    assert compare(wanted, hive_actual(models=(model(checksum=None),))) == Diff()


def test_a_file_of_this_machine_is_pushed() -> None:
    wanted = hive_wanted(models=(wanted_model(source="file:/m.gguf", push_from="/m.gguf"),))
    action = one(compare(wanted, hive_actual(models=())))
    assert (action.kind, action.subject, action.params["push_from"]) == ("model.push", "models.tiny@box", "/m.gguf")


@pytest.mark.parametrize("source", ["hf:else/where.gguf", ""])
def test_a_model_that_is_not_ours_is_never_overwritten(source: str) -> None:
    seen = hive_actual(models=(model(source=source, mark=None),), workers=(worker(digest="old"),))
    found = compare(hive_wanted(), seen)
    assert found.actions == ()
    assert [p.summary for p in found.problems] == ["Model 'tiny' on 'box' was not made by this fleet"]
    assert found.problems[0].detail.startswith(f"It came from {source or 'elsewhere'},")
    assert found.problems[0].subject == "models.tiny@box"


def test_a_model_that_is_not_ours_serves_when_it_is_the_one() -> None:
    assert compare(hive_wanted(), hive_actual(models=(model(mark=None),))) == Diff()


# ------------------------------------------------------------ workers


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (worker(status="failed", reason="out of memory"), "failed: out of memory"),
        (worker(status="dead"), "dead"),
        (worker(status="stopping"), "stopping"),
        (worker(digest="old", model="other"), "model other -> tiny"),
        (worker(digest="old", device="cuda:0"), "device cuda:0 -> cpu"),
        (worker(digest="old", device=""), "its model, engine or options changed"),
        (worker(digest="old", model="other", device="cuda:0"), "model other -> tiny; device cuda:0 -> cpu"),
        (worker(digest="old"), "its model, engine or options changed"),
    ],
)
def test_a_worker_that_differs_or_ended_is_replaced(found: Any, reason: str) -> None:
    action = one(compare(hive_wanted(), hive_actual(workers=(found,))))
    assert (action.id, action.change, action.reason) == ("worker.replace chat-0 on box", "replace", reason)
    assert action.params["pid"] == 100


@pytest.mark.parametrize("status", ["starting", "ready", "busy"])
def test_a_worker_that_lives_as_wanted_is_left(status: Any) -> None:
    assert compare(hive_wanted(), hive_actual(workers=(worker(status=status),))) == Diff()


@pytest.mark.parametrize(
    ("was", "now", "reason"),
    [
        (None, 300.0, "idle_timeout none -> 5 minutes"),
        (1.0, None, "idle_timeout 1 second -> none"),
        (3600.0, 0.0, "idle_timeout 1 hour -> none"),
    ],
)
@pytest.mark.parametrize("status", ["ready", "unloaded"])
def test_another_idle_timeout_asks_for_no_new_process(
    status: Any, was: float | None, now: float | None, reason: str
) -> None:
    wanted = hive_wanted(workers=(wanted_worker(idle_timeout=now),))
    action = one(compare(wanted, hive_actual(workers=(worker(status=status, idle_timeout=was),))))
    assert (action.id, action.change, action.reason) == ("worker.configure chat-0 on box", "change", reason)
    assert (action.params["idle_timeout"], action.params["digest"]) == (now, "d0")
    assert compare(wanted, hive_actual(workers=(worker(idle_timeout=now),))) == Diff()
    # A worker that must begin anew takes it then.
    replaced = one(compare(wanted, hive_actual(workers=(worker(digest="old", idle_timeout=was),))))
    assert replaced.kind == "worker.replace"


def test_no_idle_timeout_is_none() -> None:
    wanted = hive_wanted(workers=(wanted_worker(idle_timeout=0.0),))
    assert compare(wanted, hive_actual(workers=(worker(idle_timeout=None),))) == Diff()


def test_an_unloaded_worker_is_in_place_and_goes_when_it_is_changed_or_not_wanted() -> None:
    unloaded = replace(worker(status="unloaded"), pid=0)
    assert compare(hive_wanted(), hive_actual(workers=(unloaded,))) == Diff()
    changed = replace(unloaded, mark=Mark(fleet=FLEET, spec_digest="old"))
    action = one(compare(hive_wanted(), hive_actual(workers=(changed,))))
    assert (action.kind, action.reason) == ("worker.replace", "its model, engine or options changed")
    gone = one(compare(hive_wanted(), hive_actual(workers=(worker(), replace(unloaded, worker_id="old-0")))))
    assert (gone.id, gone.params["pid"]) == ("worker.stop old-0 on box", 0)
    (problem,) = compare(hive_wanted(), hive_actual(workers=(replace(unloaded, mark=None),))).problems
    assert problem.mend == "Stop it by hand (unloaded) or rename the worker in rbee.yaml."


def test_a_worker_that_nobody_wants_is_stopped() -> None:
    action = one(compare(hive_wanted(), hive_actual(workers=(worker(), worker("old-0", pid=7)))))
    assert (action.id, action.change) == ("worker.stop old-0 on box", "remove")
    assert action.reason == "not in this file (or placed elsewhere)"
    assert action.params == {"pid": 7, "model": "tiny"}


@pytest.mark.parametrize("fleet", [None, "other"])
def test_a_living_worker_of_our_name_that_is_not_ours_is_a_problem(fleet: str | None) -> None:
    found = compare(hive_wanted(), hive_actual(workers=(worker(fleet=fleet, digest="x"),)))
    assert found.actions == ()
    (problem,) = found.problems
    assert problem.summary == "Worker 'chat-0' on 'box' was not made by this fleet"
    assert problem.mend == "Stop it by hand (pid 100) or rename the worker in rbee.yaml."
    assert problem.subject == "workers.chat-0"


def test_a_dead_one_that_is_not_ours_is_in_nobodys_way() -> None:
    found = compare(hive_wanted(), hive_actual(workers=(worker(fleet=None, status="dead"),)))
    assert one(found).id == "worker.spawn chat-0 on box"


def test_a_held_worker_goes_on_with_its_engine_and_model() -> None:
    wanted = hive_wanted(engines=(), models=(), workers=(), held=("chat-0",))
    assert compare(wanted, hive_actual()) == Diff()
    ended = compare(wanted, hive_actual(workers=(worker(status="dead"),)))
    assert [a.kind for a in ended.actions] == ["engine.remove", "model.remove"]


# ------------------------------------------------------------ what is in the way


def test_an_unknown_hive_is_told_with_its_reason() -> None:
    found = compare(hive_wanted(), Unknown(why="No route to host.", mend="Is it on?"))
    assert found.actions == ()
    assert found.problems == (
        Problem(
            summary="Hive 'box' could not be observed, so nothing is planned for it",
            detail="No route to host.",
            mend="Is it on?",
            subject="hives.box",
        ),
    )


def test_a_hive_that_nobody_looked_at_is_unknown() -> None:
    found = diff(desired(hive_wanted()), Actual(queen=queen_actual()))
    assert found.actions == ()
    assert found.problems[0].detail == "It was not looked at."


def test_a_hive_with_problems_gets_nothing() -> None:
    problem = Problem(summary="Hive 'box' has no Python 3.10 or newer", subject="hives.box")
    found = diff(desired(hive_wanted()), Actual(queen=queen_actual(), hives={"box": bare(problems=(problem,))}))
    assert found == Diff(problems=(problem,))


@pytest.mark.parametrize(("address", "where"), [("10.0.0.1", "10.0.0.1"), ("", "this machine")])
def test_another_fleets_hive_is_left_alone(address: str, where: str) -> None:
    found = compare(hive_wanted(), hive_actual(address=address, live=replace(LIVE, fleet="office")))
    assert found.actions == ()
    assert found.problems[0].summary == "Hive 'box' belongs to the fleet 'office'"
    assert found.problems[0].detail.startswith(f"A hive of another fleet runs at {where};")


def test_problems_of_what_is_wanted_come_first() -> None:
    early = Problem(summary="No usable hive")
    found = diff(desired(hive_wanted(), problems=(early,)), Actual(queen=Unknown(why="Silence.")))
    assert [p.summary for p in found.problems] == [
        "No usable hive",
        "Hive 'box' could not be observed, so nothing is planned for it",
        "The queen could not be observed, so nothing is planned for it",
    ]
    assert found.problems[2].subject == "queen"


def test_without_a_known_queen_nothing_is_done_to_the_hive_in_her_process() -> None:
    seen: dict[str, HiveActual | Unknown] = {"here": bare(address=""), "box": hive_actual(workers=())}
    found = diff(
        desired(hive_wanted(), hive_wanted("here", local=True)), Actual(queen=Unknown(why="Silence."), hives=seen)
    )
    assert [a.id for a in found.actions] == ["worker.spawn chat-0 on box"]
    assert [p.subject for p in found.problems] == ["queen"]


# ------------------------------------------------------------ what is gone from the file


def test_a_hive_that_is_not_in_the_file_any_more_is_cleaned_up() -> None:
    seen = hive_actual(workers=(worker(), worker("mine-0", fleet=None)), models=(model(), model("mine", mark=None)))
    found = diff(desired(), Actual(queen=queen_actual("box"), hives={"box": seen}))
    reason = "not in this file"
    assert told(found) == [
        ("worker.stop chat-0 on box", "remove", reason),
        ("model.remove tiny on box", "remove", reason),
        (f"engine.remove {ENGINE} on box", "remove", reason),
        ("hive.stop box", "remove", reason),
        ("hive.uninstall box", "remove", reason),
        ("hive.unregister box", "remove", reason),
    ]


def test_destroy_removes_what_is_ours_and_the_queen() -> None:
    seen: dict[str, HiveActual | Unknown] = {"box": hive_actual(live=None), "here": hive_actual(address="")}
    found = diff(NOTHING, Actual(queen=queen_actual("box"), hives=seen))
    start, *others = found.actions
    assert start.reason == "not running; it must clean up"
    assert start.params == {"release": "r1", "as_it_was": True}
    assert {a.reason for a in others} == {"the fleet is destroyed"}
    assert [a.id for a in found.actions] == [
        "hive.start box",
        "worker.stop chat-0 on box",
        "model.remove tiny on box",
        f"engine.remove {ENGINE} on box",
        "hive.stop box",
        "hive.uninstall box",
        "worker.stop chat-0 on here",
        "model.remove tiny on here",
        f"engine.remove {ENGINE} on here",
        "queen.stop queen",
    ]


def test_destroy_can_keep_models() -> None:
    found = diff(
        replace(NOTHING, keep_models=True), Actual(queen=QueenActual(running=False), hives={"b": hive_actual()})
    )
    assert not [a for a in found.actions if a.kind == "model.remove"]
    assert found.actions


def test_destroy_of_what_is_not_ours_does_nothing() -> None:
    seen = hive_actual(
        live=None,
        release_fleets={"r1": "other"},
        workers=(worker(fleet="other"),),
        models=(model(mark=None),),
        binaries=(binary(mark=None),),
    )
    assert diff(NOTHING, Actual(queen=QueenActual(running=False), hives={"box": seen})) == Diff()


@pytest.mark.parametrize(
    ("left", "keep", "started"),
    [
        ({}, False, True),
        ({"models": ()}, True, True),
        ({"workers": ()}, False, True),
        ({"workers": ()}, True, False),
        ({"workers": (worker(status="dead"),), "models": ()}, False, False),
        ({"workers": (worker(fleet="other"),), "models": (model(mark=None),)}, False, False),
    ],
)
def test_a_dead_hive_is_started_once_more_only_where_it_left_work(
    left: dict[str, Any], keep: bool, started: bool
) -> None:
    seen = Actual(queen=QueenActual(running=False), hives={"box": hive_actual(live=None, **left)})
    kinds = [a.kind for a in diff(replace(NOTHING, keep_models=keep), seen).actions]
    assert (kinds[0] == "hive.start") == started
    assert ("hive.stop" in kinds) == started
    assert kinds[-1] == "hive.uninstall"


def test_a_dead_hive_is_started_by_our_own_release() -> None:
    seen = hive_actual(live=None, releases=("r1", "r2", "theirs"), release_fleets={"r1": FLEET, "r2": FLEET})
    start = diff(NOTHING, Actual(queen=QueenActual(running=False), hives={"box": seen})).actions[0]
    assert (start.kind, start.params["release"]) == ("hive.start", "r2")


def test_a_dead_hive_without_a_release_of_ours_is_not_started() -> None:
    seen = hive_actual(live=None, release_fleets={})
    found = diff(NOTHING, Actual(queen=QueenActual(running=False), hives={"box": seen}))
    assert [a.kind for a in found.actions] == ["worker.stop", "model.remove", "engine.remove"]


def test_records_of_dead_workers_need_a_living_hive() -> None:
    dead = hive_actual(workers=(worker(status="dead"),), models=())
    alone = diff(NOTHING, Actual(queen=QueenActual(running=False), hives={"box": replace(dead, live=None)}))
    assert [a.kind for a in alone.actions] == ["engine.remove", "hive.uninstall"]
    living = diff(NOTHING, Actual(queen=QueenActual(running=False), hives={"box": dead}))
    assert [a.kind for a in living.actions] == ["worker.stop", "engine.remove", "hive.stop", "hive.uninstall"]


@pytest.mark.parametrize(
    ("queen", "here", "kinds"),
    [
        (QueenActual(running=False), bare(address=""), []),
        (queen_actual(running=False), bare(address=""), ["queen.stop"]),
        (queen_actual(running=False), hive_actual(address=""), ["queen.stop"]),  # it runs without her
        (queen_actual(running=False), hive_actual(address="", live=None), ["queen.start", "queen.stop"]),
        (QueenActual(running=False), hive_actual(address="", live=None), []),  # no settings to start her with
        (queen_actual(), hive_actual(address="", live=None), ["queen.stop"]),
    ],
)
def test_destroy_starts_a_dead_queen_once_more_only_where_her_hive_left_work(
    queen: QueenActual, here: HiveActual, kinds: list[str]
) -> None:
    found = diff(NOTHING, Actual(queen=queen, hives={"here": here}))
    told = [a for a in found.actions if a.subject == "queen"]
    assert [a.kind for a in told] == kinds
    assert all(a.params == ({"as_it_was": True} if a.kind == "queen.start" else {}) for a in told)


def test_a_dropped_hive_of_a_dead_queen_is_cleaned_up_before_she_goes_on_without_it() -> None:
    seen = Actual(queen=queen_actual("here", running=False), hives={"here": hive_actual(address="", live=None)})
    plan = make_plan(desired(), seen, None)
    assert [a.id for a in plan.actions] == [
        "queen.start queen",
        "worker.stop chat-0 on here",
        "model.remove tiny on here",
        f"engine.remove {ENGINE} on here",
        "queen.restart queen",
        "hive.unregister here",
    ]
    assert plan.actions[0].params == {"as_it_was": True}


def test_a_dropped_hive_that_another_fleet_has_now_is_only_forgotten() -> None:
    seen = hive_actual(live=replace(LIVE, fleet="office"))
    found = diff(desired(), Actual(queen=queen_actual("box"), hives={"box": seen}))
    assert [a.id for a in found.actions] == ["hive.unregister box"]
    assert found.problems == ()


def test_a_dropped_hive_that_cannot_be_looked_into_is_kept_in_mind() -> None:
    seen = bare(platform="", problems=(Problem(summary="Hive 'box' has no Python 3.10 or newer"),))
    found = diff(desired(), Actual(queen=queen_actual("box"), hives={"box": seen}))
    assert found.actions == ()
    assert [p.severity for p in found.problems] == ["warning"]


def test_what_keeps_a_machine_from_being_a_hive_does_not_keep_it_from_being_cleaned_up() -> None:
    seen = hive_actual(problems=(Problem(summary="too little disk"),))
    found = diff(NOTHING, Actual(queen=QueenActual(running=False), hives={"box": seen}))
    assert found.problems == ()
    assert "worker.stop chat-0 on box" in [a.id for a in found.actions]


def test_an_unknown_hive_is_not_forgotten_by_the_queen() -> None:
    found = diff(desired(), Actual(queen=queen_actual("box"), hives={"box": Unknown(why="")}))
    assert found.actions == ()
    assert len(found.problems) == 1


# ------------------------------------------------------------ the queen


def queen(wanted: QueenWanted, seen: QueenActual) -> list[tuple[str, str, str]]:
    return told(diff(Desired(fleet=FLEET, queen=wanted), Actual(queen=seen)))


@pytest.mark.parametrize(
    ("differs", "reason"),
    [
        ({"release": "r0"}, "runs release r0"),
        ({"release": ""}, "runs release (unknown)"),
        ({"token_digest": "t0"}, "has another token"),
        ({"boot_digest": "b0"}, "listens, stores, traces or runs its hive otherwise"),
        ({"boot_digest": "b0", "release": "r0"}, "runs release r0; listens, stores, traces or runs its hive otherwise"),
    ],
)
def test_a_queen_that_differs_in_what_she_starts_with_is_restarted(differs: dict[str, Any], reason: str) -> None:
    assert queen(queen_wanted(), queen_actual(**differs)) == [("queen.restart queen", "change", reason)]


def test_a_queen_with_other_settings_reads_them_again() -> None:
    assert queen(queen_wanted(), queen_actual(config_digest="q0")) == [
        ("queen.configure queen", "change", "models, workers, aliases, policies, keys or hives changed")
    ]


def test_a_queen_that_does_not_tell_her_token_is_not_restarted_for_it() -> None:
    assert queen(queen_wanted(), queen_actual(token_digest=None)) == []


@pytest.mark.parametrize("running", [True, False])
def test_a_queen_who_does_not_run_or_cannot_reach_a_hive_registers_it(running: bool) -> None:
    seen = queen_actual("box", running=running)
    offline = replace(seen, hives=tuple(replace(h, online=not running) for h in seen.hives))
    found = diff(desired(hive_wanted()), Actual(queen=offline, hives={"box": hive_actual()}))
    assert [a.id for a in found.actions if a.kind == "hive.register"] == ["hive.register box"]


# ------------------------------------------------------------ what the queen starts


def on_demand(record: WorkerRecord | None, **kw: Any) -> list[tuple[str, str, str]]:
    """What is planned for one worker that is on demand."""
    seen = hive_actual(workers=(record,) if record else ())
    return told(compare(hive_wanted(workers=(wanted_worker(on_demand=True, **kw),)), seen))


ENDED = ["unloaded", "failed", "dead", "stopping"]


@pytest.mark.parametrize("record", [None, worker(), *(worker(status=s) for s in ENDED)])
def test_a_worker_on_demand_is_left_to_the_queen(record: WorkerRecord | None) -> None:
    assert on_demand(record) == []


@pytest.mark.parametrize("status", ["ready", "busy", "starting", *ENDED])
def test_a_worker_on_demand_of_other_settings_goes_and_is_not_started(status: Any) -> None:
    wanted = hive_wanted(workers=(wanted_worker(on_demand=True),))
    stopped = one(compare(wanted, hive_actual(workers=(worker(status=status, digest="d9"),))))
    assert stopped.params["digest"] == "d0"  # what the queen has started like this meanwhile is not stopped
    assert on_demand(worker(status=status, digest="d9")) == [
        ("worker.stop chat-0 on box", "remove", "its settings changed; the queen starts it when it is wanted")
    ]


def test_a_worker_on_demand_ends_when_its_model_is_brought_anew() -> None:
    wanted = hive_wanted(workers=(wanted_worker(on_demand=True),))
    for status, stops in (("ready", True), ("unloaded", False)):
        seen = hive_actual(workers=(worker(status=status),), models=(model(status="failed"),))
        reason = "model tiny is brought anew; the queen starts it when it is wanted"
        assert (("worker.stop chat-0 on box", "remove", reason) in told(compare(wanted, seen))) is stops


@pytest.mark.parametrize(("status", "changes"), [("ready", 1), ("unloaded", 0)])
def test_a_worker_on_demand_takes_its_idle_timeout_while_it_runs(status: Any, changes: int) -> None:
    found = on_demand(worker(status=status), idle_timeout=300.0)
    assert found == [("worker.configure chat-0 on box", "change", "idle_timeout none -> 5 minutes")] * changes


def test_a_worker_on_demand_that_the_file_has_no_more_is_stopped() -> None:
    seen = hive_actual(workers=(worker(), worker("chat-1", status="unloaded", pid=0)))
    assert told(compare(hive_wanted(), seen)) == [
        ("worker.stop chat-1 on box", "remove", "not in this file (or placed elsewhere)")
    ]


@pytest.mark.parametrize(("following", "actions"), [("unloaded", []), ("starting", []), (None, ["worker.replace"])])
def test_a_worker_whose_process_ends_only_for_a_while_is_in_place(following: Any, actions: list[str]) -> None:
    """Taken while a hive drains an idle worker, or starts a hung one anew."""
    seen = hive_actual(workers=(worker(status="stopping", next=following),))
    assert [a.kind for a in compare(hive_wanted(), seen).actions] == actions


def test_a_queen_of_a_fleet_that_is_destroyed_starts_nothing_any_more() -> None:
    nothing = Desired(fleet=FLEET, queen=None)
    found = diff(nothing, Actual(queen=queen_actual(workers=2)))
    assert told(found) == [
        ("queen.configure queen", "change", "she starts no worker any more"),
        ("queen.stop queen", "remove", "the fleet is destroyed"),
    ]
    assert [a.kind for a in diff(nothing, Actual(queen=queen_actual(workers=2, running=False))).actions] == [
        "queen.stop"
    ]
