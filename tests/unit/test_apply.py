# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing a plan: real threads, handlers that wait for events and never for time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from rbee.core.actions import Action, Kind
from rbee.core.errors import Interrupted, RbeeError
from rbee.core.plan import Plan
from rbee.core.problems import Problem
from rbee.fleet.apply import execute
from rbee.fleet.report import Report
from rbee.fleet.world import Tell, World

#: Longer than any test runs: reached only by a bug, and then the test fails instead of hanging.
BUG = 20.0


class Ticks:
    """A clock that goes one second on each time it is read."""

    def __init__(self) -> None:
        self.at, self.lock = 0.0, threading.Lock()

    def monotonic(self) -> float:
        with self.lock:
            self.at += 1.0
            return self.at

    def now(self) -> str:
        return "2026-01-01T00:00:00Z"

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


class Api:
    """Of a hive; `dead` is one that cannot be told."""

    def __init__(self, dead: bool = False) -> None:
        self.cancelled, self.dead = threading.Event(), dead

    def cancel(self) -> None:
        self.cancelled.set()
        if self.dead:
            raise OSError("connection reset")


def world(**apis: Api) -> World:
    """All that `execute` itself touches; handlers of these tests touch nothing."""
    none = cast(Any, None)
    return World(
        spec=none, providers=(), survey=none, machines=none, local=none, python="", bundler=none, installer=none,
        home=none, clock=Ticks(), queen_config=none, hive_configs={}, _apis=cast(Any, apis),
    )  # fmt: skip


def action(name: str, *needs: str) -> Action:
    return Action(
        id=name, kind="worker.spawn", change="add", subject=f"workers.{name}", name=name, hive="box", reason="r",
        needs=needs,
    )  # fmt: skip


def plan(*actions: Action, **kw: Any) -> Plan:
    return Plan(fleet="home", made_from="", actions=actions, **kw)


Do = Callable[[Tell], None]


def fine(tell: Tell) -> None: ...


def handlers(**does: Do) -> Mapping[Kind, Callable[[World, Action, Tell], None]]:
    return {"worker.spawn": lambda w, a, tell: does.get(a.name, fine)(tell)}


def failing(error: BaseException) -> Do:
    def do(tell: Tell) -> None:
        raise error

    return do


class Events(list[dict[str, Any]]):
    """Collects events; calls `then` with each."""

    def __init__(self, then: Callable[[dict[str, Any]], None] = lambda e: None) -> None:
        super().__init__()
        self.then = then

    def __call__(self, event: dict[str, Any]) -> None:
        self.append(event)
        self.then(event)

    def of(self, name: str) -> list[str]:
        """Types of the events about an action."""
        return [e["type"] for e in self if e.get("action") == name]


def run(wanted: Plan, does: Mapping[Kind, Any], parallelism: int = 4, **kw: Any) -> Report:
    return execute(wanted, does, kw.pop("world", None) or world(), kw.pop("on_event", Events()), parallelism)


def statuses(report: Report) -> dict[str, str]:
    return {o.action.id: o.status for o in report.outcomes}


def test_an_empty_plan_is_done() -> None:
    report = run(plan(problems=(Problem(summary="bad"),)), {})
    assert report.outcomes == ()
    assert report.exit_code == 1  # its problems are the report's


def test_everything_is_done_after_what_it_needs_and_told() -> None:
    seen: list[str] = []
    lock = threading.Lock()

    def note(name: str) -> Do:
        def do(tell: Tell) -> None:
            with lock:
                seen.append(name)
            tell.note(f"doing {name}")
            tell.progress(1, 2)
            tell.event({"message": "half"})
            tell.event({"bytes_downloaded": 3, "total_bytes": 4, "message": "not told twice"})
            tell.event({})

        return do

    events = Events()
    wanted = plan(action("d", "b", "c"), action("c", "a"), action("b", "a"), action("a"))
    report = run(wanted, handlers(**{n: note(n) for n in "abcd"}), on_event=events)
    assert (seen[0], seen[3], set(seen)) == ("a", "d", set("abcd"))
    assert [o.action.id for o in report.outcomes] == ["d", "c", "b", "a"]  # the plan's order, not time's
    assert statuses(report) == dict.fromkeys("abcd", "done")
    assert report.exit_code == 0
    told = ["action_start", "action_note", "action_progress", "action_note", "action_progress", "action_end"]
    assert events.of("a") == told
    about = {"action": "a", "kind": "worker.spawn", "subject": "workers.a", "hive": "box"}
    assert {"type": "action_progress", "done": 3, "total": 4, **about} in events
    assert {"type": "action_note", "message": "doing a", **about} in events
    ends = [e for e in events if e["type"] == "action_end"]
    assert all(e["status"] == "done" and e["seconds"] >= 1.0 for e in ends)


