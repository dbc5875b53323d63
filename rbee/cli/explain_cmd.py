# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee explain`: why a request went where it went."""

from __future__ import annotations

from pathlib import Path

import click

from rbee.cli import common
from rbee.cli.queen_link import connect, queen_option, token_option
from rbee.cli.views import decision as view
from rbee.contracts import codec
from rbee.contracts.operations.fleet import RequestExplain


@click.command("explain")
@click.argument("request_id", required=False)
@click.option(
    "--all", "everything", is_flag=True, envvar="RBEE_ALL",
    help="All that the queen remembers, as JSON lines: a recording.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(1), default=None, envvar="RBEE_LIMIT", help="With --all: only the last so many.",
)  # fmt: skip
@queen_option
@token_option
@common.output_option
@common.people_errors
def command(
    request_id: str | None,
    everything: bool,
    limit: int | None,
    queen_url: str | None,
    token_file: Path | None,
    output: str,
) -> None:
    """Tell why a request went where it went.

    REQUEST_ID is X-Request-Id of its answer. What is shown: each worker that was looked at, what excluded it or
    the terms of its score, and what was chosen.
    """
    if everything == (request_id is not None):
        raise click.UsageError("Give a request's id, or --all.")
    queen = connect(queen_url, token_file)
    if request_id is None:
        for record in queen.decisions(limit):
            click.echo(codec.encode(record))
        return
    decision = queen.run(RequestExplain(request_id=request_id)).decision
    if output == "json":
        click.echo(codec.encode(decision))
    else:
        console = common.stdout()
        for part in view.render(decision):
            console.print(part, highlight=False)
