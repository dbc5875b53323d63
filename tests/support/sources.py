# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources for tests: those that come with rbee, pointed at a server on loopback."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rbee.adapters.sources import Source, build_sources, shipped_sources
from rbee.core.sources import SourceProvider


def pointed(shipped_name: str, endpoint: str, **changes: Any) -> SourceProvider:
    """A shipped provider at another endpoint, deaf to this machine's environment."""
    provider = next(p for p in shipped_sources() if p.name == shipped_name)
    quiet = {"endpoint": endpoint, "endpoint_env": None, "token_env": (), "hub_login": False}
    return replace(provider, **{**quiet, **changes})


def source_at(name: str, endpoint: str, config_dir: Path, **changes: Any) -> Source:
    return build_sources([pointed(name, endpoint, **changes)], config_dir)[0]


def give_token(config_dir: Path, name: str, token: str) -> None:
    """A private token file, as a user puts it there."""
    config_dir.mkdir(parents=True, exist_ok=True)
    file = config_dir / name
    file.touch(mode=0o600)
    file.write_text(token + "\n")