def test_a_failure_skips_what_needs_it_and_nothing_else() -> None:
    boom = RbeeError("No space left.", code="remote_files", mend="Free some.")
    wanted = plan(action("a"), action("b", "a"), action("c", "b"), action("x"), action("y", "x"))
    report = run(wanted, handlers(a=failing(boom), b=failing(AssertionError("must not run"))))
    assert statuses(report) == {"a": "failed", "b": "skipped", "c": "skipped", "x": "done", "y": "done"}
    a, b, c, *_ = report.outcomes
    assert (a.error, a.mend, a.code) == ("No space left.", "Free some.", "remote_files")
    assert (b.error, c.error) == ("needs a, which was not done", "needs b, which was not done")
    assert report.exit_code == 1
    assert not report.interrupted


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (OSError(28, "No space left on device", "/x"), "No space left on device: /x", "os_error"),
        (OSError("odd"), "odd", "os_error"),
        (KeyError("digest"), "KeyError: 'digest'", "internal"),
        (SystemExit(3), "SystemExit: 3", "internal"),
        (RbeeError("Cancelled.", code="cancelled"), "Cancelled.", "cancelled"),
    ],
)
def test_an_error_of_any_kind_is_told_and_hangs_nothing(error: BaseException, words: str, code: str) -> None:
    report = run(plan(action("a"), action("b")), handlers(a=failing(error)))
    outcome = report.outcomes[0]
    assert (outcome.status, outcome.error, outcome.code) == ("failed", words, code)
    assert ("defect" in outcome.mend) == (code == "internal")
    assert statuses(report)["b"] == "done"


def test_a_kind_that_has_no_handler_is_a_defect_not_a_crash() -> None:
    assert run(plan(action("a")), {}).outcomes[0].code == "internal"


@pytest.mark.parametrize(("parallelism", "expected"), [(0, 1), (1, 1), (3, 3), (50, 6)])
def test_as_many_at_once_as_allowed_and_no_more(parallelism: int, expected: int) -> None:
    """Each action waits until as many run as may: with fewer it would never end, with more the count shows it."""
    running, most, lock = 0, 0, threading.Lock()
    full = threading.Barrier(expected)

    def do(tell: Tell) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait(BUG)
        with lock:
            running -= 1

    names = [f"n{i}" for i in range(6)]
    report = run(plan(*map(action, names)), handlers(**dict.fromkeys(names, do)), parallelism)
    assert statuses(report) == dict.fromkeys(names, "done")
    assert most == expected


def test_one_slow_action_keeps_only_its_own_dependants_waiting() -> None:
    others_done = threading.Event()
    wanted = plan(action("slow"), action("after", "slow"), action("x"), action("y", "x"))

    def slow(tell: Tell) -> None:
        assert others_done.wait(BUG), "y did not run while slow did"

    assert run(wanted, handlers(slow=slow, y=lambda t: others_done.set())).exit_code == 0


# ------------------------------------------------------------ Ctrl-C


def interrupt_when(kind: str, name: str) -> Callable[[dict[str, Any]], None]:
    """Raises KeyboardInterrupt where the main thread tells an event, as a signal there would."""

    def then(event: dict[str, Any]) -> None:
        if (event["type"], event.get("action")) == (kind, name):
            assert threading.current_thread() is threading.main_thread()
            raise KeyboardInterrupt

    return then


