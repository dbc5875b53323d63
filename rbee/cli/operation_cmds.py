# SPDX-License-Identifier: GPL-3.0-or-later
"""A command for every operation, made from its declaration: options, help and all."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

import click

from rbee.cli import common, fields
from rbee.cli.views import records
from rbee.cli.views.narration import Narration
from rbee.contracts import codec
from rbee.contracts.operations import OPERATIONS, OperationType, request_of

HELP = {
    "worker": "Workers: what the queen knows, and processes on a hive.",
    "model": "Models on a hive's disk.",
    "download": "Downloads of models: running, paused, left unfinished.",
    "preload": "Models held in memory, so that workers start faster.",
    "device": "Devices of a hive.",
    "system": "The machine that a hive runs on.",
    "binary": "Engines installed on a hive (by `rbee apply`).",
    "hive": "Hives.",
    "queen": "The queen.",
}

#: Characters that a list of commands has for each in a window of 80.
_LINE = 60


class Runner(Protocol):
    """Whoever does an operation: the queen, a hive's daemon, or the hive's own code in this process."""

    def run(self, request: Any, on_event: Callable[[dict[str, Any]], None] | None = None) -> Any:
        """The operation's response. Raises RbeeError; KeyboardInterrupt after it was cancelled."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Whom a tool's commands ask: `options` say where that is, `connect` makes it of them; `skip` are fields of
    requests that are not asked for."""

    options: tuple[Callable[[Any], Any], ...]
    connect: Callable[[Mapping[str, Any]], AbstractContextManager[Runner]]
    skip: tuple[str, ...] = ()


def queen() -> Site:
    """`rbee`: the queen, who hands on what belongs to a hive."""
    from rbee.cli.queen_link import connect, queen_option, token_option

    return Site(
        options=(token_option, queen_option),
        connect=lambda said: nullcontext(connect(said["queen_url"], said["token_file"])),
    )


def family(name: str, site: Site | None = None) -> click.Group:
    """The group of a family's operations (`rbee worker ...`)."""
    group = click.Group(name, help=HELP[name])
    for kind in OPERATIONS.values():
        if kind.family == name:
            group.add_command(command(kind, site or queen()))
    return group


def command(kind: OperationType, site: Site) -> click.Command:
    """One operation's."""

    @common.people_errors
    def run(output: str, **said: Any) -> None:
        link = {p.name: said.pop(p.name) for p in ways if p.name in said}
        request = request_of(kind, fields.said_fields(kind.request, said))
        with site.connect(link) as runner, signals():
            answer = perform(kind, runner, request, output)
        if not records.well(answer):
            sys.exit(1)

    ways = _parameters(site.options)
    shared = [*ways, *_parameters([common.output_option])]
    params = [*fields.parameters(kind.request, site.skip), *shared]
    return click.Command(
        kind.command, help=kind.summary, short_help=in_short(kind.summary), params=params, callback=run
    )


def in_short(summary: str) -> str:
    """As much of it as fits into a line of the family's list: whole, or its first part; click would cut it anywhere."""
    first = summary.partition(". ")[0].rstrip(".")
    return f"{first if len(first) <= _LINE else re.split('[,;:] ', first)[0]}."


def _parameters(options: Any) -> list[click.Parameter]:
    """Those that such decorators would leave on a function, in the order they are written."""

    def marked() -> None: ...

    for option in options:
        option(marked)
    return list(reversed(getattr(marked, "__click_params__", [])))


def perform(
    kind: OperationType,
    runner: Runner,
    request: Any,
    output: str,
    render: Callable[[Any, datetime], Iterator[str]] = records.render,
) -> Any:
    """Runs it, tells its events as they come, then its answer, for people in the lines that `render` makes of it."""
    with Narration(kind, as_json=output == "json") as told:
        try:
            answer = runner.run(request, told.show)
        except KeyboardInterrupt:
            told.say("Interrupted; the job was cancelled.")
            sys.exit(130)
    if output == "json":
        click.echo(codec.encode(answer).decode())
    elif kind.name != "WorkerLogs":  # its lines were all there is to show
        now = datetime.now(timezone.utc)
        for line in render(answer, now):
            click.echo(line)
    return answer


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end a command as Ctrl-C does: in order, the job cancelled."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else nohup: it is to outlive its terminal
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
