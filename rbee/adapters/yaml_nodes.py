# SPDX-License-Identifier: GPL-3.0-or-later
"""Text of YAML to a `Document`: values with their places, bounded whatever the text does.

The library is asked for events only, one at a time; what they mean (YAML 1.2) and how far they may go is
decided here, so that neither deep nesting nor aliases of aliases can take the memory of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import yaml

from rbee.adapters.yaml_words import syntax_problem
from rbee.core.document import Document, Node, Scalar
from rbee.core.problems import Problem, ProblemsError, Where
from rbee.core.scalars import interpolate, resolve

MAX_DEPTH = 32
MAX_NODES = 200_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YAML = "tag:yaml.org,2002:"


def parse(text: str, file: str, environment: Mapping[str, str]) -> Document:
    """The document in `text`; problems that leave the rest readable are in it.

    Raises ProblemsError for what cannot be read at all: a syntax error, nothing in it, too deep, too much.
    """
    lines = tuple(text.splitlines())
    composer = _Composer(file, environment, yaml.parse(text, Loader=_LOADER))
    try:
        root = composer.document()
    except yaml.YAMLError as e:
        raise ProblemsError([*composer.problems, syntax_problem(e, file, lines)]) from None
    return Document(file=file, root=root, lines=lines, problems=tuple(composer.problems))


class _Composer:
    def __init__(self, file: str, environment: Mapping[str, str], events: Iterator[Any]) -> None:
        self.file = file
        self.environment = environment
        self.events = events
        self.problems: list[Problem] = []
        #: None while the anchored value is being read: an alias to it then would hold itself.
        self.anchors: dict[str, Node | None] = {}
        self.total = 0

    def document(self) -> Node:
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            self.fail("The file is empty.", 0, 0, "Run `rbee init` for one to start from.")
        root = self.node(next(self.events), 0)
        next(self.events)
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            self.problem(after, "A second document begins here.", "", "Remove the `---`: a file holds one document.")
        return root

    def node(self, event: Any, depth: int) -> Node:
        if depth > MAX_DEPTH:
            mark = event.start_mark
            self.fail(f"More than {MAX_DEPTH} levels deep.", mark.line + 1, mark.column + 1, "No key nests so far.")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.count(event, 1)
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(event, depth)
        else:
            node = self.mapping(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def count(self, event: Any, more: int) -> None:
        self.total += more
        if self.total > MAX_NODES:
            mark = event.start_mark
            detail = "Aliases count as all that they stand for."
            self.fail(f"More than {MAX_NODES} values.", mark.line + 1, mark.column + 1, detail)

    def alias(self, event: Any) -> Node:
        node = self.anchors.get(event.anchor)
        if node is not None:
            self.count(event, node.size)
            return node
        if event.anchor in self.anchors:
            self.problem(event, f"*{event.anchor} stands inside what it names.", "It would never end.", "Remove it.")
        else:
            self.problem(event, f"Nothing is named &{event.anchor}.", "", "A text that begins with * needs quotes.")
        return self.made(event, None, broken=True)

    def scalar(self, event: Any) -> Node:
        text, bad = interpolate(event.value, self.environment)
        mark = event.start_mark
        for reference in bad:
            before = event.value[: reference.offset]
            line = mark.line + 1 + before.count("\n")
            column = mark.column + 1 + len(before) + (event.style in ('"', "'")) if "\n" not in before else 1
            self.problems.append(
                Problem(
                    summary=reference.summary,
                    mend=reference.mend,
                    where=Where(file=self.file, line=line, column=column),
                )
            )
        return self.made(event, self.value(event, text), broken=bool(bad))

    def value(self, event: Any, text: str) -> Scalar:
        """Quoted and tagged text is text; a word that a variable filled in may be a number, but never nothing."""
        plain, _ = event.implicit
        if event.tag in (None, "!") or event.tag == f"{_YAML}str":
            if not plain or event.tag is not None:
                return text
            return text if text != event.value and not text else resolve(text)
        if event.tag in {f"{_YAML}{name}" for name in ("int", "float", "bool", "null")}:
            return resolve(text)
        self.unknown_tag(event)
        return text

    def unknown_tag(self, event: Any) -> None:
        self.problem(
            event, f"The tag {event.tag.replace(_YAML, '!!')} is not known.", "Tags run no code here.", "Remove it."
        )

    def sequence(self, event: Any, depth: int) -> Node:
        if event.tag not in (None, "!", f"{_YAML}seq"):
            self.unknown_tag(event)
        items: list[Node] = []
        while not isinstance(found := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(found, depth + 1))
        return self.made(event, items, size=1 + sum(n.size for n in items))

    def mapping(self, event: Any, depth: int) -> Node:
        if event.tag not in (None, "!", f"{_YAML}map"):
            self.unknown_tag(event)
        values: dict[str, Node] = {}
        keys: dict[str, tuple[int, int]] = {}
        merged: list[tuple[Any, Node]] = []
        while not isinstance(found := next(self.events), yaml.MappingEndEvent):
            name = self.key(found, depth)
            value = self.node(next(self.events), depth + 1)
            place = (found.start_mark.line + 1, found.start_mark.column + 1)
            if name == "<<" and found.implicit[0]:
                merged.append((found, value))
            elif name is not None and name in values:
                first = Where(file=self.file, line=keys[name][0], column=keys[name][1])
                detail = f"The first is at {first}; which one is meant cannot be known."
                self.problem(found, f"{name!r} is here twice.", detail, "Remove or rename one of them.")
            elif name is not None:
                values[name], keys[name] = value, place
        for found, value in merged:
            self.merge(found, value, values, keys)
        return self.made(event, values, keys=keys, size=1 + sum(n.size for n in values.values()))

    def key(self, event: Any, depth: int) -> str | None:
        """A key's text; None, with a problem told, for what is no text."""
        if not isinstance(event, yaml.ScalarEvent):
            self.node(event, depth + 1)
            self.problem(event, "A key must be a text.", "", "Did you mean a list item, or quotes around it?")
            return None
        text = str(event.value)
        if event.implicit[0] and event.tag is None and not isinstance(resolve(text), str):
            self.problem(event, f"The key {text or '(nothing)'} is no text.", "", f'Put it in quotes: "{text}":')
            return None
        return text

    def merge(self, event: Any, value: Node, values: dict[str, Node], keys: dict[str, tuple[int, int]]) -> None:
        """`<<: *anchor`: what the mapping does not say itself."""
        for source in value.value if isinstance(value.value, list) else [value]:
            if not isinstance(source.value, dict):
                self.problem(event, "`<<` takes a mapping, or a list of them.", "", "Write `<<: *NAME`.")
                continue
            for name, node in source.value.items():
                if name not in values:
                    self.count(event, node.size)
                    values[name], keys[name] = node, source.keys[name]

    def made(self, event: Any, value: Any, **more: Any) -> Node:
        return Node(value=value, line=event.start_mark.line + 1, column=event.start_mark.column + 1, **more)

    def problem(self, event: Any, summary: str, detail: str, mend: str) -> None:
        place = Where(file=self.file, line=event.start_mark.line + 1, column=event.start_mark.column + 1)
        self.problems.append(Problem(summary=summary, detail=detail, mend=mend, where=place))

    def fail(self, summary: str, line: int, column: int, mend: str) -> NoReturn:
        place = Where(file=self.file, line=line, column=column)
        raise ProblemsError([*self.problems, Problem(summary=summary, mend=mend, where=place)])
