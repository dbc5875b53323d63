# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several commands share, and how every command ends when something is wrong."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rbee.cli.loading import file_option, output_option
from rbee.cli.views import problems as problem_view
from rbee.cli.views.events import JsonLines
from rbee.core.errors import RbeeError, Unreachable
from rbee.core.problems import Problem, ProblemsError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "file_option",
    "json_lines",
    "output_option",
    "parallelism_option",
    "people_errors",
    "show_problems",
    "target_option",
]

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
    from rich.console import Console

    return Console(stderr=True)


def stdout() -> Console:
    """Without a terminal nothing is cut to a width: `rbee status | grep` sees whole names."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=1000)


def json_lines() -> JsonLines:
    """The one stream of JSON events of the running command; its first line is written by the first call."""
    found = click.get_current_context().meta.setdefault("rbee.json", None) or JsonLines()
    click.get_current_context().meta["rbee.json"] = found
    return found


def show_problems(found: Sequence[Problem], *, as_json: bool) -> None:
    """Blocks on standard error for people, or JSON lines on standard output."""
    if as_json:
        for problem in found:
            click.echo(json.dumps(problem_view.as_json(problem)))
    elif found:
        problem_view.show(found)


def _mend(error: RbeeError, said: Mapping[str, Any]) -> str:
    """What helps when the queen whom a command asks is not there."""
    if isinstance(error, Unreachable) and "queen_url" in said:
        return "`rbee apply` starts the queen; --queen-url says where she is, when that is elsewhere."
    return ""


def people_errors(command: F) -> F:
    """Turn every error of ours into words for people (or a JSON line) and exit code 1; Ctrl-C into 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        as_json = kwargs.get("output") == "json"
        try:
            if as_json and "file" in kwargs:
                json_lines()  # the versions come first, also before an error
            return command(*args, **kwargs)
        except ProblemsError as e:
            found = list(e.problems)
        except RbeeError as e:
            found = [Problem(summary=e.message, mend=e.mend or _mend(e, kwargs), code=e.code)]
        except BrokenPipeError:
            sys.exit(141)
        except OSError as e:
            place = f": {e.filename2 or e.filename}" if e.filename else ""
            found = [Problem(summary=f"{e.strerror or e}{place}.")]
            as_json = as_json and e.filename is not None  # else standard output itself may be what fails
        except KeyboardInterrupt:
            click.echo("Interrupted; nothing was begun.", err=True)
            sys.exit(130)
        show_problems(found, as_json=as_json)
        sys.exit(1)

    return run  # type: ignore[return-value]  # wraps keeps the signature, which mypy cannot see
