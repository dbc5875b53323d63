# SPDX-License-Identifier: GPL-3.0-or-later
"""The real `rbee` in a home of its own: own files, own ports, nothing shared with the machine or other tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.ports import free_port, free_range


@dataclass(slots=True)
class Ran:
    rc: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]


@dataclass(slots=True)
class RbeeHome:
    """A user's home with an rbee.yaml; `queen`, `hive` and `ports` are what its file should use."""

    root: Path
    queen: int = field(default_factory=free_port)
    hive: int = field(default_factory=free_port)
    ports: tuple[int, int] = field(default_factory=lambda: free_range(8))
    extra_env: dict[str, str] = field(default_factory=dict)

    @property
    def yaml(self) -> Path:
        return self.root / "rbee.yaml"

    @property
    def state(self) -> Path:
        return self.root / "state" / "rbee"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.queen}"

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RBEE_", "XDG_", "COVERAGE"))}
        return {
            **kept,
            "HOME": str(self.root),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "XDG_DATA_HOME": str(self.root / "data"),
            "XDG_STATE_HOME": str(self.root / "state"),
            "NO_COLOR": "1",
            "COLUMNS": "200",
            **self.extra_env,
        }

    def write(self, text: str) -> None:
        """rbee.yaml; `{queen}`, `{hive}` and `{ports}` in the text become this home's own."""
        filled = text.replace("{queen}", str(self.queen)).replace("{hive}", str(self.hive))
        self.yaml.write_text(filled.replace("{ports}", f"{self.ports[0]}-{self.ports[1]}"), encoding="utf-8")

    def start(self, *args: str, **kw: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "rbee.cli", *args], cwd=self.root, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw,
        )  # fmt: skip

    def run(self, *args: str, timeout: float = 120.0, rc: int | None = None, stdin: bytes = b"") -> Ran:
        """Run `rbee ARGS`; with `rc` given, another status is a failure that shows what was printed."""
        done = subprocess.run(
            [sys.executable, "-m", "rbee.cli", *args], cwd=self.root, env=self.env, input=stdin,
            capture_output=True, timeout=timeout,
        )  # fmt: skip
        ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert rc is None or ran.rc == rc, f"rbee {' '.join(args)}: {ran.rc}\n{ran.out}\n{ran.err}\n{self.logs()}"
        return ran

    def processes(self) -> list[psutil.Process]:
        """Everything that runs with this home's environment, this program's children or not."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("XDG_STATE_HOME") == str(self.root / "state"):
                    found.append(process)
        return [p for p in found if p.pid != os.getpid()]

    def logs(self) -> str:
        """Last lines of every log, for a failing test."""
        logs = [*self.state.glob("*.log"), *self.state.glob("workers/*/*.log")]
        return "\n".join(f"--- {p}\n" + "\n".join(p.read_text(errors="replace").splitlines()[-15:]) for p in logs)

    def close(self) -> None:
        """End everything of this home, whatever state it is in."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(self.processes(), timeout=10)


ONE = """\
version: 1
fleet: test
queen: {listen: "127.0.0.1:{queen}"}
hives:
  here: {listen: "127.0.0.1:{hive}", worker_ports: {ports}}
models:
  bee-tiny: {source: builtin:bee-tiny}
workers:
  chat: {model: bee-tiny, device: cpu, options: {context_length: 256, parallel: 2}}
aliases: {gpt-4o-mini: bee-tiny}
"""


@contextlib.contextmanager
def rbee_home(root: Path, text: str = ONE) -> Iterator[RbeeHome]:
    home = RbeeHome(root)
    home.write(text)
    try:
        yield home
    finally:
        home.close()
