# SPDX-License-Identifier: GPL-3.0-or-later
"""What an apply says it did, and the exit code that follows."""

from __future__ import annotations

from typing import Any

import pytest

from rbee.core.actions import Action
from rbee.core.problems import Problem
from rbee.fleet.report import Outcome, Report

ACTION = Action(id="hive.start a", kind="hive.start", change="add", subject="hives.a", name="a", hive="a", reason="r")
BAD, WARNING = Problem(summary="bad"), Problem(summary="hm", severity="warning")


def report(*statuses: Any, **kw: Any) -> Report:
    return Report(outcomes=tuple(Outcome(action=ACTION, status=s) for s in statuses), **kw)


@pytest.mark.parametrize(
    ("made", "code", "summary"),
    [
        (report(), 0, "Apply complete: 0 done."),
        (report("done", "done"), 0, "Apply complete: 2 done."),
        (report("done", problems=(WARNING,)), 0, "Apply complete: 1 done."),
        (report("done", "failed", "skipped"), 1, "Apply incomplete: 1 done, 1 failed, 1 skipped."),
        (report("skipped"), 1, "Apply incomplete: 0 done, 1 skipped."),
        (report("done", problems=(BAD,)), 1, "Apply incomplete: 1 done, 1 problem outside the plan."),
        (report(problems=(BAD, WARNING, BAD)), 1, "Apply incomplete: 0 done, 2 problems outside the plan."),
        (report("done", "interrupted", interrupted=True), 130, "Interrupted: 1 done, 1 interrupted."),
        (report("done", interrupted=True), 130, "Interrupted: 1 done."),
    ],
)
def test_code_and_summary(made: Report, code: int, summary: str) -> None:
    assert (made.exit_code, made.summary) == (code, summary)


def test_empty_words_are_left_out_of_an_outcome() -> None:
    assert Outcome(action=ACTION, status="done", seconds=1.5).fields() == {"status": "done", "seconds": 1.5}
    full = Outcome(action=ACTION, status="failed", error="e", mend="m", code="c")
    assert full.fields() == {"status": "failed", "error": "e", "mend": "m", "code": "c", "seconds": 0.0}
