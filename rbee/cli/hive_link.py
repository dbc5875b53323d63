# SPDX-License-Identifier: GPL-3.0-or-later
"""How `rbee-hive` commands reach this machine's hive: its daemon where one runs, else the hive's own code here."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rbee.adapters import process
from rbee.adapters.paths import Paths
from rbee.adapters.secrets import Token
from rbee.cli.direct import Direct, Held
from rbee.cli.reading import read_config, read_token
from rbee.contracts.configs import HiveConfig, QueenConfig
from rbee.core.errors import Unavailable
from rbee.core.slug import slug

#: A daemon that has the lock and has not said yet where it listens is waited for.
_STARTING = 5.0
#: What would be gone with this process, and what helps without a daemon.
_DAEMON_ONLY = {
    "ModelPreload": "Start it: `rbee-hive run`.",
    "DownloadResume": "Start it (`rbee-hive run`), or download the model again: that goes on from where it stopped.",
}
OnEvent = Callable[[dict[str, Any]], None]


@contextmanager
def connect(said: Mapping[str, Any]) -> Iterator[Local]:
    """Of the option `config`. Raises RbeeError for settings or a token that cannot be used."""
    yield Local(Paths.of_environment(), said.get("config"))


class Local:
    """This machine's hive; the daemon and this process are two ways to the same code."""

    def __init__(self, paths: Paths, config: Path | None) -> None:
        self._paths = paths
        self._config = settings(config, paths)
        self._token = read_token(self._config.token_file, paths)

    def run(self, request: Any, on_event: OnEvent | None = None) -> Any:
        """Raises RbeeError; KeyboardInterrupt once the job was cancelled."""
        url = daemon_url(self._paths)
        if url is None and (mend := _DAEMON_ONLY.get(type(request).__name__)):
            raise Unavailable("That lives in the hive's daemon, and none runs here.", code="no_daemon", mend=mend)
        if url is None:
            direct = Direct(self._config, self._paths, self._token)
            try:
                return direct.run(request, on_event)
            except Held as e:
                url = self._awaited()
                if url is None:
                    raise e.why from None
        return _ask(url, self._token, request, on_event)

    def _awaited(self) -> str | None:
        """Where the daemon that is just starting listens; None when it is no daemon that has the lock."""
        end = time.monotonic() + _STARTING
        while (url := daemon_url(self._paths)) is None and time.monotonic() < end:
            time.sleep(0.1)
        return url


def _ask(url: str, token: Token | None, request: Any, on_event: OnEvent | None) -> Any:
    from rbee.adapters.hive_api import HttpHiveApi
    from rbee.adapters.local_shell import LocalShell

    return HttpHiveApi(LocalShell(), url, lambda: token.reveal() if token else None).run(request, on_event)


def settings(path: Path | None, paths: Paths) -> HiveConfig:
    """The file that was named, or this machine's hive.json, or the queen's local hive, or what goes without any."""
    if path is not None or paths.hive_config.exists():
        return read_config(HiveConfig, path or paths.hive_config)
    if paths.queen_config.exists():
        local = read_config(QueenConfig, paths.queen_config).local_hive
        if local is not None:
            return local
    return HiveConfig(hive_id=slug(socket.gethostname().partition(".")[0]) or "localhost", fleet="")


def daemon_url(paths: Paths) -> str | None:
    """Where the hive of these paths listens, in whatever process it lives; None when none runs."""
    try:
        told = json.loads((paths.state / "hive.run.json").read_bytes())
        who = process.Identity(pid=int(told["pid"]), start_time=told["start_time"])
        url = told["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if isinstance(url, str) and url and process.alive(who) else None
