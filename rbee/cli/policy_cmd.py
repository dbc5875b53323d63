# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee policy test`: the policies of rbee.yaml, on requests that were recorded."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rbee.cli import common
from rbee.cli.loading import file_option, load_file
from rbee.cli.queen_link import connect, queen_option, token_option
from rbee.contracts import codec
from rbee.contracts.decisions import DecisionRecord
from rbee.core.errors import InvalidRequest, RbeeError
from rbee.core.problems import did_you_mean

if TYPE_CHECKING:
    from rbee.core.policy import Policy


@click.group("policy", short_help="Policies: rules of your own for routing.")
def policy() -> None:
    """Policies: rules of your own for routing, in `policies:` of rbee.yaml."""


@policy.command("test")
@file_option
@click.option(
    "--requests",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    envvar="RBEE_REQUESTS",
    help="Recorded decisions (JSON lines of `rbee explain --all`). Default: what the running queen remembers.",
)
@click.option(
    "--policy",
    "names",
    multiple=True,
    metavar="NAME",
    envvar="RBEE_POLICY",
    help="Only this policy. May be repeated.",
)
@click.option(
    "--fail-on-change",
    is_flag=True,
    envvar="RBEE_FAIL_ON_CHANGE",
    help="Exit with 1 when another worker would be chosen.",
)
@queen_option
@token_option
@common.output_option
@common.people_errors
def test(
    file: Path,
    requests: Path | None,
    names: tuple[str, ...],
    fail_on_change: bool,
    queen_url: str | None,
    token_file: Path | None,
    output: str,
) -> None:
    """Run the policies of rbee.yaml on recorded requests.

    Shows for each what was chosen then and what would be chosen now. Exits with 1 when a policy failed. Nothing
    is sent to any worker.
    """
    from rbee.cli.views import decision as view
    from rbee.fleet.replay import replay

    policies = _policies(file, names)
    recorded = _recorded(requests) if requests is not None else connect(queen_url, token_file).decisions()
    found = [replay(record, policies, time.thread_time) for record in recorded]
    failed, changed = sum(bool(one.failures) for one in found), sum(one.changed for one in found)
    if output == "json":
        out = common.json_lines()
        for one in found:
            out.emit({"type": "request", **codec.plain(one), "changed": one.changed})
        out.emit({"type": "result", "requests": len(found), "changed": changed, "failed": failed})
    else:
        console = common.stdout()
        for part in view.replayed(found):
            console.print(part, highlight=False)
    sys.exit(1 if failed or (fail_on_change and changed) else 0)


def _policies(file: Path, names: tuple[str, ...]) -> list[Policy]:
    """Raises ProblemsError for a file that is not right, RbeeError for a name that it does not have."""
    from rbee.adapters import cel

    compile = cel.compiler()
    if compile is None:
        raise RbeeError("No library for CEL is installed here.", mend="`pip install cel-expr-python` (Python 3.11).")
    specs = load_file(file).spec.policies
    for name in names:
        if name not in specs:
            raise InvalidRequest(f"{file} has no policy {name!r}.", mend=did_you_mean(name, list(specs)))
    made = [compile(name, spec)[0] for name, spec in specs.items() if not names or name in names]
    return [p for p in made if p is not None]


def _recorded(path: Path) -> Iterable[DecisionRecord]:
    """Raises InvalidRequest for what is no recording, OSError for what cannot be read."""
    from rbee.fleet.replay import MOST_BYTES, records

    if path.stat().st_size > MOST_BYTES:
        raise InvalidRequest(f"{path} is larger than {MOST_BYTES // 2**20} MiB.", mend="Give a part of it.")
    with path.open("rb") as lines:
        yield from records(lines, str(path))
