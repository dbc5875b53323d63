# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee queen stop`: the queen ends in order, and whoever keeps her running is told that she is not to come back."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from rbee.adapters import process, service
from rbee.adapters.paths import Paths
from rbee.adapters.process import Identity
from rbee.cli import common
from rbee.cli.operation_cmds import perform, signals
from rbee.cli.queen_link import connect, queen_option, token_option
from rbee.cli.views import ends
from rbee.contracts import defaults
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.operations.fleet import QueenStop, QueenStopResponse
from rbee.core.errors import Unreachable

#: Until a queen that said she ends has done so; then her service manager ends her.
_ENDS_WITHIN = defaults.DAEMON_DRAIN + 10.0


@click.command("stop", short_help="Stop the queen; hives and workers go on by default.")
@click.option("--cascade", is_flag=True, envvar="RBEE_CASCADE", help="Stop all workers and hives of the fleet first.")
@token_option
@queen_option
@common.output_option
@common.people_errors
def stop(cascade: bool, token_file: Path | None, queen_url: str | None, output: str) -> None:
    """Stop the queen: new requests are refused with 503, those in flight end. Hives and workers go on by default."""
    paths = Paths.of_environment()
    before = service.running(paths, "queen") if queen_url is None else None
    if queen_url is None and before is None:
        _not_running(cascade, output)
        return
    try:
        answer: QueenStopResponse | None = None
        with signals():
            answer = perform(
                OPERATIONS["QueenStop"], connect(queen_url, token_file), QueenStop(cascade=cascade), output, ends.render
            )
    except Unreachable:
        if before is None or (cascade and process.alive(before)):
            raise  # of another machine, or one who does not answer: what is left of the fleet is not known
    if before is not None:
        _wait(before)
        service.perform("stop", "queen")
    if output == "human":
        click.echo("The queen is stopped. `rbee apply` starts her again.")
    if answer is not None and answer.failed:
        sys.exit(1)


def _not_running(cascade: bool, output: str) -> None:
    """Nobody starts her at the next boot either. Raises Unreachable when she was to stop the fleet."""
    service.perform("stop", "queen")
    if cascade:
        raise Unreachable(
            "The queen does not run, so nobody knows what of the fleet is to be stopped.",
            mend="`rbee apply` starts her; `rbee destroy` removes the fleet without her.",
        )
    click.echo("The queen does not run." if output == "human" else "{}")


def _wait(queen: Identity) -> None:
    end = time.monotonic() + _ENDS_WITHIN
    while process.alive(queen) and time.monotonic() < end:
        time.sleep(0.05)
