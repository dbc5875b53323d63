# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several commands share, and how every command ends when something is wrong."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console

from rbee.cli.loading import file_option, output_option
from rbee.cli.views import problems as problem_view
from rbee.core.errors import RbeeError
from rbee.core.problems import Problem, ProblemsError

__all__ = ["file_option", "output_option", "parallelism_option", "people_errors", "show_problems", "target_option"]

F = TypeVar("F", bound=Callable[..., Any])

parallelism_option = click.option(
    "--parallelism", type=click.IntRange(1, 256), default=10, show_default=True, envvar="RBEE_PARALLELISM",
    help="How many actions at once.",
)  # fmt: skip
target_option = click.option(
    "--target", "targets", multiple=True, metavar="ADDRESS", envvar="RBEE_TARGET",
    help="Only this and what it needs: queen, hives.NAME, workers.NAME, models.NAME@HIVE. May be repeated.",
)  # fmt: skip


def stderr() -> Console:
    return Console(stderr=True)


def stdout() -> Console:
    return Console()


def show_problems(found: Sequence[Problem], *, as_json: bool) -> None:
    """Blocks on standard error for people, or JSON lines on standard output."""
    if as_json:
        for problem in found:
            click.echo(json.dumps(problem_view.as_json(problem)))
    elif found:
        problem_view.show(found)


def people_errors(command: F) -> F:
    """Turn every error of ours into words for people (or a JSON line) and exit code 1; Ctrl-C into 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        as_json = kwargs.get("output") == "json"
        try:
            return command(*args, **kwargs)
        except ProblemsError as e:
            found = list(e.problems)
        except RbeeError as e:
            found = [Problem(summary=e.message, mend=e.mend)]
        except KeyboardInterrupt:
            click.echo("Interrupted; nothing was begun.", err=True)
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(141)
        show_problems(found, as_json=as_json)
        sys.exit(1)

    return run  # type: ignore[return-value]  # wraps keeps the signature, which mypy cannot see
