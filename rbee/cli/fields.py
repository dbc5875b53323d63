# SPDX-License-Identifier: GPL-3.0-or-later
"""A request type as a command's parameters, and what was said with them as the request's fields."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from rbee.core.doc import Doc
from rbee.core.errors import InvalidRequest

_SCALARS: dict[type, Any] = {str: click.STRING, int: click.INT, float: click.FLOAT, bool: click.BOOL}
#: Fields that a person never says: apply does (`queen_url` is also the option for the queen herself).
_NOT_ASKED = frozenset({"queen_url", "declared_source"})
#: Letters that users know from other tools.
_SHORT = {"follow": "-f", "tail": "-n"}
#: The argument's name among what was said.
POSITIONAL = "positional"
_MOST = 2**20


def parameters(request: type, skip: Collection[str] = ()) -> list[click.Parameter]:
    """An option for every field that a person may say, and an argument for the one that must be said (or is the
    first to be thought of), where there is just one: `rbee model get NAME` is `rbee model get --model-id NAME`."""
    main, either = _main(request), _either(request)
    found = _options(request, _NOT_ASKED | set(skip), main)
    if either is not None:
        shown = "|".join(name.upper() for name in either)
        return [click.Argument([POSITIONAL], type=click.STRING, required=False, metavar=shown), *found]
    if main is None:
        return found
    hint, _ = unwrapped(typing.get_type_hints(request, include_extras=True)[main])
    many = hint not in _SCALARS
    kind = click.STRING if many else _SCALARS[hint]
    name = main.removesuffix("s") if many else main
    shown = f"{name.upper()}{'...' if many else ''}"
    return [click.Argument([POSITIONAL], type=kind, required=False, nargs=-1 if many else 1, metavar=shown), *found]


def said_fields(request: type, said: Mapping[str, Any]) -> dict[str, Any]:
    """The request's plain fields. Raises click.UsageError for what is missing or said twice, InvalidRequest for a
    file that cannot be read."""
    given = {name: value for name, value in said.items() if value is not None and value != ()}
    main, either = _main(request), _either(request)
    if POSITIONAL in given:
        if either is not None:
            number, text = either
            main, other = (number, text) if given[POSITIONAL].isdecimal() else (text, number)
            given[POSITIONAL] = int(given[POSITIONAL]) if main == number else given[POSITIONAL]
            if click.get_current_context().get_parameter_source(other) is not _COMMANDLINE:
                given.pop(other, None)
        assert main is not None
        if main in given and click.get_current_context().get_parameter_source(main) is _COMMANDLINE:
            raise click.UsageError(f"{_flag(main)} and the argument say the same thing: leave one out.")
        given[main] = given.pop(POSITIONAL)
    if main is not None and main not in given and main in needed(request):
        raise click.UsageError(f"Missing argument {main.removesuffix('s').upper()} (or option {_flag(main)}).")
    out: dict[str, Any] = {}
    for name, value in given.items():
        outer, _, inner = name.partition("__")
        if isinstance(value, Path):
            out[name] = _read(value, name)
        elif inner:
            out.setdefault(outer, {})[inner] = value
        else:
            out[name] = list(value) if isinstance(value, tuple) else value
    return out


_COMMANDLINE = click.core.ParameterSource.COMMANDLINE


def _main(request: type) -> str | None:
    """The one field that must be said, when it is a text, a number or a list of texts; where none must, the one that
    its type calls the argument."""
    hints = {name: unwrapped(hint) for name, hint in typing.get_type_hints(request, include_extras=True).items()}
    asked = needed(request) or [name for name, (_, doc) in hints.items() if doc is not None and doc.argument]
    if len(asked) != 1:
        return None
    hint, _ = hints[asked[0]]
    return asked[0] if hint in _SCALARS or hint == tuple[str, ...] else None


def _either(request: type) -> tuple[str, str] | None:
    """A number and a text that both name what is meant: what is written decides which of them it is."""
    hints = {name: unwrapped(hint) for name, hint in typing.get_type_hints(request, include_extras=True).items()}
    called = {hint: name for name, (hint, doc) in hints.items() if doc is not None and doc.argument}
    return (called[int], called[str]) if called.keys() == {int, str} and not needed(request) else None


def needed(request: type) -> list[str]:
    """The fields that must be said."""
    return [f.name for f in dataclasses.fields(request) if _required(f)]


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _flag(name: str) -> str:
    return f"--{name.removesuffix('_id') if name == 'hive_id' else name}".replace("_", "-")


def _options(request: type, skip: Collection[str], main: str | None, prefix: str = "") -> list[click.Parameter]:
    hints = typing.get_type_hints(request, include_extras=True)
    out: list[click.Parameter] = []
    for field in dataclasses.fields(request):
        kind, doc = unwrapped(hints[field.name])
        if field.name in skip:
            continue
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            if field.name == "options":
                out.extend(_options(kind, skip, None, f"{field.name}__"))
        elif (made := _option(field, kind, doc, prefix, argument=field.name == main)) is not None:
            out.append(made)
    return out


def _option(
    field: dataclasses.Field[Any], kind: Any, doc: Doc | None, prefix: str, *, argument: bool
) -> click.Option | None:
    flag = _flag(field.name)
    text = doc.text if doc else ""
    if argument:
        text += " Or as the argument."
    said: dict[str, Any] = {
        "help": text or None,
        "required": _required(field) and not argument,
        "envvar": f"RBEE_{flag[2:].replace('-', '_').upper()}",
    }
    names = [flag, f"{prefix}{field.name}"]
    if field.name in _SHORT:
        names.insert(0, _SHORT[field.name])
    if get_origin(kind) is tuple:
        (item, *_) = get_args(kind)
        if dataclasses.is_dataclass(item):
            said |= {"help": f"{text} A JSON or YAML file with the list of them; - is standard input."}
            said["type"] = click.Path(path_type=Path, allow_dash=True)
            return click.Option(["-f", "--file", flag, f"{prefix}{field.name}"], metavar="FILE", **said)
        said["help"] = f"{text} May be repeated."
        return click.Option([flag.removesuffix("s"), *names], multiple=True, type=click.STRING, **said)
    if kind is bool:
        return click.Option(names, is_flag=True, default=None, **said)
    one_of = get_args(kind) if get_origin(kind) is Literal else doc.enum if doc else None
    if not one_of and kind not in _SCALARS:
        return None
    return click.Option(names, type=click.Choice(one_of) if one_of else _SCALARS[kind], **said)


def unwrapped(hint: Any) -> tuple[Any, Doc | None]:
    """`Annotated[int | None, Doc(...)]` -> (int, its Doc)."""
    doc = None
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        doc = next((n for n in notes if isinstance(n, Doc)), None)
    if get_origin(hint) in (Union, types.UnionType):
        inner = [a for a in get_args(hint) if a is not type(None)]
        if len(inner) == 1:
            deeper, found = unwrapped(inner[0])
            return deeper, doc or found
    return hint, doc


def _read(path: Path, name: str) -> Any:
    """A list in a file, alone or as the one key `name` of a mapping."""
    try:
        with nullcontext(sys.stdin) if str(path) == "-" else path.open(encoding="utf-8") as file:
            text = file.read(_MOST + 1)
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}.") from None
    if len(text) > _MOST:
        raise InvalidRequest(f"{path} is larger than {_MOST} characters.")
    try:
        found = json.loads(text)
    except ValueError:
        found = _yaml(path, text)
    return found[name] if isinstance(found, dict) and set(found) == {name} else found


def _yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as e:
        raise InvalidRequest(f"{path} is neither JSON nor YAML: {' '.join(str(e).split())}.") from None
