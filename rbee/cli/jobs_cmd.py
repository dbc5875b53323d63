# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee jobs`: any operation as a job, and what became of jobs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import click

from rbee.adapters.jobs_api import result_of
from rbee.cli import common
from rbee.cli.job_fields import check_names, from_file, put
from rbee.cli.queen_link import connect, queen_option, token_option
from rbee.cli.views import jobs as view
from rbee.cli.views import records
from rbee.cli.views.narration import Narration
from rbee.contracts import codec
from rbee.contracts.jobs import Job
from rbee.contracts.operations import OPERATIONS, OperationType, request_of
from rbee.core.errors import InvalidRequest, NotFound
from rbee.core.problems import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

_STATES = ("queued", "running", "completed", "failed", "cancelled")
_PAGE = 200
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

output_option = click.option(
    "-o", "--output", "--format", "output", type=click.Choice(["human", "json"]), default="human", show_default=True,
    envvar="RBEE_OUTPUT", help="For people, or JSON lines for programs.",
)  # fmt: skip


def _asking(command: F) -> F:
    """What all of them have: where the queen is, how to answer, errors for people."""
    return queen_option(token_option(output_option(common.people_errors(command))))


@click.group("jobs", short_help="Jobs: what the queen or a hive was asked to do.")
def jobs() -> None:
    """Jobs: whatever the queen or a hive was asked to do, and what became of it."""


@jobs.command("submit", short_help="Start an operation as a job, and print its id.")
@click.argument("operation")
@click.option(
    "--field", "fields", multiple=True, metavar="NAME=VALUE",
    help="A field of the request; VALUE is JSON, or else a text. May be repeated.",
)  # fmt: skip
@click.option(
    "-f", "--file", "request_file", type=click.Path(path_type=Path, allow_dash=True), default=None, metavar="FILE",
    help="The request's fields as a JSON object; - is standard input.",
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Tell what it does, and wait for its result.")
@_asking
def submit(
    operation: str,
    fields: tuple[str, ...],
    request_file: Path | None,
    wait: bool,
    queen_url: str | None,
    token_file: Path | None,
    output: str,
) -> None:
    """Start OPERATION (ModelDownload, HiveCheck, ...) as a job, and print its id."""
    kind = OPERATIONS.get(operation)
    if kind is None:
        mend = did_you_mean(operation, list(OPERATIONS)) or "docs/operations-reference.md lists them."
        raise InvalidRequest(f"There is no operation {operation!r}.", mend=mend)
    said = from_file(request_file) if request_file is not None else {}
    for text in fields:
        put(kind.request, said, text)
    check_names(kind.name, kind.request, said)
    request = request_of(kind, said)
    queen = connect(queen_url, token_file)
    if wait:
        _wait(kind, queen, queen.submit(request), output)
        return
    job_id = queen.submit(request)
    click.echo(codec.encode({"job_id": job_id}).decode() if output == "json" else job_id)


def _wait(kind: OperationType, queen: Any, job_id: str, output: str) -> None:
    """Ctrl-C ends the waiting, not the job: it was started to go on by itself."""
    as_json = output == "json"
    click.echo(codec.encode({"job_id": job_id}).decode() if as_json else job_id, err=not as_json)
    with Narration(kind, as_json=as_json) as told:
        try:
            job = queen.follow_job(job_id, told.show)
        except KeyboardInterrupt:
            told.say(f"The job goes on: `rbee jobs logs {job_id} --follow`.")
            sys.exit(130)
        answer = result_of(job)
    if as_json:
        click.echo(codec.encode(answer).decode())
    else:
        for line in records.render(answer, datetime.now(timezone.utc)):
            click.echo(line)
    if not records.well(answer):
        sys.exit(1)


@jobs.command("list")
@click.option("--state", type=click.Choice(_STATES), default=None, help="Only jobs in this state.")
@click.option("--operation", default=None, help="Only jobs of this operation.")
@click.option("--hive", "hive_id", default=None, help="Only jobs that this hive does.")
@click.option("--since", default=None, metavar="TIME", help="Only newer ones: 90m, 2h, 7d, or 2026-01-31T08:00:00Z.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@click.option("--all", "every", is_flag=True, help="All of them.")
@_asking
def list_jobs(
    state: str | None,
    operation: str | None,
    hive_id: str | None,
    since: str | None,
    limit: int,
    every: bool,
    queen_url: str | None,
    token_file: Path | None,
    output: str,
) -> None:
    """Jobs, the newest first."""
    queen = connect(queen_url, token_file)
    filters = {"state": state, "operation": operation, "hive_id": hive_id, "since": _since(since)}
    found: list[Job] = []
    cursor: str | None = None
    while every or len(found) < limit:
        page = queen.page(filters, _PAGE if every else min(_PAGE, limit - len(found)), cursor)
        found.extend(page.jobs)
        cursor = page.cursor
        if cursor is None:
            break
    if output == "json":
        for job in found:
            click.echo(codec.encode(job).decode())
        return
    for line in view.table(found, datetime.now(timezone.utc)) if found else ("No jobs.",):
        click.echo(line)
    if cursor is not None:
        click.echo("There are more: --all, or a larger --limit.", err=True)


@jobs.command("status")
@click.argument("job_id", metavar="ID")
@_asking
def status(job_id: str, queen_url: str | None, token_file: Path | None, output: str) -> None:
    """One job: its request, state, times, result or error."""
    job = connect(queen_url, token_file).job(job_id)
    if output == "json":
        click.echo(codec.encode(job).decode())
        return
    for line in view.one(job, datetime.now(timezone.utc)):
        click.echo(line)


@jobs.command("logs")
@click.argument("job_id", metavar="ID")
@click.option("--follow", is_flag=True, help="Go on until the job has ended.")
@_asking
def logs(job_id: str, follow: bool, queen_url: str | None, token_file: Path | None, output: str) -> None:
    """What a job told while it ran. With --follow the exit code is 1 for one that failed or was cancelled."""
    queen = connect(queen_url, token_file)

    def show(event: dict[str, Any]) -> None:
        click.echo(codec.encode(event).decode() if output == "json" else view.line(event))

    if not follow:
        queen.events_of(job_id, show)
        return
    try:
        job = queen.follow_job(job_id, show)
    except KeyboardInterrupt:
        sys.exit(130)
    if job.state != "completed":
        result_of(job)


@jobs.command("cancel")
@click.argument("job_id", metavar="ID")
@_asking
def cancel(job_id: str, queen_url: str | None, token_file: Path | None, output: str) -> None:
    """Cancel a job, and what a hive or a worker does for it."""
    try:
        job = connect(queen_url, token_file).cancel_job(job_id)
    except NotFound as e:
        raise NotFound(e.message, code=e.code, mend="`rbee jobs list` shows those that are known.") from None
    click.echo(codec.encode(job).decode() if output == "json" else f"{job.job_id} ({job.operation}): {job.state}.")


def _since(said: str | None) -> str | None:
    """A duration before now, as a time; a time as it is."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", said or "")
    if found is None:
        return said
    ago = timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
    return (datetime.now(timezone.utc) - ago).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
