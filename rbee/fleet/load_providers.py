# SPDX-License-Identifier: GPL-3.0-or-later
"""Engine providers from their files: shipped ones first, then the user's own; a name used twice is a problem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee.contracts import codec
from rbee.contracts.schemas import SCHEMAS
from rbee.core.document import Document
from rbee.core.problems import Problem, ProblemsError, did_you_mean
from rbee.core.providers import PLACEHOLDERS, EngineProvider
from rbee.fleet.ports import Files
from rbee.fleet.schema_problems import refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """`damaged` are the names of engines whose files have problems: they may be named all the same."""

    providers: Mapping[str, EngineProvider] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    damaged: frozenset[str] = frozenset()


def load_providers(files: Files, folders: Sequence[Path]) -> Providers:
    """The engines of all files in the folders, each by its name, and everything wrong with any."""
    providers: dict[str, EngineProvider] = {}
    homes: dict[str, Path] = {}
    problems: list[Problem] = []
    damaged: set[str] = set()
    for path in (p for folder in folders for p in files.listing(folder)):
        try:
            document = files.document(path, {})
        except ProblemsError as e:
            problems += e.problems
            damaged.add(path.stem)
            continue
        provider, found = _provider(document)
        problems += found
        if provider is None:
            damaged |= {path.stem, str(_name(document))}
        elif provider.name in providers:
            problems.append(
                Problem(
                    summary=f"The engine {provider.name!r} is there twice.",
                    detail=f"The other is {homes[provider.name]}. No file overrides another.",
                    mend="Rename or remove one of them.",
                    where=document.where("name"),
                )
            )
        else:
            providers[provider.name], homes[provider.name] = provider, path
    return Providers(providers=providers, problems=tuple(problems), damaged=frozenset(damaged))


def _name(document: Document) -> object:
    node = document.root.child("name")
    return node.value if node else None


def _provider(document: Document) -> tuple[EngineProvider | None, list[Problem]]:
    """The provider in a document, or None with what is wrong."""
    problems = [*document.problems, *(r.problem for r in refusals(document, SCHEMAS["engine-provider"]()))]
    if problems:
        return None, problems
    provider = codec.convert(EngineProvider, filled(document.root.plain()))
    problems = list(_placeholders(document, provider))
    return (None, problems) if problems else (provider, [])


def filled(value: Any) -> Any:
    """The value without keys that were left empty."""
    if isinstance(value, dict):
        return {key: filled(below) for key, below in value.items() if below is not None}
    return [filled(below) for below in value] if isinstance(value, list) else value


def _placeholders(document: Document, provider: EngineProvider) -> Iterator[Problem]:
    """Names in the command that nothing fills in."""
    for index, item in enumerate(provider.command):
        for name in re.findall(r"\{([A-Za-z_]+)\}", item):
            if name not in PLACEHOLDERS:
                yield Problem(
                    summary=f"Nothing fills in {{{name}}}.",
                    mend=did_you_mean(name, sorted(PLACEHOLDERS)),
                    where=document.where("command", index),
                )
