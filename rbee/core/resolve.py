# SPDX-License-Identifier: GPL-3.0-or-later
"""What was written, made complete: sugar resolved, defaults filled in, paths made absolute. Pure.

Works on plain values that follow the schema (whatever did not was left out before); `complete` gives what
`Spec`'s own fields want.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rbee.core.spec_words import DURATION

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATIONS = ("idle_timeout", "queue_timeout", "cold_wait", "first_byte_timeout")
_DEFAULTED = ("device", "engine", "idle_timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What paths of the file are relative to: its own folder, and `~`. Both absolute."""

    folder: str
    home: str

    def path(self, text: str) -> str:
        """An absolute path without `.` and `..`."""
        if text == "~" or text.startswith("~/"):
            text = self.home + text[1:]
        return posixpath.normpath(posixpath.join(self.folder, text))


def seconds(text: str) -> float:
    """Seconds of a duration such as `5m`. Raises ValueError for any other text."""
    found = re.fullmatch(DURATION.strip("^$"), text)
    if found is None:
        raise ValueError(f"{text!r} is no duration")
    return float(found[1]) * _SECONDS[found[3]]


def complete(written: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """The file's values as `Spec` takes them. Names go into the things that they name."""
    out = {key: value for key, value in written.items() if value is not None}
    defaults = _defaults(out.get("defaults") or {})
    if "queen" in out:
        out["queen"] = _queen(out["queen"], places)
    out["defaults"] = defaults
    out["hives"] = {name: _hive(name, hive or {}, places) for name, hive in (out.get("hives") or {}).items()}
    out["models"] = {name: _model(name, model, places) for name, model in (out.get("models") or {}).items()}
    out["policies"] = {name: policy or {} for name, policy in (out.get("policies") or {}).items()}
    only = next(iter(out["hives"])) if len(out["hives"]) == 1 else None
    workers = out.get("workers") or {}
    out["workers"] = {name: _worker(name, worker, defaults, only) for name, worker in workers.items()}
    aliases = {name: [to] if isinstance(to, str) else to for name, to in (out.get("aliases") or {}).items()}
    out["aliases"] = {name: _ends(name, aliases, out["models"]) for name in aliases}
    return out


def _defaults(written: Mapping[str, Any]) -> dict[str, Any]:
    return _timed({key: value for key, value in written.items() if value is not None})


def _queen(written: Mapping[str, Any], places: Places) -> dict[str, Any]:
    queen = dict(written)
    for name in ("token_file", "store_password_file"):
        if queen.get(name):
            queen[name] = places.path(queen[name])
    queen["keys"] = {
        name: {**key, "name": name, "key_file": places.path(key["key_file"])}
        for name, key in (queen.get("keys") or {}).items()
    }
    queen["limits"] = _timed(dict(queen.get("limits") or {}))
    return queen


def _hive(name: str, written: Mapping[str, Any], places: Places) -> dict[str, Any]:
    hive = {**written, "name": name, "labels": written.get("labels") or {}}
    ssh = hive.get("ssh")
    if isinstance(ssh, str):
        hive["ssh"] = _login(ssh)
    elif ssh and ssh.get("identity_file"):
        hive["ssh"] = {**ssh, "identity_file": places.path(ssh["identity_file"])}
    return hive


def _login(text: str) -> dict[str, Any]:
    """`[user@]host[:port]`; an IPv6 address with a port is in brackets, `[::1]:22`."""
    user, _, rest = text.rpartition("@")
    host, port = rest, None
    found = re.fullmatch(r"(\[[^\]]+\]|[^:]+):([0-9]{1,5})", rest)
    if found:
        host, port = found[1], int(found[2])
    return {"host": host.strip("[]"), **({"user": user} if user else {}), **({} if port is None else {"port": port})}


def _model(name: str, written: Mapping[str, Any], places: Places) -> dict[str, Any]:
    source = written["source"]
    prefix, _, path = source.partition(":")
    if prefix.lower() in ("file", "local"):
        source = "file:" + places.path("/" + path.lstrip("/") if path.startswith("//") else path)
    return {**written, "name": name, "source": source}


def _worker(name: str, written: Mapping[str, Any], defaults: Mapping[str, Any], only: str | None) -> dict[str, Any]:
    """A worker with what `defaults` say for keys it does not have (`idle_timeout: null` is having it)."""
    worker = {**{key: defaults[key] for key in _DEFAULTED if key in defaults}, **written, "name": name}
    own = {key: value for key, value in (written.get("options") or {}).items() if value is not None}
    worker["options"] = {**(defaults.get("options") or {}), **own}
    where = worker.get("where")
    if where is not None:
        worker["where"] = {"labels": where.get("labels") or {}}
    elif worker.get("hive") is None:
        worker["hive"] = only
    if (replicas := worker.pop("replicas", None)) is not None:
        worker["replicas"] = _replicas(replicas)
    return _timed(worker)


def _replicas(written: int | Mapping[str, Any]) -> dict[str, int]:
    """A number is both; of two ends one may be left out, and follows the other where it must."""
    if isinstance(written, int):
        return {"min": written, "max": written}
    low, high = written.get("min"), written.get("max")
    if low is None:
        low = 1 if high is None else min(1, high)
    return {"min": low, "max": max(1, low) if high is None else high}


def _timed(values: dict[str, Any]) -> dict[str, Any]:
    for key in _DURATIONS:
        if isinstance(values.get(key), str):
            values[key] = seconds(values[key])
    return values


def _ends(alias: str, aliases: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    """The models that an alias comes to, in order, through other aliases; what is neither stays as it is."""
    ends: list[str] = []
    seen: set[str] = {alias}
    waiting = list(aliases[alias])
    while waiting:
        name = waiting.pop(0)
        if name in models or name not in aliases:
            ends += [name] if name not in ends else []
        elif name not in seen:
            seen.add(name)
            waiting = [*aliases[name], *waiting]
    return ends
