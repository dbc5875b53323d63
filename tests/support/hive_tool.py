# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine of a test's own on which `rbee-hive` is typed: real processes, with a daemon or without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rbee.adapters import process
from rbee.adapters.paths import Paths, write_atomic
from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig, KnownHive, QueenConfig
from tests.support.hive import install_engine, settings
from tests.support.ports import free_port, free_range
from tests.support.waiting import until
from tests.support.workers import ROOT, llama_cpp

RBEE = [sys.executable, "-m", "rbee.cli"]
ARGV = [sys.executable, "-m", "rbee.cli.daemons", "hive"]


class Typed:
    """What a command said, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[Any]:
        """Of `-o json`."""
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"


class HiveMachine:
    """`bare`: nothing was ever applied here. Whatever workers are left are ended with the block."""

    def __init__(self, root: Path, *, bare: bool = False) -> None:
        self.root = root
        self.paths = Paths(**{k: root / k / "rbee" for k in ("config", "cache", "data", "state")})
        names = {"config": "CONFIG", "cache": "CACHE", "data": "DATA", "state": "STATE"}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RBEE_")}
        self.env = kept | {f"XDG_{v}_HOME": str(root / k) for k, v in names.items()} | {"NO_COLOR": "1"}
        self.config = settings(free_range(), listen=f"127.0.0.1:{free_port()}")
        if not bare:
            self.write(self.config)
            install_engine(self.paths, llama_cpp())

    def write(self, config: HiveConfig) -> None:
        self.config = config
        write_atomic(self.paths.hive_config, codec.encode_pretty(config), 0o600)

    def begin(self, *words: str, tool: Sequence[str] = ARGV) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*tool, *words], env=self.env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    def end(self, begun: subprocess.Popen[str], seconds: float = 90) -> Typed:
        out, err = begun.communicate(timeout=seconds)
        return Typed(begun.returncode, out, err)

    def type(self, *words: str) -> Typed:
        """`rbee-hive WORDS`."""
        return self.end(self.begin(*words))

    def rbee(self, *words: str) -> Typed:
        """`rbee WORDS`, which asks the queen."""
        return self.end(self.begin(*words, tool=RBEE))

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[str]]:
        with (self.root / "hive.log").open("ab") as log:
            begun = subprocess.Popen(ARGV, env=self.env, cwd=ROOT, text=True, stdout=log, stderr=log)
        try:
            until(lambda: self._ready(begun), "the daemon")
            yield begun
        finally:
            begun.send_signal(signal.SIGTERM)
            begun.wait(60)

    @contextmanager
    def queen(self, *others: KnownHive) -> Iterator[str]:
        """A queen on the same machine who knows its hive (and others); her address."""
        known = KnownHive(hive_id=self.config.hive_id, url=f"http://{self.config.listen}")
        config = QueenConfig(fleet="test", listen=f"127.0.0.1:{free_port()}", hives=(known, *others))
        write_atomic(self.paths.queen_config, codec.encode_pretty(config), 0o600)
        with (self.root / "queen.log").open("ab") as log:
            begun = subprocess.Popen([*ARGV[:-1], "queen"], env=self.env, cwd=ROOT, stdout=log, stderr=log)
        try:
            until(lambda: answers(f"http://{config.listen}/readyz") or begun.poll() is not None, "the queen")
            assert begun.poll() is None, (self.root / "queen.log").read_text()
            yield f"http://{config.listen}"
        finally:
            begun.terminate()
            begun.wait(60)

    def _ready(self, begun: subprocess.Popen[str]) -> bool:
        assert begun.poll() is None, (self.root / "hive.log").read_text()
        return answers(f"http://{self.config.listen}/readyz")

    def clear(self) -> None:
        """End what was spawned here."""
        for found in self.paths.workers.glob("*/process.json"):
            told = json.loads(found.read_text())
            who = process.identify(int(told.get("pid") or 0))
            if who is not None and who.start_time == told.get("start_time"):
                process.stop(who, 5)


def answers(url: str) -> bool:
    """Whether `url` is answered well now."""
    try:
        with urllib.request.urlopen(url) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
