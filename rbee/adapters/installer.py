# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts bundles and files on machines: asks what is missing, streams only that, lets the machine verify it."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import platform as system
import sys
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from rbee.adapters.bundles import engine_metadata
from rbee.adapters.digests import Digests
from rbee.adapters.paths import Paths, write_atomic
from rbee.contracts import codec
from rbee.core.errors import Insufficient, RbeeError
from rbee.core.facts import MachineFacts
from rbee.core.providers import EngineProvider, binary_id
from rbee.core.records import Mark
from rbee.fleet import commands
from rbee.fleet.facts import answer
from rbee.fleet.ports import Bundle, Completed, OnProgress, Part, Shell

INSTALL_TIMEOUT = 600.0
#: Once more after a cut: what has arrived is kept, so each try goes on.
TRIES = 3


class RealInstaller:
    """`Installer`. Blocks; thread-safe."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._digests = Digests(paths.cache)

    def install(self, shell: Shell, facts: MachineFacts, bundle: Bundle, on_progress: OnProgress | None = None) -> None:
        """Raises Insufficient (disk), RbeeError `bad_bundle`, `os_error` with the machine's words, Unreachable."""
        root = facts.roots.releases if bundle.kind == "release" else facts.roots.engines
        asked = {
            "directory": str(PurePosixPath(root) / bundle.id),
            "store": facts.roots.wheels,
            "wheels": [{"name": w.name, "sha256": w.sha256, "size": w.size} for w in bundle.wheels],
            "metadata": bundle.metadata,
            "prune": _prune(facts, bundle),
        }
        argv = commands.script(_python(facts), "install")
        told = _checked(
            shell,
            shell.run(argv, input=commands.script_input("install", {**asked, "stream": None}), timeout=INSTALL_TIMEOUT),
        )
        missing = set(told.get("missing") or ())
        if not missing:
            return
        sent = [w for w in bundle.wheels if w.sha256 in missing]
        preamble = commands.script_input("install", {**asked, "stream": [w.sha256 for w in sent]})
        parts = [Part(path=w.path, size=w.size) for w in sent]
        _checked(shell, shell.send(argv, preamble=preamble, parts=parts, on_progress=on_progress))

    def push(
        self, shell: Shell, facts: MachineFacts, source: Path, destination: str, on_progress: OnProgress | None = None
    ) -> str:
        """Raises Insufficient (disk), RbeeError with the machine's words, Unreachable, OSError for our own file."""
        asked = {"path": destination, "size": source.stat().st_size, "sha256": self._digests.of(source)}
        argv = commands.script(_python(facts), "receive")
        for attempt in range(TRIES):
            question = commands.script_input("receive", {**asked, "offset": None})
            told = _checked(shell, shell.run(argv, input=question, timeout=INSTALL_TIMEOUT))
            if told["done"]:
                break
            have = int(told["have"])
            preamble = commands.script_input("receive", {**asked, "offset": have})
            part = Part(path=source, size=int(str(asked["size"])), offset=have)
            try:
                _checked(shell, shell.send(argv, preamble=preamble, parts=[part], on_progress=on_progress))
                break
            except RbeeError as e:
                if attempt == TRIES - 1 or e.code not in ("unreachable", "timeout", "cut_off", "changed"):
                    raise
        return str(asked["sha256"])

    def engine_here(self, provider: EngineProvider, mark: Mark) -> bool:
        try:
            if importlib.metadata.version(provider.distribution) != provider.version:
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
        if importlib.util.find_spec(provider.module) is None:
            return False
        platform = this_platform()
        now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
        metadata = engine_metadata(provider, platform, mark)
        folder = self._paths.worker_binaries / binary_id(provider, platform)
        metadata["artifact"] |= {"path": str(folder), "python": sys.executable, "size_bytes": 0}
        metadata |= {"added_at": now, "last_accessed": now}
        write_atomic(folder / "metadata.json", codec.encode_pretty(metadata))
        return True


def this_platform() -> str:
    """As the probe would say it of this machine: `linux-x86_64`."""
    name = {"Linux": "linux", "Darwin": "macos"}.get(system.system(), system.system().lower())
    arch = system.machine().lower()
    return f"{name}-{ {'aarch64': 'arm64', 'amd64': 'x86_64'}.get(arch, arch) }"


def _prune(facts: MachineFacts, bundle: Bundle) -> dict[str, Any] | None:
    """Releases of this fleet that a new one replaces; the one that the hive still runs stays until the next."""
    mark = bundle.metadata.get("mark")
    if bundle.kind != "release" or not mark:
        return None
    return {"fleet": mark["fleet"], "keep": [d.release for d in (facts.hive, facts.queen) if d is not None and d.alive]}


def _python(facts: MachineFacts) -> str:
    if facts.python is None:
        raise RbeeError("The machine has no Python 3.10 or newer.", code="no_python")
    return facts.python.path


def _checked(shell: Shell, done: Completed) -> dict[str, Any]:
    told = answer(done)
    if not told.get("error"):
        return told
    message = f"{shell.name}: {told['error']}."
    if told.get("errno") == errno.ENOSPC:
        raise Insufficient(message, code="disk_full", mend="Free some space there and apply again.")
    raise RbeeError(message, code=str(told.get("code") or "remote"))
