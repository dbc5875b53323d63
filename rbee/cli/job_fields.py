# SPDX-License-Identifier: GPL-3.0-or-later
"""What `rbee jobs submit` is told of a request: its fields, one by one or as a file."""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from rbee.cli.fields import needed, unwrapped
from rbee.contracts import codec
from rbee.core.doc import Doc
from rbee.core.errors import InvalidRequest
from rbee.core.problems import did_you_mean

_MOST = 2**20


def put(request: type, said: dict[str, Any], text: str) -> None:
    """`options.parallel=4` into the fields of a request. Raises click.UsageError."""
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise click.UsageError(f"--field {text!r}: write NAME=VALUE.")
    *outer, last = name.split(".")
    place = said
    for part in outer:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise click.UsageError(f"--field {name}: {part} has another value already.")
        place = inner
    place[last] = _value(value, wants_text=not outer and _kind(request, last)[0] is str)


def _value(said: str, *, wants_text: bool) -> Any:
    """JSON where it is some, or else a text; a model may be called 7 all the same."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return said
    return said if wants_text and not isinstance(found, (str, type(None))) else found


def _kind(request: type, name: str) -> tuple[Any, Doc | None]:
    hint = typing.get_type_hints(request, include_extras=True).get(name)
    return unwrapped(hint) if hint is not None else (None, None)


def check_names(operation: str, request: type, said: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a field that there is not, and for one that must be said."""
    known = [f.name for f in dataclasses.fields(request)]
    for name in said:
        if name not in known:
            mend = did_you_mean(name, known) or (f"It has: {', '.join(known)}." if known else "It has none.")
            raise InvalidRequest(f"{operation} has no field {name!r}.", mend=mend)
    for name in needed(request):
        if name not in said:
            _, doc = _kind(request, name)
            about = f": {doc.text}" if doc is not None else "."
            raise InvalidRequest(f"{operation} needs the field `{name}`{about}", mend=f"Add --field {name}=VALUE.")


def from_file(path: Path) -> dict[str, Any]:
    try:
        if str(path) == "-":
            text = sys.stdin.read(_MOST + 1)
        else:
            with path.open(encoding="utf-8") as file:
                text = file.read(_MOST + 1)
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is no text.") from None
    if len(text) > _MOST:
        raise InvalidRequest(f"{path} is larger than {_MOST} characters.")
    try:
        found = codec.decode(dict[str, Any], text)
    except codec.CodecError as e:
        raise InvalidRequest(f"{path} has no JSON object: {e}.") from None
    return found
