# SPDX-License-Identifier: GPL-3.0-or-later
"""A command for every operation, made from its declaration: options, help and all."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import click

from rbee.cli import common
from rbee.cli.queen_link import connect, queen_option, token_option
from rbee.contracts import codec
from rbee.contracts.operations import OPERATIONS, OperationType, request_of
from rbee.core.doc import Doc

_SCALARS: dict[type, Any] = {str: click.STRING, int: click.INT, float: click.FLOAT, bool: click.BOOL}
#: Fields that a person never says: apply does (`queen_url` is also the option for the queen herself).
_NOT_ASKED = frozenset({"queen_url", "declared_source"})
_HELP = {
    "worker": "Workers: what the queen knows, and processes on a hive.",
    "model": "Models on a hive's disk.",
    "device": "Devices of a hive.",
    "hive": "Hives.",
    "queen": "The queen.",
}


def family(name: str) -> click.Group:
    """The group of a family's operations (`rbee worker ...`)."""
    group = click.Group(name, help=_HELP[name])
    for kind in OPERATIONS.values():
        if kind.family == name:
            group.add_command(_command(kind))
    return group


def _command(kind: OperationType) -> click.Command:
    @queen_option
    @token_option
    @common.output_option
    @common.people_errors
    def run(queen_url: str | None, token_file: Path | None, output: str, **said: Any) -> None:
        request = request_of(kind, _request(said))

        def show(event: dict[str, Any]) -> None:
            if output == "json":
                click.echo(codec.encode(event).decode())
            elif event.get("message"):
                click.echo(event["message"], err=True)

        answer = connect(queen_url, token_file).run(request, show)
        made = codec.encode if output == "json" else codec.encode_pretty
        click.echo(made(answer).decode().rstrip("\n"))

    return click.command(kind.command, help=kind.summary, params=[*_options(kind.request), *_taken(run)])(_bare(run))


def _taken(run: Any) -> list[click.Parameter]:
    """The options that decorators left on the function, in the order they are written."""
    return list(reversed(getattr(run, "__click_params__", [])))


def _bare(run: Any) -> Any:
    run.__click_params__ = []
    return run


def _options(request: type, prefix: str = "") -> list[click.Parameter]:
    hints = typing.get_type_hints(request, include_extras=True)
    out: list[click.Parameter] = []
    for field in dataclasses.fields(request):
        kind, doc = _unwrapped(hints[field.name])
        if field.name in _NOT_ASKED:
            continue
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            if field.name == "options":
                out.extend(_options(kind, f"{field.name}__"))
            continue
        if kind not in _SCALARS:
            continue
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        shown = field.name.replace("_", "-").removesuffix("-id") if field.name == "hive_id" else field.name
        choice = click.Choice(doc.enum) if doc and doc.enum else _SCALARS[kind]
        out.append(
            click.Option(
                [f"--{shown.replace('_', '-')}", f"{prefix}{field.name}"],
                type=choice, required=required, help=doc.text if doc else None,
                envvar=f"RBEE_{shown.replace('-', '_').upper()}",
            )
        )  # fmt: skip
    return out


def _unwrapped(hint: Any) -> tuple[Any, Doc | None]:
    """`Annotated[int | None, Doc(...)]` -> (int, its Doc)."""
    doc = None
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        doc = next((n for n in notes if isinstance(n, Doc)), None)
    if get_origin(hint) in (Union, types.UnionType):
        inner = [a for a in get_args(hint) if a is not type(None)]
        if len(inner) == 1:
            deeper, found = _unwrapped(inner[0])
            return deeper, doc or found
    return hint, doc


def _request(said: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in said.items():
        if value is None:
            continue
        outer, _, inner = name.partition("__")
        if inner:
            out.setdefault(outer, {})[inner] = value
        else:
            out[name] = value
    return out
