# SPDX-License-Identifier: GPL-3.0-or-later
"""What a field means and may hold, said once beside its type.

`Annotated[int, Doc("TCP port", minimum=1, maximum=65535)]`: the JSON Schema, the reference page,
`rbee.yaml.example`, the CLI's `--help` and OpenAPI are all made from it (`rbee.contracts.schema`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Doc:
    """`text` is one or two sentences for a person; the rest are JSON Schema's words of the same name."""

    text: str
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    min_items: int | None = None
    max_items: int | None = None
    enum: tuple[str, ...] | None = None
    example: Any = None
    #: On a command line it may be said without its option's name, though it may be left out.
    argument: bool = False
    #: What the names of a mapping must match.
    key_pattern: str | None = None
    #: False for what the loader fills in itself: not a key of the file.
    written: bool = True
    #: A whole JSON Schema for what may be written in the file, when that is more than the type says
    #: (`ssh: alias` beside `ssh: {...}`, `5m` for a number of seconds).
    written_as: Any = None
