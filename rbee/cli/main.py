# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee`: plan, apply and ask. Control only: one command, one answer; no REPL, no chat."""

from __future__ import annotations

import importlib

import click

import rbee

#: Command -> module:object. Imported when used, so that `rbee --help` and completion stay quick.
COMMANDS = {
    "init": "rbee.cli.init_cmd:command",
    "validate": "rbee.cli.validate_cmd:command",
    "plan": "rbee.cli.plan_cmd:plan",
    "apply": "rbee.cli.apply_cmd:apply",
    "status": "rbee.cli.status_cmd:status",
    "explain": "rbee.cli.explain_cmd:command",
    "policy": "rbee.cli.policy_cmd:policy",
    "infer": "rbee.cli.infer_cmd:infer",
    "jobs": "rbee.cli.jobs_cmd:jobs",
    "destroy": "rbee.cli.apply_cmd:destroy",
    "schema": "rbee.cli.schema_cmd:command",
    "completion": "rbee.cli.completion_cmd:completion",
}
#: Families of operations that are commands of their own (`rbee worker list`), made from their declarations.
FAMILIES = ("worker", "model", "download", "preload", "device", "system", "binary", "hive", "queen")
#: Commands of families that do more than their operation: `stop` sees to it that nothing starts her again.
DOING_MORE = {"queen": ("rbee.cli.queen_stop_cmd:stop",)}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *FAMILIES]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in FAMILIES:
            from rbee.cli.operation_cmds import family

            group = family(cmd_name)
            for where in DOING_MORE.get(cmd_name, ()):
                group.add_command(_command(where))
            return group
        return _command(COMMANDS[cmd_name]) if cmd_name in COMMANDS else None


def _command(where: str) -> click.Command:
    module, _, name = where.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, click.Command)
    return found


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rbee.__version__, prog_name="rbee")
def main() -> None:
    """Your own AI service from the machines you own.

    Write rbee.yaml (`rbee init` begins one), look at `rbee plan`, then `rbee apply`. Every OpenAI client then
    talks to http://127.0.0.1:7833/v1.
    """
