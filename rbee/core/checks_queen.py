# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of the queen's own: her clients' keys, her database, her collector. The rest of `rbee.core.checks`."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

from rbee.core.checks import Finding, Scene, fits
from rbee.core.document import Path
from rbee.core.spec_queen import KeySpec

#: Names that the queen gives: to who has the fleet's token, and to strangers.
FLEET = "fleet"
ANONYMOUS = "anon-"


def check_queen(scene: Scene) -> Iterator[Finding]:
    """Keys that could be confused, key files that are no good, keys that no hive may serve; passwords that stand in the
    file; what she could not start with."""
    yield from _store(scene)
    yield from _traces(scene)
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
        yield _missing(scene, path, *trouble)


def _served(scene: Scene, name: str, key: KeySpec) -> Iterator[Finding]:
    if not any(fits(hive, key.require) for hive in scene.spec.hives.values()):
        shown = ", ".join(f"{label}: {value}" for label, value in key.require.items())
        yield Finding(
            path=("queen", "keys", name, "require"),
            summary=f"No hive may serve the key {name!r}.",
            detail=f"It requires {shown}.",
            mend="Add `labels:` to a hive.",
        )


def _store(scene: Scene) -> Iterator[Finding]:
    queen, path = scene.spec.queen, ("queen", "store")
    if queen.store is None:
        if queen.store_password_file is not None:
            summary = "`store_password_file` is for a `store`, and there is none."
            yield Finding(
                path=("queen", "store_password_file"), summary=summary, mend="Add `store`.", severity="warning"
            )
        return
    if _tells_secret(queen.store):
        yield Finding(
            path=path,
            summary="The address of the database has a password in it.",
            detail="Secrets are never in this file, nor in those that rbee makes of it.",
            mend="Put it into a file of mode 0600, and name that: `store_password_file: FILE`.",
        )
    elif scene.lacks("asyncpg"):
        summary, mend = (
            "The driver of PostgreSQL is not installed.",
            "Install rbee with its extra: pip install '.[postgres]' in its folder.",
        )
        yield _missing(scene, path, summary, mend)
    if queen.store_password_file is not None and (trouble := scene.password(queen.store_password_file)) is not None:
        yield _missing(scene, ("queen", "store_password_file"), *trouble)


def _traces(scene: Scene) -> Iterator[Finding]:
    traces, path = scene.spec.queen.traces, ("queen", "traces")
    if traces is None:
        return
    if "@" in traces.partition("://")[2].partition("/")[0] or _tells_secret(traces):
        yield Finding(
            path=path,
            summary="The collector's address has a user or password in it.",
            detail="Secrets are never in this file, nor in those that rbee makes of it.",
            mend="Let a collector on this machine take the traces, and pass them on with what opens the other one.",
        )
    elif scene.lacks("opentelemetry.exporter.otlp.proto.http"):
        summary = "OpenTelemetry is not installed."
        mend = "Install rbee with its extra: pip install '.[otel]' in its folder. Or leave `traces` out."
        yield _missing(scene, path, summary, mend)


def _missing(scene: Scene, path: Path, summary: str, mend: str) -> Finding:
    """What the queen's machine is to have."""
    here = scene.deploying
    detail = "" if here else "The queen's machine is to have it: there `rbee plan` and `rbee apply` refuse this."
    return Finding(path=path, summary=summary, detail=detail, mend=mend, severity="error" if here else "warning")


def _tells_secret(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.password) or any("password" in key.lower() for key, _ in parse_qsl(parts.query))
