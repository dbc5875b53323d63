# SPDX-License-Identifier: GPL-3.0-or-later
"""rbee.lock: which commit and digest each model's source had when it was first fetched.

Written by apply, kept under version control: another machine, or next year, gets the same bytes or an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rbee.adapters.paths import write_atomic
from rbee.contracts import codec
from rbee.core.desired import Pin
from rbee.core.errors import RbeeError
from rbee.core.spec import ModelSpec

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LockFile:
    version: int
    models: dict[str, Pin]


def read(path: Path) -> dict[str, Pin]:
    """Pins by model name; none when there is no file. Raises RbeeError `bad_lock`."""
    try:
        found = codec.decode(LockFile, path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, codec.CodecError) as e:
        raise RbeeError(
            f"{path} cannot be read: {e}", code="bad_lock", mend="Restore it from version control, or remove it."
        ) from None
    if found.version != FORMAT:
        raise RbeeError(f"{path} has version {found.version}; this rbee reads {FORMAT}.", code="bad_lock")
    return found.models


def read_pins(path: Path, models: Mapping[str, ModelSpec]) -> dict[str, Pin]:
    """By model, for those whose source and revision are still what was pinned."""
    return {
        name: pin
        for name, pin in read(path).items()
        if name in models and (models[name].source, models[name].revision) == (pin.source, pin.revision)
    }


def update(path: Path, fetched: Mapping[str, Mapping[str, str | None]], models: Mapping[str, ModelSpec]) -> bool:
    """Add what an apply fetched and drop models that the file names no more; True when the lock changed.

    A file that only this machine has (`file:`) and what rbee ships (`builtin:`) are not pinned: the first may
    change on purpose, the second changes with rbee.
    """
    before = read(path)
    after = {name: pin for name, pin in before.items() if name in models}
    for name, told in fetched.items():
        source, sha256 = told.get("source") or "", told.get("sha256")
        if sha256 and name in models and not source.startswith(("file:", "builtin:")):
            after[name] = Pin(source=source, sha256=sha256, revision=told.get("revision"), commit=told.get("commit"))
    if after == before:
        return False
    body = {"version": FORMAT, "models": {n: codec.to_mapping(after[n]) for n in sorted(after)}}
    write_atomic(path, json.dumps(body, indent=2).encode() + b"\n")
    return True
