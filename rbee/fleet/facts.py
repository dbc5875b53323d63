# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeing a machine: one command, one round trip, and a pure parser of what it printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rbee.contracts import codec, defaults
from rbee.contracts.capabilities import Capabilities
from rbee.core.errors import RbeeError
from rbee.core.facts import ConfigFile, Daemon, MachineFacts, Release, TokenFile, WorkerProcess
from rbee.core.records import ModelRecord, WorkerBinary
from rbee.fleet import commands
from rbee.fleet.ports import Completed, Shell

_ANSWER = re.compile(rb"^rbee: (\{.*\})\s*$", re.MULTILINE)
_NO_PYTHON = re.compile(rb"^rbee-nopython: (\S+) (\S+)(.*)$", re.MULTILINE)
#: Parts of the answer that may be there once, and those that may be there many times.
_RECORDS: dict[str, type[Any]] = {
    "hive": Daemon,
    "queen": Daemon,
    "hive_config": ConfigFile,
    "queen_config": ConfigFile,
    "token": TokenFile,
}
_LISTS: dict[str, type[Any]] = {
    "releases": Release,
    "engines": WorkerBinary,
    "models": ModelRecord,
    "workers": WorkerProcess,
}
_OS = {"Linux": "linux", "Darwin": "macos"}
_ARCH = {"aarch64": "arm64", "amd64": "x86_64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one round trip told. `capabilities` are there when the hive runs and answered; else why not."""

    facts: MachineFacts
    capabilities: Capabilities | None = None
    capabilities_error: str = ""
    #: The hive answered, but in words that this rbee does not read.
    other_version: bool = False


def observe(
    shell: Shell,
    *,
    python: str | None = None,
    libraries: Iterable[str] = (),
    capabilities: bool = True,
    timeout: float = defaults.PROBE_TIMEOUT,
) -> Observation:
    """Look at a machine. Raises Unreachable, or RbeeError `probe_failed` when it answers nonsense."""
    asked = {"libraries": sorted(set(libraries)), "capabilities": capabilities}
    done = shell.run(
        commands.find_python_and("probe", python), input=commands.script_input("probe", asked), timeout=timeout
    )
    return parse(answer(done))


def answer(done: Completed) -> dict[str, Any]:
    """The line that a script printed, among whatever a login shell printed around it.

    Raises RbeeError `probe_failed` with the command's own words.
    """
    found = _ANSWER.findall(done.out)
    if found:
        try:
            value = json.loads(found[-1])
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
    none = _NO_PYTHON.search(done.out)
    if none and b"Traceback" not in done.err:  # a script of ours that broke is no lack of a Python
        system, arch, old = (part.decode("ascii", "replace") for part in none.groups())
        return {"os": _OS.get(system, system.lower()), "arch": _ARCH.get(arch, arch), "old": old.split()}
    words = (done.err or done.out).decode("utf-8", "replace").strip().splitlines()[-5:]
    raise RbeeError(
        f"The machine answered nothing that rbee understands (status {done.rc}): {' / '.join(words) or 'no output'}",
        code="probe_failed",
        mend="Log in by hand (ssh) and see whether `sh -c 'echo hello'` works there.",
    )


def parse(found: dict[str, Any]) -> Observation:
    """Facts of the probe's answer; one broken record is left out and never hides the rest.

    Raises RbeeError `probe_failed` when the machine itself is not told of in rbee's words.
    """
    told = dict(found)
    told["old_pythons"] = [p for p in map(_old_python, told.pop("old", ())) if p]
    for name, kind in _RECORDS.items():
        told[name] = next(iter(_whole(kind, [told.get(name)])), None)
    for name in ("engines", "models"):
        told[name] = [record.get("artifact") for record in told.get(name) or ()]
    told["releases"] = [r for r in told.get("releases") or () if r.get("usable")]
    for name, kind in _LISTS.items():
        told[name] = _whole(kind, told.get(name) or ())
    try:
        facts = codec.convert(MachineFacts, {"home": "", **told})
    except codec.CodecError as e:
        raise RbeeError(f"The probe's answer cannot be understood: {e}", code="probe_failed") from None
    capabilities, error, other = None, str(found.get("capabilities_error") or ""), False
    if found.get("capabilities") is not None:
        try:
            capabilities = codec.convert(Capabilities, found["capabilities"])
        except codec.CodecError as e:
            error, other = f"its hive speaks another version: {e}", True
    return Observation(facts=facts, capabilities=capabilities, capabilities_error=error, other_version=other)


def _old_python(written: str) -> dict[str, Any] | None:
    version, _, path = written.partition("=")
    numbers = version.split(".")
    if len(numbers) != 3 or not all(n.isdigit() for n in numbers):
        return None
    return {"path": path, "version": [int(n) for n in numbers]}


def _whole(kind: type[Any], values: Iterable[Any]) -> list[Any]:
    """Those of the values that are of the type."""
    kept = []
    for value in values:
        try:
            codec.convert(kind, value)
        except codec.CodecError:
            continue
        kept.append(value)
    return kept
