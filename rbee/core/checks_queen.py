# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of the queen's clients: their keys and their limits. The rest of `rbee.core.checks`."""

from __future__ import annotations

from collections.abc import Iterator

from rbee.core.checks import Finding, Scene, fits
from rbee.core.document import Path
from rbee.core.spec_queen import KeySpec

#: Names that the queen gives: to who has the fleet's token, and to strangers.
FLEET = "fleet"
ANONYMOUS = "anon-"


def check_queen(scene: Scene) -> Iterator[Finding]:
    """Keys that could be confused, key files that are no good, keys that no hive may serve."""
    files: dict[str, str] = {}
    for name, key in scene.spec.queen.keys.items():
        yield from _name(name)
        yield from _file(scene, name, key, files)
        if key.require and scene.spec.hives and not scene.damaged("hives"):
            yield from _served(scene, name, key)


def _name(name: str) -> Iterator[Finding]:
    if name == FLEET or name.startswith(ANONYMOUS):
        whose = "the fleet's token" if name == FLEET else "clients without a key"
        yield Finding(
            path=("queen", "keys", name),
            summary=f"No key can be called {name!r}.",
            detail=f"Logs and metrics call {whose} so.",
            mend="Rename it.",
            key=True,
        )


def _file(scene: Scene, name: str, key: KeySpec, files: dict[str, str]) -> Iterator[Finding]:
    path: Path = ("queen", "keys", name, "key_file")
    other = files.setdefault(key.key_file, name)
    if key.key_file == scene.spec.queen.token_file:
        detail = "Its holder could do everything."
        yield Finding(path=path, summary="The key is the fleet's token.", detail=detail, mend="Name a file of its own.")
    elif other != name:
        summary = f"The keys {other!r} and {name!r} are the same file."
        yield Finding(path=path, summary=summary, mend="Give each a file of its own.")
    elif (trouble := scene.secret(key.key_file)) is not None:
        summary, mend = trouble
        here = scene.deploying
        detail = "" if here else "The queen's machine is to have it: there `rbee plan` and `rbee apply` refuse this."
        yield Finding(path=path, summary=summary, detail=detail, mend=mend, severity="error" if here else "warning")


def _served(scene: Scene, name: str, key: KeySpec) -> Iterator[Finding]:
    if not any(fits(hive, key.require) for hive in scene.spec.hives.values()):
        shown = ", ".join(f"{label}: {value}" for label, value in key.require.items())
        yield Finding(
            path=("queen", "keys", name, "require"),
            summary=f"No hive may serve the key {name!r}.",
            detail=f"It requires {shown}.",
            mend="Add `labels:` to a hive.",
        )
