# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that a person wrote, as values that remember where they stand.

`rbee.adapters.yaml_source` makes one; `rbee.fleet.load` checks it. What is wrong with the text itself
(a key twice, an unset variable) is in `problems` already, and the values it is about are `broken`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rbee.core.problems import Problem, Where

Scalar = str | int | float | bool | None
#: Keys and indexes from the top: `("hives", "workstation", "ssh", "port")`.
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value and its place; `line` and `column` count from 1. Aliases share one node."""

    value: Scalar | dict[str, Node] | list[Node]
    line: int
    column: int
    #: Places of a mapping's keys.
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: A problem was told about it already; its value is not to be trusted.
    broken: bool = False
    #: Values in it, itself counted: what an alias to it would add.
    size: int = 1

    def child(self, step: str | int) -> Node | None:
        """The value under a key or an index; None where there is none."""
        value = self.value
        if isinstance(value, dict):
            return value.get(step) if isinstance(step, str) else None
        if isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
            return value[step]
        return None

    def plain(self) -> Any:
        """Dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """`file` is the name for people; `lines` the text, for the excerpts beside problems."""

    file: str
    root: Node
    lines: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def where(self, *path: str | int, key: bool = False) -> Where:
        """Place of the value at `path`, or of its key; of the nearest value around it when there is none."""
        node, place = self.root, (self.root.line, self.root.column)
        for step in path:
            below = node.child(step)
            if below is None:
                break
            key_place = node.keys.get(step, place) if isinstance(step, str) else (below.line, below.column)
            place = key_place if key else (below.line, below.column)
            node = below
        return Where(file=self.file, line=place[0], column=place[1])

    def within(self, path: Path, offset: int) -> Where:
        """Place of a character of the text at `path`. Of the text's beginning where it was written in another way
        than it is read: with escapes, or with variables in it."""
        node: Node | None = self.root
        for step in path:
            node = node.child(step) if node is not None else None
        if node is None or not isinstance(node.value, str):
            return self.where(*path)
        place = self._walk(node, node.value, offset)
        return Where(file=self.file, line=place[0], column=place[1]) if place is not None else self.where(*path)

    def _walk(self, node: Node, text: str, offset: int) -> tuple[int, int] | None:
        """Goes along the file and the text at once; spaces and line ends differ with the style of the text."""
        line, column = node.line, node.column
        written = self.lines[line - 1][column - 1 :] if line <= len(self.lines) else ""
        if written[:1] in ("|", ">"):
            line, column = line + 1, 1
        elif written[:1] in ('"', "'"):
            column += 1
        wanted = [c for c in text[: offset + 1] if not c.isspace()]
        if offset >= len(text) or text[offset].isspace():
            wanted.append("")  # just behind the last one
        place: tuple[int, int] | None = None
        for char in wanted:
            if char == "" and place is not None:
                return place[0], place[1] + 1
            while line <= len(self.lines) and not self.lines[line - 1][column - 1 :].strip():
                line, column = line + 1, 1
            if line > len(self.lines):
                return None
            rest = self.lines[line - 1][column - 1 :]
            column += len(rest) - len(rest.lstrip())
            if rest.lstrip()[0] != char:
                return None
            place = (line, column)
            column += 1
        return place

    def broken(self, path: Path) -> bool:
        """Whether the value at `path`, or one around it, is in `problems` already."""
        node: Node | None = self.root
        for step in path:
            if node is None or node.broken:
                break
            node = node.child(step)
        return node is not None and node.broken

    def broken_paths(self) -> Iterator[Path]:
        """Paths of all broken values."""
        waiting: list[tuple[Path, Node]] = [((), self.root)]
        while waiting:
            path, node = waiting.pop()
            if node.broken:
                yield path
            elif isinstance(node.value, dict):
                waiting += [((*path, key), below) for key, below in node.value.items()]
            elif isinstance(node.value, list):
                waiting += [((*path, i), below) for i, below in enumerate(node.value)]
