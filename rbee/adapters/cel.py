# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies in CEL (Common Expression Language), by the C++ library: checked against the types of our records.

Each field of a record is a variable of its own type (`worker.busy` is an int), so that a misspelt field and a text
compared with a number are found before anything runs.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from operator import itemgetter
from typing import Any, get_args, get_origin, get_type_hints

from rbee.adapters import cel_tree, cel_words
from rbee.contracts.decisions import CandidateRecord, RequestRecord
from rbee.core.policy import FIELDS, UNCOUNTED, Compiler, Expression, Fault, Policy, PolicyFailed
from rbee.core.spec import PolicySpec

#: Characters of an expression, and comprehensions (`exists`, `map`...) in it; one may not stand in another, nor on
#: the result of another: what they take then grows with each.
LONGEST, MOST_COMPREHENSIONS = 2000, 8
#: Characters of a pattern of `matches`, and the product of the counts in it (`{1,20}`).
LONGEST_PATTERN, MOST_REPEATS = 100, 100
_REPEATS = re.compile(r"\{(\d*),?(\d*)\}")
#: What is the outcome, and no fact.
_OUTCOME = ("excluded", "terms")
_KINDS = {"filter": ("bool",), "reject": ("bool",), "score": ("int", "uint", "double")}
#: What is remembered of one expression.
REMEMBERED = 1000
_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): ([^\n]*)")


def compiler() -> Compiler | None:
    """What makes policies; None where the library is not installed."""
    return compile_policy if importlib.util.find_spec("cel_expr_python") is not None else None


def variables() -> dict[str, str]:
    """Every name that an expression may use, and its type as CEL calls it."""
    return {
        f"{prefix}.{field.name}": _type_name(get_type_hints(record)[field.name])
        for prefix, record in (("request", RequestRecord), ("worker", CandidateRecord))
        for field in fields(record)
        if not (prefix == "worker" and field.name in _OUTCOME)
    }


