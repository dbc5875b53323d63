# SPDX-License-Identifier: GPL-3.0-or-later
"""Model sources from their files: shipped ones first, then the user's own; a name or prefix used twice is a problem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rbee.contracts import codec
from rbee.contracts.schemas import SCHEMAS
from rbee.core.document import Document
from rbee.core.problems import Problem, ProblemsError
from rbee.core.sources import PREFIX, SourceProvider, used_twice
from rbee.fleet.load_providers import filled
from rbee.fleet.ports import Files
from rbee.fleet.schema_problems import refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFiles:
    """`own` are of every folder but the first (which comes with rbee): hives must be told of them. `damaged`: some
    file has problems, so that a text may be of a source that is not here."""

    sources: Mapping[str, SourceProvider] = field(default_factory=dict)
    own: tuple[SourceProvider, ...] = ()
    problems: tuple[Problem, ...] = ()
    damaged: bool = False


def load_sources(files: Files, folders: Sequence[Path]) -> SourceFiles:
    """The sources of all files in the folders, each by its name, and everything wrong with any."""
    sources: dict[str, SourceProvider] = {}
    homes: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in (p for folder in folders for p in files.listing(folder)):
        try:
            document = files.document(path, {})
        except ProblemsError as e:
            problems += e.problems
            continue
        source, found = _source(document)
        if source is not None:
            found = list(_twice(document, source, sources, homes))
            if not found:
                sources[source.name], homes[source.name] = source, path
        problems += found
    own = tuple(s for s in sources.values() if homes[s.name].parent != folders[0])
    return SourceFiles(sources=sources, own=own, problems=tuple(problems), damaged=bool(problems))


def _source(document: Document) -> tuple[SourceProvider | None, list[Problem]]:
    problems = [*document.problems, *(r.problem for r in refusals(document, SCHEMAS["source-provider"]()))]
    if problems:
        return None, problems
    source = codec.convert(SourceProvider, filled(document.root.plain()))
    problems = list(_prefixes(document, source))
    return (None, problems) if problems else (source, [])


def _prefixes(document: Document, source: SourceProvider) -> Iterator[Problem]:
    for index, prefix in enumerate(source.prefixes):
        if not re.fullmatch(PREFIX, prefix):
            yield Problem(
                summary=f"{prefix!r} cannot be a prefix.",
                detail="A prefix is a word in small letters, and a colon.",
                mend="Write it like `corp:`.",
                where=document.where("prefixes", index),
            )


def _twice(
    document: Document, new: SourceProvider, sources: Mapping[str, SourceProvider], homes: Mapping[str, Path]
) -> Iterator[Problem]:
    if new.name in sources:
        key, summary, other = "name", f"The source {new.name!r} is there twice.", new.name
    elif both := used_twice(sources, new):
        what, other = both
        key, summary = "bare" if what.startswith("ORG") else "prefixes", f"{what} is of the source {other!r} already."
    else:
        return
    yield Problem(
        summary=summary,
        detail=f"The other is {homes[other]}. No file overrides another.",
        mend="Rename or remove one of them.",
        where=document.where(key),
    )
