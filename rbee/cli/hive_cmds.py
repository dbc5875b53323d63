# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee-hive COMMAND`: everything a hive does, on its own machine, with its daemon or without one."""

from __future__ import annotations

import copy
from pathlib import Path

import click

import rbee
from rbee.cli import hive_link
from rbee.cli.operation_cmds import HELP, Site, command
from rbee.contracts.operations import OPERATIONS

config_option = click.option(
    "--config", "config", type=click.Path(path_type=Path), default=None, envvar="RBEE_CONFIG",
    help="The hive's settings (JSON). Default: those that `rbee apply` wrote here; a machine without any will do.",
)  # fmt: skip
SITE = Site(options=(config_option,), connect=hive_link.connect, skip=("hive_id",))
#: What people type, and the family it is; alone it is the family's list.
PLURALS = {
    "models": "model", "workers": "worker", "downloads": "download", "devices": "device", "binaries": "binary",
}  # fmt: skip
#: Names of other tools for what a hive calls otherwise: it knows its processes, the queen her workers.
ALIASES = {"worker": {"list": "ps", "get": "show", "stop": "kill"}}
#: Operations on the hive itself are commands of the top.
_TOP = {"status": "HiveStatus", "check": "HiveCheck"}


def _families() -> dict[str, None]:
    """Of the operations that a hive serves, in the order of their declaration, without its own."""
    return dict.fromkeys(k.family for k in OPERATIONS.values() if "hive" in k.served_by and k.family != "hive")


class _Plural(click.Group):
    """A family under its plural name: it lists when no command is said."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        if not first or (first.startswith("-") and first not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def family(name: str, *, plural: str | None = None) -> click.Group:
    """A family's commands."""
    made = {k.command: command(k, SITE) for k in OPERATIONS.values() if k.family == name and "hive" in k.served_by}
    for alias, of in ALIASES.get(name, {}).items():
        made[alias] = copy.copy(made[of])
        made[alias].name, made[alias].help = alias, f"The same as `{of}`."
    words = HELP[name].replace("what the queen knows, and processes on a hive", "processes of this machine")
    kind = _Plural if plural else click.Group
    return kind(plural or name, help=words.replace(" a hive's", " this machine's"), commands=made)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["run", *_TOP, *_families()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _TOP:
            return command(OPERATIONS[_TOP[cmd_name]], SITE)
        if cmd_name in PLURALS:
            return family(PLURALS[cmd_name], plural=cmd_name)
        if cmd_name in _families():
            return family(cmd_name)
        return run if cmd_name == "run" else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rbee.__version__, prog_name="rbee-hive")
def main() -> None:
    """The hive of this machine.

    Without a command it runs the daemon. Every other command asks the daemon that runs here; where none does, it
    does the work itself, and workers that it starts stay for the daemon that comes.
    """


@click.command("run")
@config_option
def run(config: Path | None) -> None:
    """Run the daemon, until it is told to stop."""
    raise AssertionError("rbee.cli.daemons runs it before it comes to this")
