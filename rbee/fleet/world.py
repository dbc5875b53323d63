# SPDX-License-Identifier: GPL-3.0-or-later
"""All that the handlers of actions act on: what is wanted, what was seen, and the ports to the outside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rbee.contracts.configs import HiveConfig, QueenConfig
from rbee.core.actual import HiveActual
from rbee.core.errors import RbeeError
from rbee.core.facts import MachineFacts
from rbee.core.providers import EngineProvider
from rbee.core.records import Mark
from rbee.core.spec import HiveSpec, Spec
from rbee.fleet.observe import Machines, Survey
from rbee.fleet.ports import Bundle, Bundler, Clock, HiveApi, OnProgress, Shell
from rbee.fleet.settings import hive_url


class Installer(Protocol):
    """Puts bundles and files on machines: only what is missing is sent, all is verified, then renamed in place."""

    def install(
        self, shell: Shell, facts: MachineFacts, bundle: Bundle, on_progress: OnProgress | None = None
    ) -> None: ...

    def push(
        self, shell: Shell, facts: MachineFacts, source: Path, destination: str, on_progress: OnProgress | None = None
    ) -> str:
        """Send a file; resumed when half there. Returns its SHA-256."""
        ...

    def engine_here(self, provider: EngineProvider, mark: Mark) -> bool:
        """Note an engine that this program's own environment has (this machine's hive uses it as it is).

        False when the environment lacks it at the provider's version.
        """
        ...


class Home(Protocol):
    """Files of this machine that apply writes: the token and the queen's settings."""

    @property
    def token_file(self) -> str: ...
    def token(self) -> str:
        """The fleet's token; made and kept (mode 0600) when there is none yet."""
        ...

    def queen_config(self) -> QueenConfig | None: ...
    def write_queen_config(self, config: QueenConfig) -> None: ...
    def forget(self) -> None:
        """Remove the queen's settings and store, and the token unless rbee.yaml named its file. Logs stay."""
        ...


@dataclass(slots=True, kw_only=True)
class World:
    """Shared by all handlers of one apply; the mutable parts are guarded by `lock`."""

    spec: Spec
    providers: Sequence[EngineProvider]
    survey: Survey
    machines: Machines
    local: Shell
    python: str
    bundler: Bundler
    installer: Installer
    home: Home
    clock: Clock
    queen_config: QueenConfig
    hive_configs: Mapping[str, HiveConfig]
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    #: What rbee.lock should remember, by model: commit and digest, as the hives told them.
    fetched: dict[str, dict[str, str | None]] = field(default_factory=dict)
    _apis: dict[str, HiveApi] = field(default_factory=dict)

    @property
    def mark(self) -> Mark:
        return Mark(fleet=self.spec.fleet)

    def hive(self, name: str) -> HiveSpec:
        return self.spec.hives[name] if name in self.spec.hives else self.survey.dropped[name]

    def seen(self, name: str) -> HiveActual:
        found = self.survey.actual.hives[name]
        if not isinstance(found, HiveActual):
            raise RbeeError(f"Hive {name!r} was not observed.", code="unknown_hive")
        return found

    def facts(self, name: str) -> MachineFacts:
        return self.survey.facts[name]

    def shell(self, name: str) -> Shell:
        hive = self.hive(name)
        return self.local if hive.local else self.machines.shell(hive)

    def api(self, name: str) -> HiveApi:
        """The hive's API, one object for the whole apply."""
        with self.lock:
            if name not in self._apis:
                self._apis[name] = self.machines.hive_api(self.hive(name), self._url(name))
            return self._apis[name]

    def _url(self, name: str) -> str:
        """Of a hive that the file dropped, what it tells itself or what the queen's settings say of it."""
        seen = self.seen(name)
        if name in self.survey.dropped:
            if seen.live is not None:
                return seen.live.url
            before = self.survey.queen_config
            for known in before.hives if before else ():
                if known.hive_id == name:
                    return known.url
        return hive_url(self.spec, self.hive(name), seen)

    def provider(self, name: str) -> EngineProvider:
        for provider in self.providers:
            if provider.name == name:
                return provider
        raise RbeeError(f"No engine provider is called {name!r}.", code="unknown_engine")

    def interrupt(self) -> None:
        """Ask everything that runs to end soon: no new action starts, jobs on hives are cancelled."""
        self.stop.set()
        with self.lock:
            apis = list(self._apis.values())
        for api in apis:
            with suppress(RbeeError, OSError):  # a hive that is gone must not keep the others from being told
                api.cancel()


@dataclass(frozen=True, slots=True)
class Tell:
    """What a handler may tell while it works; made by the executor for each action."""

    emit: Callable[[dict[str, Any]], None]

    def note(self, message: str) -> None:
        self.emit({"type": "action_note", "message": message})

    def say(self, message: str) -> None:
        """A note that stays: something for the user to know or do."""
        self.emit({"type": "action_note", "message": message, "keep": True})

    def progress(self, done: int, total: int) -> None:
        self.emit({"type": "action_progress", "done": done, "total": total})

    def event(self, event: dict[str, Any]) -> None:
        """A narration event of a job on a hive."""
        done, total = event.get("bytes_downloaded"), event.get("total_bytes")
        if isinstance(done, int) and isinstance(total, int):
            self.progress(done, total)
        elif event.get("message"):
            self.note(str(event["message"]))
