# SPDX-License-Identifier: GPL-3.0-or-later
"""Show a plan, ask, do it with live progress, report: for people and for programs alike."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Literal

import click

from rbee.cli import common
from rbee.cli.planning import Prepared
from rbee.cli.views import plan as plan_view
from rbee.cli.views.progress import Live
from rbee.core.errors import RbeeError
from rbee.core.plan import Plan
from rbee.fleet.apply import execute
from rbee.fleet.handlers import HANDLERS
from rbee.fleet.report import Report


def ask(plan: Plan, output: str, approved: bool, destroy: bool) -> None:
    """Show the plan; return when it may be done. Raises RbeeError `not_approved` (also without a terminal)."""
    if output == "human":
        console = common.stdout()
        for line in plan_view.render(plan, destroy):
            console.print(line, soft_wrap=True, highlight=False)
        common.show_problems(plan.problems, as_json=False)
    if plan.empty or approved:
        return
    if output == "json" or not sys.stdin.isatty():
        raise RbeeError(
            "Nobody can be asked: there is no terminal.", code="not_approved", mend="Approve it with --auto-approve."
        )
    question = "Destroy all of this?" if destroy else "Do this?"
    try:
        said = click.prompt(f"{question} Only 'yes' is taken", default="no", show_default=False)
    except click.Abort as e:
        click.echo()
        if isinstance(e.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        said = "no"  # the end of input
    if said != "yes":
        raise RbeeError("Not approved; nothing was done.", code="not_approved")


def do(prepared: Prepared, output: str, parallelism: int, verb: Literal["Apply", "Destroy"]) -> Report:
    """Do a plan and say how it went. An empty plan is done at once."""
    plan, world = prepared.plan, prepared.world
    if output == "json":
        lines = common.json_lines()
        lines.plan(plan)
        report = replace(execute(plan, HANDLERS, world, lines.emit, parallelism), verb=verb)
        lines.report(report)
        return report
    if plan.empty:
        return Report(outcomes=(), problems=plan.problems)
    with Live(common.stderr()) as live:
        report = replace(execute(plan, HANDLERS, world, live.emit, parallelism), verb=verb)
    click.echo(report.summary)
    return report
