# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee validate`: is the file right? Looks at no machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from rbee.cli import common
from rbee.cli.loading import file_option, load_file, output_option
from rbee.cli.views import problems as view
from rbee.core.problems import Problem, ProblemsError
from rbee.core.spec import Spec


@click.command("validate")
@file_option
@output_option
@common.people_errors
def command(file: Path, output: str) -> None:
    """Check rbee.yaml and tell everything that is wrong with it. Looks at no machine."""
    found: Sequence[Problem]
    spec: Spec | None = None
    try:
        loaded = load_file(file)
        spec, found = loaded.spec, loaded.warnings
    except ProblemsError as e:
        found = e.problems
    if output == "json":
        _print_json(found, spec)
    elif found:
        view.show(found)
    if spec is None:
        sys.exit(1)
    if output == "human":
        click.echo(f"{file} is valid: {summary(spec)}.")


def summary(spec: Spec) -> str:
    """`fleet home, 2 hives, 1 model, 1 worker (2 processes)`."""

    def count(number: int, what: str) -> str:
        return f"{number} {what}{'' if number == 1 else 's'}"

    least, most = (sum(getattr(w.replicas, end) for w in spec.workers.values()) for end in ("min", "max"))
    number = f"{least} process" if most == least == 1 else f"{most} processes"
    more = f" ({number if most == least else f'{least} to {number}'})" if spec.workers else ""
    parts = [
        count(len(spec.hives), "hive"),
        count(len(spec.models), "model"),
        count(len(spec.workers), "worker") + more,
    ]
    return ", ".join([f"fleet {spec.fleet}", *parts])


def _print_json(found: Sequence[Problem], spec: Spec | None) -> None:
    out = common.json_lines()
    for problem in found:
        out.problem(problem)
    errors = sum(1 for p in found if p.severity == "error")
    out.emit({"type": "result", "valid": spec is not None, "errors": errors, "warnings": len(found) - errors})
