# SPDX-License-Identifier: GPL-3.0-or-later
"""What a schema refuses in a document, told for people: what, where, why, how to mend it; all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError

from rbee.core.document import Document, Path
from rbee.core.problems import Problem
from rbee.fleet import schema_words as words


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A problem, and the path of what has to be left out before the rest can be looked at."""

    path: Path
    problem: Problem
    #: The rest can be looked at with it in place (a thing whose name is bad).
    harmless: bool = False


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """JSON Schema's `$` ends the text; Python's also stands before a last newline."""
    if isinstance(instance, str) and not words.matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


@cache
def _validator_class() -> Any:
    extend: Any = jsonschema.validators.extend
    return extend(jsonschema.Draft202012Validator, {"pattern": _pattern})


def refusals(document: Document, schema: Mapping[str, Any]) -> list[Refusal]:
    """Everything in the document that the schema refuses, but what is broken (told already)."""
    plain = document.root.plain()
    told = _Telling(document, schema)
    for error in _validator_class()(schema).iter_errors(plain):
        told.error(error, error.schema)
    return told.without_twins()


class _Telling:
    def __init__(self, document: Document, schema: Mapping[str, Any]) -> None:
        self.document = document
        self.schema = schema
        self.found: list[Refusal] = []
        #: Missing keys, by (path, key), and what misspelt keys were taken for.
        self.missing: dict[tuple[Path, str], Refusal] = {}
        self.meant: set[tuple[Path, str]] = set()

    def error(self, error: Any, around: Mapping[str, Any]) -> None:
        """`around` is the schema that describes the value: of `oneOf`, the one with the description."""
        path: Path = tuple(error.absolute_path)
        if self.document.broken(path):
            return
        tell: dict[str, Callable[[Any, Path], None]] = {
            "additionalProperties": self.unknown_keys,
            "required": self.required,
        }
        if error.validator in ("anyOf", "oneOf"):
            self.choice(error, around, path)
        elif error.validator in tell:
            tell[str(error.validator)](error, path)
        elif "propertyNames" in error.schema_path and error.validator == "pattern":
            self.bad_name(error, path)
        else:
            told = words.value_problem(error, around)
            self.add(path, told)

    def add(self, path: Path, told: words.Told, *, key: bool = False, harmless: bool = False) -> Refusal:
        label = words.label(path)
        place = self.document.where(*path, key=key)
        problem = Problem(summary=told.summary, detail=told.detail, mend=told.mend, where=place, subject=label)
        refusal = Refusal(path=path, problem=problem, harmless=harmless)
        self.found.append(refusal)
        return refusal

    def choice(self, error: Any, around: Any, path: Path) -> None:
        """Of several forms, complain about the one that the value has; else say all forms."""
        branches: dict[int, list[Any]] = {}
        for below in error.context or ():
            branches.setdefault(int(below.schema_path[0]), []).append(below)
        fitting = [b for b in branches.values() if not any(e.validator == "type" and not e.path for e in b)]
        if len(fitting) == 1:
            for below in fitting[0]:
                self.error(below, below.schema if "description" in below.schema else error.schema)
        else:
            self.add(path, words.wrong_kind(error.instance, words.kinds(error.schema, self.schema), around, path))

    def unknown_keys(self, error: Any, path: Path) -> None:
        known = list(error.schema.get("properties", {}))
        for name in error.instance:
            if name in known or self.document.broken((*path, name)):
                continue
            near = words.nearest(name, [k for k in known if k not in error.instance] or known)
            told = words.unknown_key(name, path, known, near, self.schema, error.schema)
            if near:
                self.meant.add((path, near))
            self.add((*path, name), told, key=True)

    def required(self, error: Any, path: Path) -> None:
        for name in error.validator_value:
            if name not in error.instance and (path, name) not in self.missing:
                told = words.missing_key(name, path, error.schema)
                self.missing[path, name] = self.add(path, told, key=True)

    def bad_name(self, error: Any, path: Path) -> None:
        name = str(error.instance)
        told = words.bad_name(name, str(error.validator_value))
        self.add((*path, name), told, key=True, harmless=True)

    def without_twins(self) -> list[Refusal]:
        """A misspelt required key is one problem, not two; each problem once."""
        twins = [r for key, r in self.missing.items() if key in self.meant]
        kept: dict[Problem, Refusal] = {}
        for refusal in self.found:
            if not any(refusal is twin for twin in twins):
                kept.setdefault(refusal.problem, refusal)
        return list(kept.values())
