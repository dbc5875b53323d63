# SPDX-License-Identifier: GPL-3.0-or-later
"""What people and programs are shown while something runs, and of a fleet's state."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from rich.console import Console

import rbee
from rbee.cli.views import ends
from rbee.cli.views.events import FORMAT, JsonLines
from rbee.cli.views.progress import Live
from rbee.cli.views.status import render, well
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.contracts.operations.fleet import (
    PlannedWorker,
    QueenStopResponse,
    StartTrouble,
    StatusResponse,
    WorkerSummary,
)
from rbee.contracts.operations.hives import HiveSummary
from rbee.core.problems import Problem
from rbee.fleet.report import Outcome, Report
from tests.unit.strategies import CPU, example_plan

# ------------------------------------------------------------ events for programs


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().split("\n")[:-1]]


def test_the_first_line_says_the_versions() -> None:
    out = io.StringIO()
    JsonLines(out)
    assert lines(out) == [{"type": "version", "rbee": rbee.__version__, "format": FORMAT}]


def test_every_event_bears_the_time_when_there_is_a_clock() -> None:
    out = io.StringIO()
    JsonLines(out, lambda: "2026-01-01T00:00:00Z").emit({"type": "x"})
    assert {e["timestamp"] for e in lines(out)} == {"2026-01-01T00:00:00Z"}


def test_a_plan_as_events() -> None:
    out, plan = io.StringIO(), example_plan()
    JsonLines(out).plan(plan)
    _, *told = lines(out)
    assert [e["type"] for e in told] == [
        *["planned_action"] * len(plan.actions),
        *["problem"] * len(plan.problems),
        "plan_summary",
    ]
    assert [e["id"] for e in told if e["type"] == "planned_action"] == [a.id for a in plan.actions]
    assert [e["needs"] for e in told if e["type"] == "planned_action"] == [list(a.needs) for a in plan.actions]
    assert told[-2]["subject"] == "hives.cellar"
    assert told[-1] == {
        "type": "plan_summary", "fleet": "home", "message": plan.summary, "add": 7, "change": 2, "replace": 1,
        "remove": 2, "on_demand": [],
    }  # fmt: skip


def test_a_report_as_an_event() -> None:
    out = io.StringIO()
    outcome = Outcome(action=example_plan().actions[0], status="failed")
    JsonLines(out).report(Report(outcomes=(outcome,), problems=(Problem(summary="x"),)))
    assert lines(out)[-1] == {
        "type": "report", "message": "Apply incomplete: 0 done, 1 failed, 1 problem outside the plan.", "exit_code": 1,
    }  # fmt: skip


def test_a_line_is_a_line_whatever_is_in_it_and_whoever_writes() -> None:
    out = io.StringIO()
    events = JsonLines(out)

    def write(i: int) -> None:
        for _ in range(50):
            events.emit({"type": "x", "from": i, "message": "two\nlines \u2028 and \x1b[31m"})

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(out.getvalue().split("\n")) == 1 + 4 * 50 + 1
    assert all(e["message"].startswith("two\nlines") for e in lines(out)[1:])


# ------------------------------------------------------------ progress for people

START = {"type": "action_start", "action": "model.fetch m on box"}
END = {"type": "action_end", "action": "model.fetch m on box", "status": "done", "seconds": 1.26}


def shown(*events: dict[str, Any], terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=60, no_color=True, legacy_windows=False)
    with Live(console) as live:
        for event in events:
            live.emit(event)
    return out.getvalue()


def test_elsewhere_than_on_a_terminal_there_are_plain_lines() -> None:
    progress = {"type": "action_progress", "action": START["action"], "done": 1, "total": 2}
    kept = {"type": "action_note", "action": START["action"], "message": "log out and it ends", "keep": True}
    assert "model.fetch m on box: log out and it ends\n" in shown(START, kept, END)
    note = {"type": "action_note", "action": START["action"], "message": "half"}
    assert shown(START, progress, note, END) == "model.fetch m on box ...\nmodel.fetch m on box: ok (1.3 s)\n"


@pytest.mark.parametrize(
    ("status", "word"), [("failed", "FAILED"), ("skipped", "skipped"), ("interrupted", "interrupted")]
)
def test_what_did_not_go_well_is_told_with_its_reason_and_mend(status: str, word: str) -> None:
    error = "[red]No space left on device[/red], which is more words than one line of this terminal has"
    told = shown({**END, "status": status, "error": error, "mend": "Free some."})
    assert told == f"model.fetch m on box: {word}\n    {error}\n    Free some.\n"  # no markup read, nothing cut


def test_words_from_a_machine_give_a_terminal_no_commands() -> None:
    told = shown({**END, "status": "failed", "error": "\x1b]0;title\x07 \x1b[2J gone"})
    assert told.splitlines()[1] == "     ]0;title   [2J gone"


def test_an_interruption_is_told_at_once() -> None:
    assert shown({"type": "interrupt", "message": "Ending what runs."}) == "Ending what runs.\n"


def test_what_it_does_not_know_is_passed_over() -> None:
    unheard = {"type": "action_progress", "action": "never started", "done": 1, "total": 0}
    assert shown(unheard, {"type": "of tomorrow"}) == ""


def test_on_a_terminal_the_moving_lines_are_gone_at_the_end_and_what_ended_stays() -> None:
    progress = {"type": "action_progress", "action": START["action"], "done": 3 * 2**20, "total": 0}
    note = {"type": "action_note", "action": START["action"], "message": "x" * 200}
    told = shown(START, progress, note, END, terminal=True)
    assert "model.fetch m on box: ok (1.3 s)" in told
    assert told.count("\x1b[?25l") == told.count("\x1b[?25h") == 1  # the cursor was hidden and shown again


def test_the_cursor_comes_back_however_it_ends() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Live(Console(file=out, force_terminal=True, width=60)) as live:
        live.emit(START)
        raise KeyboardInterrupt
    assert out.getvalue().count("\x1b[?25h") == 1


# ------------------------------------------------------------ status


def heartbeat(**kw: Any) -> WorkerHeartbeat:
    said = {
        "worker_id": "chat-0", "hive_id": "box", "model": "tiny", "engine": "llama-cpp", "worker_type": "cpu",
        "device": "cpu", "url": "http://10.0.0.1:9300", "status": "ready", "slots": 2, "slots_busy": 1,
        "requests_handled": 12, "avg_tokens_per_sec": 34.56,
    }  # fmt: skip
    return WorkerHeartbeat(**{**said, **kw})


def of_worker(routable: bool = True, reason: str | None = None, **kw: Any) -> WorkerSummary:
    return WorkerSummary(worker=heartbeat(**kw), routable=routable, age_seconds=1.0, reason=reason)


BOX = HiveSummary(hive_id="box", url="http://10.0.0.1:7835", status="online", devices=(CPU,), models=("tiny", "big"))


def state(*workers: WorkerSummary, hive: HiveSummary = BOX, **kw: Any) -> StatusResponse:
    said = {"fleet": "home", "version": "1.2", "uptime_seconds": 3.0, "aliases": {"gpt-4o": ("tiny", "big")}, **kw}
    return StatusResponse(hives=(hive,), workers=workers, **said)


def table(found: StatusResponse) -> list[str]:
    console = Console(file=io.StringIO(), width=200, no_color=True)
    with console.capture() as captured:
        for part in render(found):
            console.print(part)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_a_fleet_that_is_well() -> None:
    found = state(of_worker(), of_worker(routable=False, worker_id="new-0", status="starting", avg_tokens_per_sec=0.0))
    assert well(found)
    assert table(found) == [
        "Fleet home: queen 1.2, up 3s, 0 requests (0 now)",
        "HIVE STATUS URL DEVICES MODELS",
        "box online http://10.0.0.1:7835 cpu tiny, big",
        "WORKER STATUS MODEL HIVE DEVICE ENGINE BUSY REQUESTS TOKENS/S",
        "chat-0 ready tiny box cpu llama-cpp 1/2 12 34.6",
        "new-0 starting tiny box cpu llama-cpp 1/2 12 -",
        "alias gpt-4o -> tiny, big",
    ]


def test_reasons_give_a_terminal_no_commands() -> None:
    found = state(of_worker(False, "\x1b[2Jgone"), hive=replace(BOX, status="stale", error="\x1b[2Jgone"))
    assert table(found)[-2:] == ["hive box: [2Jgone", "worker chat-0: [2Jgone"]


@pytest.mark.parametrize("status", ["stale", "unreachable", "unknown"])
def test_a_hive_that_is_not_online_is_told_with_its_reason(status: Any) -> None:
    found = state(hive=replace(BOX, status=status, error="No route to host."))
    assert not well(found)
    assert f"box {status} http://10.0.0.1:7835 cpu tiny, big" in table(found)
    assert table(found)[-1] == "hive box: No route to host."


@pytest.mark.parametrize(
    ("summary", "word", "reason"),
    [
        (of_worker(False, status="failed", reason="its heartbeat's words"), "failed", None),
        (of_worker(False, "no heartbeat for 91 s"), "unreachable", "no heartbeat for 91 s"),
        (of_worker(False, "gone", status="dead"), "dead", "gone"),
    ],
)
def test_a_worker_that_takes_no_requests_is_told_with_its_reason(summary: Any, word: str, reason: str | None) -> None:
    found = state(summary)
    assert not well(found)
    assert table(found)[4].startswith(f"chat-0 {word} tiny")
    if reason:
        assert table(found)[-1] == f"worker chat-0: {reason}"


def test_a_workers_own_reason_goes_before_the_queens() -> None:
    theirs = heartbeat(status="failed", reason="The model is damaged.")
    summary = WorkerSummary(worker=theirs, routable=False, age_seconds=1.0, reason="status failed")
    assert table(state(summary))[-1] == "worker chat-0: The model is damaged."


def test_reasons_of_what_is_well_by_now_are_not_told() -> None:
    found = state(of_worker(reason="was slow"), hive=replace(BOX, error="was away"))
    assert well(found)
    assert table(found)[-1] == "alias gpt-4o -> tiny, big"


def planned(worker_id: str, state: Any, trouble: StartTrouble | None = None) -> PlannedWorker:
    return PlannedWorker(
        worker_id=worker_id, model="tiny", hive_id="box", device="cpu", engine="llama-cpp", state=state, trouble=trouble
    )


def test_workers_that_start_on_demand_stand_among_the_others() -> None:
    found = state(
        of_worker(),
        of_worker(worker_id="chat-2"),
        planned=(planned("chat-1", "on_demand"), planned("chat-3", "starting")),
    )
    assert well(found)
    assert [line.split()[0] for line in table(found)[4:8]] == ["chat-0", "chat-1", "chat-2", "chat-3"]
    assert table(found)[5] == "chat-1 on demand tiny box cpu llama-cpp - - -"
    assert table(found)[7] == "chat-3 starting tiny box cpu llama-cpp - - -"
    assert table(found)[-1] == "alias gpt-4o -> tiny, big"


def test_a_worker_that_could_not_be_started_is_told_with_why_and_when_again() -> None:
    trouble = StartTrouble(why="Not enough \x1b[2Jmemory.", times=3, retry_seconds=7.6)
    found = state(planned=(planned("chat-1", "failed", trouble),))
    assert not well(found)
    assert table(found)[4].startswith("chat-1 failed tiny")
    assert table(found)[-1] == (
        "worker chat-1 could not be started (3 tries): Not enough [2Jmemory. Tried again when it is wanted, "
        "not before 8s from now."
    )
    over = replace(trouble, why="Gone", times=1, retry_seconds=0.0)
    found = state(of_worker(False, "unloaded", status="unloaded"), planned=())
    assert well(found)
    found = replace(found, workers=(replace(found.workers[0], trouble=over),))
    assert not well(found)
    assert table(found)[-1] == "worker chat-0 could not be started: Gone. Tried again when it is wanted."


def test_a_worker_that_should_be_there_is_missed_and_one_replica_more_is_not() -> None:
    found = state(planned=(planned("chat-1", "missing"),))
    assert not well(found)
    assert table(found)[-1] == "worker chat-1: not running; the next request for tiny starts it, or apply."
    full = StartTrouble(why="No free port", retry_seconds=2.0)
    found = state(planned=(planned("chat-1", "on_demand", full),))
    assert well(found)
    assert table(found)[-1].startswith("worker chat-1 no room for one replica more: No free port.")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.9, "0s"), (59, "59s"), (61, "1m01s"), (3600, "1h00m"), (86399, "23h59m"), (90000, "1d1h")],
)
def test_how_long_it_is_up(seconds: float, words: str) -> None:
    assert f"up {words}," in table(state(uptime_seconds=seconds))[0]


# ------------------------------------------------------------ the end of a queen


def stopped(**said: Any) -> list[str]:
    answer = QueenStopResponse(**{"hives_stopped": (), "workers_stopped": 0, **said})
    return list(ends.render(answer, datetime.now(timezone.utc)))


def test_a_queen_who_leaves_nobody_says_nothing_of_others() -> None:
    assert stopped() == []


def test_what_goes_on_without_her_is_named_and_many_are_counted() -> None:
    (told,) = stopped(hives_left=("box",), workers_left=tuple(f"w{i:02}" for i in range(15)))
    assert told.startswith("Still running: hive box; 15 workers: w00, w01,")
    assert "w11 and 3 more." in told
    first, second = stopped(hives_stopped=("here",), workers_left=("chat-0",))
    assert first == "Stopped: hive here." and second.startswith("Still running: worker chat-0.")


def test_what_a_cascade_stopped_and_what_it_could_not() -> None:
    assert stopped(hives_stopped=("a", "b"), workers_stopped=1, failed=("c: its daemon: \x1b[2Jgone",)) == [
        "Stopped: 2 hives: a, b; 1 worker.",
        "Not stopped: c: its daemon:  [2Jgone",
    ]
