# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee-hive` as a machine runs it: a process of its own, with directories of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rbee.adapters.paths import Paths, write_atomic
from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig
from tests.support.hive import HiveClient, settings
from tests.support.ports import free_port, free_range
from tests.support.waiting import eventually


@dataclass(frozen=True, slots=True)
class HiveProcess:
    """One that runs. `process` tells what it takes."""

    paths: Paths
    config: HiveConfig
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://{self.config.listen}"


def place(root: Path) -> Paths:
    """Directories of a machine, as XDG variables name them."""
    return Paths(**{name: root / name / "rbee" for name in ("config", "cache", "data", "state")})


@contextmanager
def hive_process(root: Path, **changes: Any) -> Iterator[HiveProcess]:
    """Started; whether it answers, `ready` tells. Its log is `root`/hive.log."""
    paths = place(root)
    config = settings(free_range(), listen=f"127.0.0.1:{free_port()}", **changes)
    write_atomic(paths.hive_config, codec.encode_pretty(config), 0o600)
    env = os.environ | {f"XDG_{name.upper()}_HOME": str(root / name) for name in ("config", "cache", "data", "state")}
    with (root / "hive.log").open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "rbee.cli.daemons", "hive"],
            env=env,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )
    try:
        yield HiveProcess(paths, config, psutil.Process(daemon.pid))
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)


async def ready(hive: HiveClient) -> None:
    """Returns once it answers."""

    async def answers() -> bool:
        try:
            async with hive.session.get(f"{hive.url}/readyz") as answer:
                return answer.status == 200
        except OSError:
            return False

    await eventually(answers)
