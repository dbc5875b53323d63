# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee plan`: what apply would do, and why. Changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import rbee
from rbee.adapters.paths import Paths, write_atomic
from rbee.cli import common
from rbee.cli.planning import prepare, request_for
from rbee.cli.views import plan as plan_view
from rbee.cli.wiring import SystemClock, machines_of
from rbee.contracts import planfile


@click.command("plan")
@common.file_option
@common.output_option
@common.target_option
@common.parallelism_option
@click.option("--out", type=click.Path(path_type=Path), envvar="RBEE_OUT", help="Save the plan for `rbee apply FILE`.")
@click.option("--destroy", is_flag=True, envvar="RBEE_DESTROY", help="Plan what `rbee destroy` would do.")
@click.option("--keep-models", is_flag=True, envvar="RBEE_KEEP_MODELS", help="With --destroy: leave model files.")
@click.option(
    "--detailed-exitcode", is_flag=True, envvar="RBEE_DETAILED_EXITCODE",
    help="Exit with 0 when there is nothing to do, 1 on an error, 2 when there are changes.",
)  # fmt: skip
@common.people_errors
def plan(
    file: Path,
    output: str,
    targets: tuple[str, ...],
    parallelism: int,
    out: Path | None,
    destroy: bool,
    keep_models: bool,
    detailed_exitcode: bool,
) -> None:
    """Show what differs between rbee.yaml and what is live."""
    request, home, providers = request_for(
        file, Paths.of_environment(), destroy=destroy, keep_models=keep_models, parallelism=parallelism
    )
    with machines_of(home) as machines:
        prepared = prepare(file, machines, home, providers, request, targets)
    found = prepared.plan
    if output == "json":
        common.json_lines().plan(found)
    else:
        console = common.stdout()
        for line in plan_view.render(found, destroy):
            console.print(line, soft_wrap=True, highlight=False)
        common.show_problems(found.problems, as_json=False)
    if out is not None:
        saved = planfile.PlanFile(
            format=planfile.FORMAT, rbee=rbee.__version__, made_at=SystemClock().now(), source=str(file.absolute()),
            plan=found, targets=targets, destroy=destroy, keep_models=keep_models,
        )  # fmt: skip
        write_atomic(out, planfile.dump(saved), mode=0o600)
        click.echo(f"Saved the plan to {out}. Do it with: rbee apply {out}", err=True)
    if found.blocked:
        sys.exit(1)
    sys.exit(2 if detailed_exitcode and not found.empty else 0)
