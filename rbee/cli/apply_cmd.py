# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee apply` and `rbee destroy`: plan, ask, do, report."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click
from click.core import ParameterSource

from rbee.adapters import lock, lockfile
from rbee.adapters.paths import Paths
from rbee.cli import common
from rbee.cli.doing import ask, do
from rbee.cli.planning import Prepared, lock_path, prepare, request_for
from rbee.cli.wiring import SystemClock, machines_of
from rbee.contracts import planfile
from rbee.core.errors import RbeeError
from rbee.fleet.report import Report

approve_option = click.option(
    "-y", "--auto-approve", is_flag=True, envvar="RBEE_AUTO_APPROVE", help="Do not ask before doing it."
)


@click.command("apply")
@click.argument("saved", required=False, type=click.Path(path_type=Path), metavar="[PLANFILE]")
@common.file_option
@common.output_option
@common.target_option
@common.parallelism_option
@approve_option
@common.people_errors
def apply(
    saved: Path | None, file: Path, output: str, targets: tuple[str, ...], parallelism: int, auto_approve: bool
) -> None:
    """Make the fleet be as rbee.yaml says, or do a saved plan."""
    plan = None
    if saved is not None:
        _refuse_beside_a_plan("file", "targets")
        plan = planfile.load(_read(saved), str(saved))
        file, targets = Path(plan.source), plan.targets
    _run(
        file, output, targets, parallelism, auto_approve or saved is not None, saved=plan,
        destroy=plan.destroy if plan else False, keep_models=plan.keep_models if plan else False, doing="rbee apply",
    )  # fmt: skip


@click.command("destroy", short_help="Stop and remove all that this fleet's applies have made.")
@common.file_option
@common.output_option
@common.target_option
@common.parallelism_option
@approve_option
@click.option("--keep-models", is_flag=True, envvar="RBEE_KEEP_MODELS", help="Leave model files on the machines.")
@common.people_errors
def destroy(
    file: Path, output: str, targets: tuple[str, ...], parallelism: int, auto_approve: bool, keep_models: bool
) -> None:
    """Stop and remove all that this fleet's applies have made, on every machine; nothing else."""
    _run(
        file, output, targets, parallelism, auto_approve, saved=None, destroy=True, keep_models=keep_models,
        doing="rbee destroy",
    )  # fmt: skip


def _refuse_beside_a_plan(*names: str) -> None:
    """A saved plan has its own file and targets; others would be ignored. The environment's are for all commands."""
    context = click.get_current_context()
    for option in context.command.params:
        said = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if option.name in names and said:
            raise click.UsageError(f"A saved plan has its own: leave {option.opts[-1]} out, or plan again with it.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise RbeeError(f"The plan {path} cannot be read: {e.strerror}.", code="bad_plan") from None


def _run(
    file: Path,
    output: str,
    targets: tuple[str, ...],
    parallelism: int,
    approved: bool,
    *,
    saved: planfile.PlanFile | None,
    destroy: bool,
    keep_models: bool,
    doing: str,
) -> None:
    paths = Paths.of_environment()
    _end_at_second_interrupt()
    with lock.held(paths.state / "apply.lock", doing, SystemClock().now()):
        request, home, providers = request_for(
            file, paths, destroy=destroy, keep_models=keep_models, parallelism=parallelism
        )
        with machines_of(home) as machines:
            prepared = prepare(file, machines, home, providers, request, targets)
            if saved is not None and prepared.plan.made_from != saved.plan.made_from:
                raise RbeeError(
                    "The saved plan is stale: rbee.yaml or what is live has changed since it was made.",
                    code="stale_plan",
                    mend="Make and read a new one: rbee plan --out FILE",
                )
            report = _decide_and_do(prepared, output, parallelism, approved, destroy)
            lockfile.update(lock_path(file), prepared.world.fetched, prepared.world.spec.models)
    sys.exit(report.exit_code)


def _decide_and_do(prepared: Prepared, output: str, parallelism: int, approved: bool, destroy: bool) -> Report:
    ask(prepared.plan, output, approved, destroy)
    return do(prepared, output, parallelism, "Destroy" if destroy else "Apply")


def _end_at_second_interrupt() -> None:
    """The first Ctrl-C raises KeyboardInterrupt, which ends an apply in order; the second ends the process.

    A SIGTERM (of a CI that cancels) and a terminal that is closed count as a Ctrl-C.
    """

    def first(number: int, frame: FrameType | None) -> None:
        for each in ends:
            signal.signal(each, second)
        raise KeyboardInterrupt

    def second(number: int, frame: FrameType | None) -> None:
        os.write(2, b"\nrbee: ended at once; the next apply finishes the rest.\n")
        os._exit(130)

    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else nohup: it is to outlive its terminal
        ends.append(signal.SIGHUP)
    for each in ends:
        signal.signal(each, first)