def test_ctrl_c_lets_what_runs_end_and_starts_nothing_more() -> None:
    """`a` ends and Ctrl-C comes; `b` runs until its hive is told to cancel; `c` and `d` never start."""
    api = Api()

    def b(tell: Tell) -> None:
        assert api.cancelled.wait(BUG)
        raise Interrupted("Cancelled.")

    never = failing(AssertionError("must not start"))
    started = threading.Event()

    def b_started(tell: Tell) -> None:
        started.set()
        b(tell)

    def a(tell: Tell) -> None:
        assert started.wait(BUG)

    events = Events(interrupt_when("action_end", "a"))
    wanted = plan(action("a"), action("b"), action("c", "a"), action("d", "b"))
    report = run(wanted, handlers(a=a, b=b_started, c=never, d=never), world=world(box=api), on_event=events)
    assert statuses(report) == {"a": "done", "b": "interrupted", "c": "skipped", "d": "skipped"}
    assert report.interrupted
    assert report.exit_code == 130
    assert [e["type"] for e in events].count("interrupt") == 1
    assert report.outcomes[2].error == "interrupted before it began"
    assert events.of("c") == ["action_end"]


def test_what_ends_well_or_badly_after_ctrl_c_is_told_as_that() -> None:
    api = Api(dead=True)  # one hive that cannot be told must not keep the other from being told
    other = Api()

    def well(tell: Tell) -> None:
        assert other.cancelled.wait(BUG)

    def badly(tell: Tell) -> None:
        assert other.cancelled.wait(BUG)
        raise RbeeError("Disk full.", code="disk_full")

    both = threading.Barrier(3)

    def first(do: Do) -> Do:
        def waited(tell: Tell) -> None:
            both.wait(BUG)
            do(tell)

        return waited

    does = handlers(a=lambda t: both.wait(BUG), well=first(well), badly=first(badly))  # type: ignore[arg-type]
    report = run(
        plan(action("a"), action("well"), action("badly")),
        does,
        world=world(box=api, other=other),
        on_event=Events(interrupt_when("action_end", "a")),
    )
    assert statuses(report) == {"a": "done", "well": "done", "badly": "failed"}
    assert report.exit_code == 130


def test_a_second_ctrl_c_returns_at_once_with_what_is_known() -> None:
    """`stuck` heeds nothing until the test lets it go, after the report is there."""
    let_go, started = threading.Event(), threading.Event()
    interrupts: list[str] = []

    def stuck(tell: Tell) -> None:
        started.set()
        assert let_go.wait(BUG)

    def twice(event: dict[str, Any]) -> None:
        if event["type"] == "action_end":  # of `a`, then of `later` which is given up
            interrupts.append(event["action"])
            raise KeyboardInterrupt

    wanted = plan(action("a"), action("stuck"), action("later", "stuck"), action("last", "later"))
    events = Events(twice)
    try:
        does = handlers(a=lambda t: started.wait(BUG), stuck=stuck)  # type: ignore[arg-type]
        report = run(wanted, does, on_event=events)
    finally:
        let_go.set()
    assert interrupts == ["a", "later"]
    assert statuses(report) == {"a": "done", "stuck": "interrupted", "later": "skipped", "last": "skipped"}
    assert report.outcomes[1].error == "still running when it was left"
    assert report.exit_code == 130


def test_stopping_the_world_from_another_thread_is_an_interruption_too() -> None:
    here = world()

    def a(tell: Tell) -> None:
        here.interrupt()

    report = run(plan(action("a"), action("b", "a")), handlers(a=a), world=here)
    assert statuses(report) == {"a": "done", "b": "skipped"}
    assert report.exit_code == 130


def test_a_listener_that_fails_in_a_handlers_thread_fails_that_action_only() -> None:
    def broken(event: dict[str, Any]) -> None:
        if event["type"] == "action_note":
            raise BrokenPipeError(32, "Broken pipe")

    report = run(plan(action("a"), action("b")), handlers(a=lambda t: t.note("x")), on_event=Events(broken))
    assert statuses(report) == {"a": "failed", "b": "done"}


def test_what_waits_for_a_free_slot_has_not_begun() -> None:
    """Nothing is queued inside the pool, where Ctrl-C could not take it back."""
    here = world()
    does = handlers(a=lambda t: here.interrupt(), b=failing(AssertionError("must not start")))
    assert statuses(run(plan(action("a"), action("b")), does, 1, world=here)) == {"a": "done", "b": "skipped"}
