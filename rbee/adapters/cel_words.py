# SPDX-License-Identifier: GPL-3.0-or-later
"""What the CEL library says, in words for the person who writes a policy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rbee.core.problems import did_you_mean

#: Functions of CEL and of the extensions that are on.
_FUNCTIONS = (
    "all", "bool", "contains", "double", "dyn", "duration", "endsWith", "exists", "exists_one", "filter", "has",
    "hasValue", "int", "map", "matches", "math.abs", "math.ceil", "math.floor", "math.greatest", "math.least",
    "math.round", "optMap", "or", "orValue", "size", "startsWith", "string", "timestamp", "type", "value",
)  # fmt: skip
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_OVERLOAD = re.compile(r"found no matching overload for '([^']*)' applied to '([^']*)'")
_OPERATOR = re.compile(r"_?([^_A-Za-z]+)_?|@?(in)")
_CODE = re.compile(r"^[A-Z_]+: |\s*\[[A-Z_]+\]$")


def refusal(message: str, text: str, offset: int, known: Sequence[str], what: str) -> tuple[str, str, int] | None:
    """Summary, mend and place of a compiler's error; None for one that only follows from another."""
    if found := _UNDECLARED.match(message):
        return _unknown(found[1], text, offset, known, what)
    if found := _OVERLOAD.match(message):
        return (*_mismatch(found[1], found[2]), offset)
    if message.startswith("Syntax error:"):
        return (*_syntax(message, text, offset), offset)
    if "recursion" in message:
        return "The expression is nested too deeply.", "Split the policy, or use `in [...]`.", 0
    return f"{message[:200].rstrip('.')}.", "", offset


def _unknown(name: str, text: str, offset: int, known: Sequence[str], what: str) -> tuple[str, str, int]:
    root, dot, rest = name.partition(".")
    roots = sorted({k.partition(".")[0] for k in known})
    start = _start(name, text, offset)
    if what == "reject" and root == "worker":
        return "`reject` looks at the request alone: there is no `worker` yet.", "Use `filter` for workers.", start
    if root in roots:
        fields = [k.partition(".")[2] for k in known if k.startswith(f"{root}.")]
        if not dot:
            return f"`{root}` is no value by itself.", f"It has: {', '.join(fields)}.", start
        field = rest.partition(".")[0]
        return f"`{root}` has no {field!r}.", did_you_mean(field, fields), start + len(root) + 1
    if re.match(r"\s*\(", text[start + len(name) :]):
        return f"There is no function {name!r}.", did_you_mean(name, _FUNCTIONS), start
    return f"There is no {root!r}.", did_you_mean(root, roots), start


def _start(name: str, text: str, offset: int) -> int:
    """Where a name begins, of which the library points at the beginning, at the last dot in it, or at what follows."""
    last = name.rpartition(".")[2]
    for start in (offset, offset - (len(name) - len(last) - 1), offset - len(name)):
        if start >= 0 and text.startswith(name, start):
            return start
    return max(text.rfind(name, 0, offset + len(name)), 0)


def _mismatch(operator: str, types: str) -> tuple[str, str]:
    shown = found[1] or found[2] if (found := _OPERATOR.fullmatch(operator)) else operator
    shown = {"_?_:_": "? :", "_[_]": "[ ]"}.get(operator, shown)
    given = types.strip("()").split(", ")
    summary = f"`{shown}` does not take {' and '.join(given)}."
    if {"int", "double"} <= set(given):
        return summary, "CEL does not mix whole numbers and fractions: write `double(...)`, or 2.0 for 2."
    if "string" in given and {"int", "double"} & set(given):
        return summary, "A text is in quotes, a number is not; `string(...)` and `int(...)` make one of the other."
    return summary, ""


def _syntax(message: str, text: str, offset: int) -> tuple[str, str]:
    if "'<EOF>'" in message:
        return "The expression ends too early.", "Is a bracket still open, or an operator without what follows it?"
    there = re.match(r"\S{1,20}", text[offset:])
    mend = {"=": "Write == to compare.", "and": "Write &&.", "or": "Write ||.", "not": "Write !."}
    word = there[0] if there else ""
    return f"{word!r} cannot stand here.", mend.get(word, "")


def failure(said: str) -> str:
    """An error while it ran, on one short line."""
    said = _CODE.sub("", " ".join(said.split()))
    if found := re.match(r"Key not found in map : (.*)", said):
        return f"there is no key {found[1]}; ask with has(...) first, or write .?KEY.orValue('')"
    return said[:200]


def other(said: str) -> str:
    """An error without a place."""
    if "recursion" in said.lower():
        return "The expression is nested too deeply."
    first = _CODE.sub("", said.strip().splitlines()[0] if said.strip() else "It cannot be read")
    return f"{first[:200].rstrip('.')}."
