# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of plan and apply, as JSON lines for programs: the same events that people see."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import IO, Any

import rbee
from rbee.contracts import codec
from rbee.core.plan import Plan
from rbee.core.problems import Problem
from rbee.fleet.report import Report

FORMAT = 1


class JsonLines:
    """Writes one JSON object a line; the first says the versions. Safe from any thread."""

    def __init__(self, out: IO[str] | None = None, now: Callable[[], str] | None = None) -> None:
        self._out = out or sys.stdout
        self._now = now
        self._lock = threading.Lock()
        self.emit({"type": "version", "rbee": rbee.__version__, "format": FORMAT})

    def emit(self, event: dict[str, Any]) -> None:
        stamped = {**event, "timestamp": self._now()} if self._now else event
        with self._lock:
            self._out.write(codec.encode(stamped).decode() + "\n")
            self._out.flush()

    def plan(self, plan: Plan) -> None:
        for action in plan.actions:
            self.emit({"type": "planned_action", **codec.to_mapping(action)})
        for problem in plan.problems:
            self.problem(problem)
        told = {"fleet": plan.fleet, "message": plan.summary, **plan.counts(), "on_demand": plan.on_demand}
        self.emit({"type": "plan_summary", **told})

    def problem(self, problem: Problem) -> None:
        self.emit({"type": "problem", **codec.to_mapping(problem)})

    def report(self, report: Report) -> None:
        self.emit({"type": "report", "message": report.summary, "exit_code": report.exit_code})
