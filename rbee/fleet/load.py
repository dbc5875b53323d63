# SPDX-License-Identifier: GPL-3.0-or-later
"""rbee.yaml and the provider files to a checked `Spec`: every problem at once, each at its line and column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbee.contracts import codec
from rbee.contracts.schemas import SCHEMAS
from rbee.core import document as doc
from rbee.core.checks import Finding, Scene, check_machines
from rbee.core.checks_policy import check_policies
from rbee.core.checks_queen import check_queen
from rbee.core.checks_work import check_aliases, check_models, check_workers
from rbee.core.digest import digest
from rbee.core.document import Document
from rbee.core.policy import Compiler
from rbee.core.problems import Problem, ProblemsError, Where
from rbee.core.providers import EngineProvider
from rbee.core.resolve import Places, complete
from rbee.core.sources import SourceProvider
from rbee.core.spec import Spec
from rbee.fleet.load_providers import Providers, load_providers
from rbee.fleet.load_sources import SourceFiles, load_sources
from rbee.fleet.ports import Files
from rbee.fleet.schema_problems import refusals
from rbee.fleet.schema_words import label

BUILTINS = ("bee-tiny",)
_SECTIONS = ("hives", "models", "workers", "aliases", "policies")
#: What a thing cannot be without: when it is refused, nothing more is said of the thing.
_VITAL = {"hives": ("ssh",), "models": ("source",), "workers": ("model",), "aliases": (), "policies": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """`digest` is of the spec, the engines and the sources: equal when nothing that a plan is made from differs.
    `sources` are the fleet's own ones, of which hives must be told."""

    spec: Spec
    providers: Mapping[str, EngineProvider]
    digest: str
    document: Document
    sources: tuple[SourceProvider, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def where(self, *path: str | int, key: bool = True) -> Where:
        """Place of a thing in the file, for later problems about it: `where("hives", "workstation")`."""
        return self.document.where(*path, key=key)


def load(
    source: Path,
    environment: Mapping[str, str],
    *,
    files: Files,
    home: Path,
    provider_dirs: Sequence[Path] = (),
    source_dirs: Sequence[Path] = (),
    builtins: Sequence[str] = BUILTINS,
    compile: Compiler | None = None,
    deploying: bool = False,
) -> Loaded:
    """The fleet that `source` describes, with the engines of `provider_dirs` and the model sources of `source_dirs`
    (the first of which comes with rbee). `compile` checks policies; None: nothing here can. `deploying`: the queen is
    to run here, so a key file of hers that is no good, or a library that she lacks, is an error; else a warning. Blocks
    on files only.

    Raises ProblemsError with everything that is wrong in all of the files, in order of file and line.
    """
    engines, sources = load_providers(files, provider_dirs), load_sources(files, source_dirs)
    try:
        document = files.document(source, environment)
    except ProblemsError as e:
        raise ProblemsError([*e.problems, *engines.problems, *sources.problems]) from None
    problems, scene = _examine(document, source, files, home, engines, sources, tuple(builtins), compile, deploying)
    problems += [*engines.problems, *sources.problems]
    if any(p.severity == "error" for p in problems):
        raise ProblemsError(_in_order(problems))
    return Loaded(
        spec=scene.spec,
        providers=engines.providers,
        digest=digest(
            {
                "spec": codec.plain(scene.spec),
                "providers": codec.plain(engines.providers),
                "sources": codec.plain(sources.sources),
            }
        ),
        document=document,
        sources=sources.own,
        warnings=tuple(_in_order(problems)),
    )


def _examine(
    document: Document,
    source: Path,
    files: Files,
    home: Path,
    engines: Providers,
    sources: SourceFiles,
    builtins: tuple[str, ...],
    compile: Compiler | None,
    deploying: bool,
) -> tuple[list[Problem], Scene]:
    """All problems of the document, and what could be made of it."""
    refused = refusals(document, SCHEMAS["rbee"]())
    broken = list(document.broken_paths())
    bad = [*(r.path for r in refused), *broken]
    written = _without(document.root.plain(), [*(r.path for r in refused if not r.harmless), *broken])
    names = {s: frozenset(_mapping(_mapping(document.root.plain()).get(s))) for s in _SECTIONS}
    places = Places(folder=str(source.absolute().parent), home=str(home))
    spec = codec.convert(Spec, {"version": 1, "fleet": "?", **complete(written, places)})
    damaged = frozenset(path[:depth] for path in bad for depth in range(1, len(path) + 1))
    damaged |= {("engines", name) for name in engines.damaged}
    damaged |= {("sources",)} if sources.damaged else set()
    aliases = _mapping(written.get("aliases"))
    scene = Scene(
        spec=spec,
        aliases={name: (to,) if isinstance(to, str) else tuple(to) for name, to in aliases.items()},
        providers=engines.providers,
        sources=tuple(sources.sources.values()),
        builtins=builtins,
        names=names,
        damaged=lambda *path: path in damaged,
        kind=lambda path: files.kind(Path(path)),
        secret=lambda path: files.secret(Path(path)),
        password=lambda path: files.password(Path(path)),
        lacks=files.lacks,
        deploying=deploying,
        compile=compile,
    )
    problems = [*document.problems, *(r.problem for r in refused)]
    for check in (check_machines, check_queen, check_models, check_aliases, check_workers, check_policies):
        problems += [_located(document, finding) for finding in check(scene)]
    return problems, scene


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _without(plain: Any, bad: Iterable[doc.Path]) -> dict[str, Any]:
    """The file without what was refused, and without the things that are nothing without it."""
    whole = _mapping(plain)
    for path in sorted(set(bad), key=len, reverse=True):
        if path[:2] == ("queen", "keys") and path[3:] == ("key_file",):
            path = path[:3]
        elif len(path) >= 3 and path[0] in _VITAL and path[2] in _VITAL[str(path[0])]:
            path = path[:2]
        _remove(whole, path)
    for section, keys in _VITAL.items():
        things = _mapping(whole.get(section))
        for name in list(things):
            if section != "hives" and any(key not in _mapping(things[name]) for key in keys):
                del things[name]
    clients = _mapping(_mapping(whole.get("queen")).get("keys"))
    for name in [n for n, client in clients.items() if "key_file" not in _mapping(client)]:
        del clients[name]
    return whole


def _remove(whole: Any, path: doc.Path) -> None:
    """Take out the value at a path; the whole list when it is an item of one. Nothing when it is gone already."""
    if not path:
        _mapping(whole).clear()
        return
    *above, last = path
    for depth, step in enumerate(above):
        below = whole.get(step) if isinstance(whole, dict) else None
        if isinstance(below, list):
            _remove(whole, (path[depth],))
            return
        whole = below
    if isinstance(whole, dict):
        whole.pop(last, None)


def _located(document: Document, finding: Finding) -> Problem:
    return Problem(
        summary=finding.summary,
        detail=finding.detail,
        mend=finding.mend,
        where=document.where(*finding.path, key=finding.key)
        if finding.within is None
        else document.within(finding.path, finding.within),
        subject=label(finding.path),
        severity=finding.severity,
    )


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    def place(problem: Problem) -> tuple[str, int, int]:
        where = problem.where or Where(file="")
        return where.file, where.line, where.column

    return sorted(problems, key=place)
