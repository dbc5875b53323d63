# SPDX-License-Identifier: GPL-3.0-or-later
"""The YAML library's complaints, for people who write YAML twice a year."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

from rbee.core.problems import Problem, Where

_INDENT = "Check the indentation: what belongs together starts in the same column."


def syntax_problem(error: yaml.YAMLError, file: str, lines: Sequence[str]) -> Problem:
    """A syntax error with its place, what it most likely is, and how to mend it."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return Problem(summary="This is not YAML.", detail=str(error), where=Where(file=file))
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    said = error.problem or ""
    if "unexpected end of stream" in said and error.context_mark:
        line, column = error.context_mark.line, error.context_mark.column
    text = lines[line] if line < len(lines) else ""
    summary, mend = _words(said, text, column)
    context = f"{error.context}, {said}" if error.context else said  # `token: x` would look like a secret
    place = Where(file=file, line=line + 1, column=column + 1)
    return Problem(summary=summary, detail=f"The parser says: {context}.", mend=mend, where=place)


def _words(said: str, text: str, column: int) -> tuple[str, str]:
    at = text[column : column + 1]
    if at == "\t" or text[:column].lstrip(" ").startswith("\t"):
        return "A tab.", "Indent with spaces; YAML does not take tabs."
    if "cannot start any token" in said:
        return f"A text cannot begin with {at!r}.", "Put the text in quotes."
    if "mapping values are not allowed" in said:
        return "A `: ` where no key can be.", f"Put a text that has `: ` in it in quotes. {_INDENT}"
    if "expected ','" in said:
        if re.search(r"[{\[,:]\s*[^\"']*\$\{", text):
            return "A `${...}` inside { } or [ ] needs quotes.", 'Write "${env.NAME}".'
        return "A { or [ is not closed, or a comma is missing.", "Close it, or put the text in quotes."
    if "unexpected end of stream" in said:
        return "A quote is opened here and not closed.", "Close it."
    if "expected key" in said or "expected '-'" in said or "block" in said:
        return "The indentation is off.", _INDENT
    return "This is not YAML.", _INDENT
