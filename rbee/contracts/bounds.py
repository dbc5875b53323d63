# SPDX-License-Identifier: GPL-3.0-or-later
"""What a field's `Doc` allows, enforced: the same words that the schema and `--help` are made from."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from rbee.core.doc import Doc


def refused(value: Any, where: str = "$") -> Iterator[str]:
    """What of a dataclass value lies outside its fields' bounds, each as "$.port: must be at most 65535".

    A field that is None was not said and is not looked at; dataclasses in fields, and in tuples, are.
    """
    kind: Any = type(value)
    for name, doc in _docs(kind).items():
        said, here = getattr(value, name), f"{where}.{name}"
        if said is None:
            continue
        if doc is not None:
            yield from (f"{here}: {words}" for words in _outside(doc, said))
        inner = [(f"{here}[{n}]", item) for n, item in enumerate(said)] if isinstance(said, tuple) else [(here, said)]
        for place, item in inner:
            if dataclasses.is_dataclass(item):
                yield from refused(item, place)


@cache
def _docs(kind: Any) -> dict[str, Doc | None]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: _doc(hints[f.name]) for f in dataclasses.fields(kind)}


def _doc(hint: Any) -> Doc | None:
    """The Doc of `Annotated[int | None, Doc(...)]` or of `Annotated[int, Doc(...)] | None`."""
    if get_origin(hint) is Annotated:
        return next((n for n in get_args(hint) if isinstance(n, Doc)), None)
    return next((d for d in map(_doc, get_args(hint)) if d), None)


def _outside(doc: Doc, said: Any) -> Iterator[str]:
    if isinstance(said, (int, float)):
        if doc.minimum is not None and said < doc.minimum:
            yield f"must be at least {doc.minimum:g}"
        if doc.maximum is not None and said > doc.maximum:
            yield f"must be at most {doc.maximum:g}"
    if isinstance(said, str):
        if doc.min_length is not None and len(said) < doc.min_length:
            yield "must not be empty" if doc.min_length == 1 else f"must have at least {doc.min_length} characters"
        if doc.max_length is not None and len(said) > doc.max_length:
            yield f"must have at most {doc.max_length} characters"
        if doc.pattern is not None and not re.search(doc.pattern, said):
            yield f"must match {doc.pattern}"
        if doc.enum is not None and said not in doc.enum:
            yield f"must be one of {', '.join(doc.enum)}"
    if isinstance(said, tuple) and doc.min_items is not None and len(said) < doc.min_items:
        yield f"must have at least {doc.min_items} item{'' if doc.min_items == 1 else 's'}"
    if isinstance(said, tuple) and doc.max_items is not None and len(said) > doc.max_items:
        yield f"must have at most {doc.max_items} items"
