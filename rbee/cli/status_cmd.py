# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee status`: the fleet as the queen sees it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rbee.cli import common
from rbee.cli.queen_link import connect, queen_option, token_option
from rbee.cli.views import status as view
from rbee.contracts import codec
from rbee.contracts.operations.fleet import Status, StatusResponse


@click.command("status")
@queen_option
@token_option
@common.output_option
@common.people_errors
def status(queen_url: str | None, token_file: Path | None, output: str) -> None:
    """Show queen, hives and workers. Exits with 1 when something is not well."""
    found: StatusResponse = connect(queen_url, token_file).run(Status())
    if output == "json":
        click.echo(codec.encode(found).decode())
    else:
        console = common.stdout()
        for part in view.render(found):
            console.print(part, highlight=False)
    sys.exit(0 if view.well(found) else 1)
