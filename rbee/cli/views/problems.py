# SPDX-License-Identifier: GPL-3.0-or-later
"""Problems for people (the line with a caret under it, why, how to mend it) and for programs (JSON lines)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from rbee.contracts import codec
from rbee.core.problems import Problem, Where
from rbee.core.redact import redact

#: More than these are counted, not shown.
MOST = 50
_WIDEST = 120
_READ = 2**20


def show(problems: Sequence[Problem]) -> None:
    """To standard error; in colour on a terminal, unless NO_COLOR is set."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(human(problems), err=True, color=colour)


def human(problems: Sequence[Problem]) -> str:
    """All problems as blocks with ANSI colours, the last line a count. Reads the files for the excerpts."""
    texts: dict[str, list[str]] = {}
    blocks = [_block(problem, texts) for problem in problems[:MOST]]
    if len(problems) > MOST:
        blocks.append(f"... and {len(problems) - MOST} more.")
    return redact("\n\n".join([*blocks, _count(problems)]))


def as_json(problem: Problem) -> dict[str, Any]:
    """One `problem` event."""
    return {"type": "problem", **codec.plain(problem)}


def _count(problems: Sequence[Problem]) -> str:
    said = []
    for severity in ("error", "warning"):
        number = sum(1 for p in problems if p.severity == severity)
        if number:
            said.append(f"{number} {severity}{'s' if number > 1 else ''}")
    return f"{' and '.join(said) or 'No problem'}."


def _block(problem: Problem, texts: dict[str, list[str]]) -> str:
    colour = "red" if problem.severity == "error" else "yellow"
    lines = [click.style(f"{problem.severity.capitalize()}: ", fg=colour, bold=True) + harmless(problem.summary)]
    if problem.where:
        lines.append(f"  at {harmless(str(problem.where))}")
        lines += _excerpt(problem.where, texts)
    lines += [f"  {harmless(line)}" for text in (problem.detail, problem.mend) for line in text.splitlines()]
    return "\n".join(lines)


def harmless(text: str) -> str:
    """The text without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else " " for c in text)


def _excerpt(where: Where, texts: dict[str, list[str]]) -> Iterable[str]:
    """The line and a caret; nothing when the file cannot be read (any more)."""
    if where.file not in texts:
        texts[where.file] = _lines(where.file)
    lines = texts[where.file]
    if not 0 < where.line <= len(lines):
        return []
    text = redact(lines[where.line - 1])
    start = max(0, where.column - _WIDEST + 20)
    shown = text[start : start + _WIDEST].rstrip()
    gutter = f"{where.line} | "
    caret = " " * max(0, where.column - 1 - start) + click.style("^", bold=True)
    return [f"    {gutter}{harmless(shown)}", f"    {' ' * (len(gutter) - 2)}| {caret}"]


def _lines(file: str) -> list[str]:
    try:
        with Path(file).open("rb") as f:
            return f.read(_READ).decode("utf-8-sig", errors="replace").splitlines()
    except OSError:
        return []
