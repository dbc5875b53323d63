# SPDX-License-Identifier: GPL-3.0-or-later
"""A checked CEL expression, as far as its cost and its names tell: read from the bytes that the library gives.

They are the public message `cel.expr.CheckedExpr` (google/api/expr/v1alpha1/checked.proto, syntax.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Fields of the messages.
_ANY_VALUE, _REFERENCES, _EXPR = 2, 2, 4
_COMPREHENSION, _CALL, _FUNCTION, _ARGUMENTS, _CONSTANT, _STRING = 9, 6, 2, 3, 3, 6
#: Of each kind of expression (its field in Expr), the fields that hold expressions; entries of a struct hold some too.
_PARTS = {5: (1,), 6: (1, 3), 7: (1,), 9: (2, 4, 5, 6, 7)}
_STRUCT, _ENTRIES, _ENTRY_PARTS = 8, 2, (3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """`names` are the variables that it looks at; `depth`: how many comprehensions stand in one another, or one on
    the result of another; `comprehensions`: how many there are; `patterns` of `matches`, None for one that is no
    literal."""

    names: tuple[str, ...]
    depth: int
    comprehensions: int
    patterns: tuple[str | None, ...] = ()


def read(serialized: bytes) -> Tree:
    """Raises ValueError for bytes that are no such message."""
    checked = next((v for n, v in _fields(serialized) if n == _ANY_VALUE), b"")
    names, root = [], b""
    for number, value in _fields(checked):
        if number == _EXPR:
            root = value
        elif number == _REFERENCES:
            reference = next((v for n, v in _fields(value) if n == 2), b"")
            names += [v.decode() for n, v in _fields(reference) if n == 1]
    deepest = count = 0
    patterns: list[str | None] = []
    waiting = [(root, 0)]
    while waiting:
        expression, depth = waiting.pop()
        for number, value in _fields(expression):
            inside = depth
            if number == _COMPREHENSION:
                inside += 1
                count += 1
                deepest = max(deepest, inside)
            if number == _CALL and (b"matches" in [v for n, v in _fields(value) if n == _FUNCTION]):
                patterns.append(_literal([v for n, v in _fields(value) if n == _ARGUMENTS][-1:]))
            if number == _STRUCT:
                entries = (e for n, e in _fields(value) if n == _ENTRIES)
                waiting += [(v, depth) for e in entries for n, v in _fields(e) if n in _ENTRY_PARTS]
            elif number in _PARTS:
                waiting += [(v, inside) for n, v in _fields(value) if n in _PARTS[number]]
    return Tree(names=tuple(sorted(set(names))), depth=deepest, comprehensions=count, patterns=tuple(patterns))


def _literal(expressions: list[bytes]) -> str | None:
    """The text that an expression is; None when it is anything else."""
    constants = [v for e in expressions for n, v in _fields(e) if n == _CONSTANT]
    found = [v.decode() for c in constants for n, v in _fields(c) if n == _STRING]
    return found[0] if found else None


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that have a length; others are passed over."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        kind = key & 7
        if kind == 2:
            length, at = _number(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than the message")
            yield key >> 3, data[at : at + length]
            at += length
        elif kind == 0:
            _, at = _number(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number without an end")
