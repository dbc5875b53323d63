# SPDX-License-Identifier: GPL-3.0-or-later
"""Other people's gateways, each in an environment of its own that is made here; left out where it can't be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """`requirement` is pinned; `command` gives the argv behind the environment's `bin`."""

    name: str
    requirement: str

    @property
    def folder(self) -> Path:
        """Where its environment is kept between runs, by version."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "rbee-bench" / self.requirement.replace("[", "-").replace("]", "").replace("==", "-")

    def make(self, say: Callable[[str], None]) -> str:
        """Makes its environment unless it is there; why it can't be had, or nothing."""
        done = self.folder / ".made"
        if done.exists():
            return ""
        say(f"installing {self.requirement}")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        for argv in (
            [sys.executable, "-m", "venv", "--clear", str(self.folder)],
            [str(self.folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", self.requirement],
        ):
            made = subprocess.run(argv, capture_output=True, text=True, timeout=900)
            if made.returncode:
                return (made.stderr.strip().splitlines() or ["it failed"])[-1]
        done.touch()
        return ""

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)


VLLM_ROUTER = Peer("vllm-router", "vllm-router==0.1.17")
SGLANG_ROUTER = Peer("sglang-router", "sglang-router==0.3.2")
LITELLM = Peer("LiteLLM", "litellm[proxy]==1.106.2")
