# SPDX-License-Identifier: GPL-3.0-or-later
"""Collected errors for people: what, where, why, how to mend; all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A place in a file; `line` and `column` count from 1, 0 where a whole file is meant."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong. `summary` says what, `detail` why, `mend` how to mend it."""

    summary: str
    detail: str = ""
    mend: str = ""
    where: Where | None = None
    #: The thing in the fleet it is about (`hives.workstation`), for `--target` and JSON.
    subject: str = ""
    severity: Severity = "error"
    #: The error's code, for programs; empty where it has none.
    code: str = ""

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.summary}" if self.where else self.summary]
        lines += [f"  {text}" for text in (self.detail, self.mend) if text]
        return "\n".join(lines)


class ProblemsError(Exception):
    """Raised by what cannot go on: carries every problem found, never only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`Did you mean X?` for a near miss, else the list of what is known (at most ten), else nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    if not known:
        return ""
    shown = ", ".join(sorted(known)[:10])
    return f"Known: {shown}{', ...' if len(known) > 10 else '.'}"
