# SPDX-License-Identifier: GPL-3.0-or-later
"""How the long-lived daemons are put together: the one place that builds queen and hive from real adapters."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rbee.adapters.paths import Paths
from rbee.cli.reading import read_config, read_token
from rbee.contracts.configs import HiveConfig, KnownHive, QueenConfig
from rbee.daemons import app, logs


def run_hive(path: Path | None) -> None:
    """Runs this machine's hive until it is told to stop."""
    from rbee.daemons.hive.app import HiveDaemon

    paths = Paths.of_environment()
    config = read_config(HiveConfig, path or paths.hive_config)
    token = read_token(config.token_file, paths)
    logs.configure(f"hive/{config.hive_id}", secrets=[token.reveal()] if token else [])

    async def main(stop: asyncio.Event) -> None:
        daemon = HiveDaemon(config, paths, token)
        await daemon.start()
        try:
            await stop.wait()
        finally:
            await daemon.stop()

    app.run(main)


def run_queen(path: Path | None) -> None:
    """Runs the queen, and the local hive inside it, until it is told to stop. SIGHUP reads the settings again."""
    from rbee.daemons.queen.app import QueenDaemon

    paths = Paths.of_environment()
    reloads = _Reloads()
    signal.signal(signal.SIGHUP, lambda number, frame: reloads())
    where = path or paths.queen_config
    config = read_config(QueenConfig, where)
    token = read_token(config.token_file, paths)
    logs.configure("queen", secrets=[token.reveal()] if token else [])

    async def main(stop: asyncio.Event) -> None:
        queen = QueenDaemon(config, paths, token, reread=lambda: read_config(QueenConfig, where))
        # The hive first: whoever sees the queen's runtime file finds both of them.
        async with _local_hive(config.local_hive, paths) as hive:
            await queen.start()
            try:
                if hive is not None:
                    queen.add_local_hive(hive)
                reloads.begin(queen.reload_quietly)
                await _first(stop.wait(), queen.ending.asked())
            finally:
                await queen.stop()

    app.run(main, hangup=reloads)


async def _first(*ways: Coroutine[Any, Any, object]) -> None:
    """Returns once one of these does."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class _Reloads:
    """SIGHUP, from before the settings are read: one that comes too early is made up for once there is a queen."""

    def __init__(self) -> None:
        self._reload: Callable[[], None] | None = None
        self._missed = False

    def __call__(self) -> None:
        if self._reload is None:
            self._missed = True
        else:
            self._reload()

    def begin(self, reload: Callable[[], None]) -> None:
        self._reload = reload
        if self._missed:
            reload()


@asynccontextmanager
async def _local_hive(config: HiveConfig | None, paths: Paths) -> AsyncIterator[KnownHive | None]:
    """The hive of this machine, running in this process for as long as the block."""
    if config is None:
        yield None
        return
    from rbee.daemons.hive.app import HiveDaemon

    hive = HiveDaemon(config, paths, read_token(config.token_file, paths))
    await hive.start(heartbeats=False)
    try:
        yield KnownHive(hive_id=config.hive_id, url=hive.url)
    finally:
        await hive.stop()
