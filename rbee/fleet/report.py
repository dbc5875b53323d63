# SPDX-License-Identifier: GPL-3.0-or-later
"""What an apply did, action by action."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from rbee.core.actions import Action
from rbee.core.problems import Problem

Status = Literal["done", "failed", "skipped", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one action ended; `error` and `mend` are for people, `code` for programs."""

    action: Action
    status: Status
    error: str = ""
    mend: str = ""
    code: str = ""
    seconds: float = 0.0

    def fields(self) -> dict[str, Any]:
        """The outcome without its action, empty words left out."""
        found = {"status": self.status, "error": self.error, "mend": self.mend, "code": self.code}
        return {**{k: v for k, v in found.items() if v}, "seconds": self.seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All outcomes in the plan's order, and the problems that kept things out of the plan."""

    outcomes: tuple[Outcome, ...]
    problems: tuple[Problem, ...] = ()
    interrupted: bool = False
    #: What was done, for the summary.
    verb: Literal["Apply", "Destroy"] = "Apply"

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failure or problem, 130 interrupted."""
        if self.interrupted:
            return 130
        bad = any(o.status != "done" for o in self.outcomes) or any(p.severity == "error" for p in self.problems)
        return 1 if bad else 0

    @property
    def summary(self) -> str:
        c = Counter(o.status for o in self.outcomes)
        parts = [f"{c['done']} done"]
        parts += [f"{c[s]} {s}" for s in ("failed", "interrupted", "skipped") if c[s]]
        unplanned = sum(1 for p in self.problems if p.severity == "error")
        if unplanned:
            parts.append(f"{unplanned} problem{'s' if unplanned > 1 else ''} outside the plan")
        ended = f"{self.verb} {'complete' if self.exit_code == 0 else 'incomplete'}"
        word = "Interrupted" if self.interrupted else ended
        return f"{word}: {', '.join(parts)}."