def _type_name(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return "list(string)"
    if get_origin(hint) is dict:
        return "map(string, string)"
    if get_args(hint):  # an int or nothing: facts have 0 for that
        hint = get_args(hint)[0]
    return {str: "string", bool: "bool", int: "int", float: "double"}[hint]


def compile_policy(name: str, spec: PolicySpec) -> tuple[Policy | None, Sequence[Fault]]:
    """The policy, or everything that is wrong with it."""
    faults: list[Fault] = []
    made: dict[str, Expression] = {}
    for what in FIELDS:
        text = getattr(spec, what)
        if text is None:
            continue
        found = _compile(what, text)
        if isinstance(found, Compiled):
            made[what] = found
        else:
            faults += found
    if faults:
        return None, faults
    return Policy(name=name, models=spec.models, reason=spec.reason or "", **made), ()


class Compiled:
    """A compiled expression. It says the same of the same facts, so what it said is remembered: workers are alike, and
    a fact such as how busy one is has few values."""

    __slots__ = ("_expression", "_facts", "_said", "names")

    def __init__(self, expression: Any, names: tuple[str, ...]) -> None:
        self._expression = expression
        self.names = names
        #: None: its facts are long, or cannot be compared.
        self._facts = itemgetter(*names) if names and not UNCOUNTED.intersection(names) else None
        self._said: dict[Any, Any] = {}

    @property
    def remembered(self) -> int:
        """Of how many sets of facts."""
        return len(self._said)

    def value(self, facts: Mapping[str, Any]) -> Any:
        """Raises PolicyFailed."""
        try:
            key = self._facts(facts) if self._facts is not None else None
            found = self._said.get(key)
        except (KeyError, TypeError):  # a fact is missing, or is of another type
            key = found = None
        if key is None:
            return self._evaluated(facts)
        if found is None:
            found = self._evaluated(facts)
            if len(self._said) >= REMEMBERED:
                self._said.clear()
            self._said[key] = found
        return found

    def _evaluated(self, facts: Mapping[str, Any]) -> Any:
        try:
            told = self._expression.eval(data=facts)
            found = told.value()
        except Exception as e:  # the library's own, of several kinds
            raise PolicyFailed(cel_words.failure(str(e))) from None
        # What went wrong comes as a value too.
        if not isinstance(found, (bool, int, float)) and told.type() == _error_type():
            raise PolicyFailed(cel_words.failure(str(found)))
        return found


def _compile(what: str, text: str) -> Compiled | list[Fault]:
    if len(text) > LONGEST:
        mend = f"At most {LONGEST}; split it into several policies."
        return [Fault(field=what, summary=f"The expression has {len(text)} characters.", mend=mend)]
    if not text.strip():
        return [Fault(field=what, summary="The expression is empty.", mend="Remove it, or write one.")]
    known = [n for n in variables() if what != "reject" or n.startswith("request.")]
    try:
        expression = _environment(what == "reject").compile(text)
    except Exception as e:  # the library's own, of several kinds
        return _refused(what, text, str(e), known)
    kind = expression.return_type().name().lower()
    if kind not in (*_KINDS[what], "dyn"):
        wanted = "a number" if what == "score" else "true or false"
        mend = "Compare it with something: `==`, `<`, `in`..." if what != "score" else "Write `CONDITION ? 1.0 : 0.0`."
        return [Fault(field=what, summary=f"`{what}` must give {wanted}; this gives {kind}.", mend=mend)]
    tree = cel_tree.read(expression.serialize())
    if tree.depth > 1 or tree.comprehensions > MOST_COMPREHENSIONS:
        detail = "Each one multiplies the time and memory of the one around it."
        summary = (
            "A comprehension stands in another, or on the result of another."
            if tree.depth > 1
            else f"{tree.comprehensions} comprehensions; at most {MOST_COMPREHENSIONS}."
        )
        return [Fault(field=what, summary=summary, detail=detail, mend="Use `in`, or split the policy.")]
    for pattern in tree.patterns:
        if (why := _costly(pattern)) is not None:
            mend = "Use a short literal pattern, or `startsWith`, `contains`, `in`."
            return [Fault(field=what, summary=f"`matches` {why}.", mend=mend, offset=max(text.find("matches"), 0))]
    return Compiled(expression, tuple(n for n in tree.names if n in known))


def _costly(pattern: str | None) -> str | None:
    """What makes a pattern of `matches` too dear. It takes time by its length, times what it repeats, times the
    text's length; one from a header would be anybody's."""
    if pattern is None:
        return "takes a pattern that is written out, not one that is computed"
    if len(pattern) > LONGEST_PATTERN:
        return f"has a pattern of {len(pattern)} characters; at most {LONGEST_PATTERN}"
    times = 1
    for least, most in _REPEATS.findall(pattern):
        times *= max(int(least or 0), int(most or 0), 1)
    return f"repeats {times} times; at most {MOST_REPEATS}" if times > MOST_REPEATS else None


def _refused(what: str, text: str, said: str, known: list[str]) -> list[Fault]:
    """The library's errors, in our words and at their places. One fault tends to bring others with it: the first of
    each place counts."""
    found: dict[int, Fault] = {}
    for line, column, message in _ERROR.findall(said):
        offset = _offset(text, int(line), int(column))
        words = cel_words.refusal(message, text, offset, known, what)
        if words is not None:
            found.setdefault(offset, Fault(field=what, summary=words[0], mend=words[1], offset=words[2]))
        if "Syntax error" in message:  # what follows it is guesswork
            break
    if not found:
        return [Fault(field=what, summary=cel_words.other(said), mend="Write it in a simpler way.")]
    return list(found.values())[:3]


def _offset(text: str, line: int, column: int) -> int:
    """Characters before a place; lines and columns count from 1, -1 is no place."""
    if line < 1 or column < 1:
        return 0
    lines = text.split("\n")
    return min(sum(len(x) + 1 for x in lines[: line - 1]) + column - 1, len(text))


@cache
def _environment(of_request: bool) -> Any:
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_math, ext_optional

    kinds = {
        "string": cel.Type.STRING,
        "bool": cel.Type.BOOL,
        "int": cel.Type.INT,
        "double": cel.Type.DOUBLE,
        "list(string)": cel.Type.List(cel.Type.STRING),
        "map(string, string)": cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
    }
    declared = {n: kinds[k] for n, k in variables().items() if not of_request or n.startswith("request.")}
    return cel.NewEnv(variables=declared, extensions=[ext_optional.ExtOptional(), ext_math.ExtMath()])


@cache
def _error_type() -> Any:
    from cel_expr_python import cel

    return cel.Type.ERROR
