# SPDX-License-Identifier: GPL-3.0-or-later
"""Where rbee keeps its files on a machine (XDG), and the one way to write one."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """The four roots; every other path is made from them."""

    config: Path
    cache: Path
    data: Path
    state: Path

    @classmethod
    def of_environment(cls) -> Paths:
        """XDG_*_HOME of this process, or their defaults under the home directory."""

        def root(name: str, default: str) -> Path:
            said = os.environ.get(name)
            return (Path(said) if said else Path.home() / default) / "rbee"

        return cls(
            config=root("XDG_CONFIG_HOME", ".config"),
            cache=root("XDG_CACHE_HOME", ".cache"),
            data=root("XDG_DATA_HOME", ".local/share"),
            state=root("XDG_STATE_HOME", ".local/state"),
        )

    @property
    def models(self) -> Path:
        return self.cache / "models"

    @property
    def worker_binaries(self) -> Path:
        return self.cache / "workers"

    @property
    def releases(self) -> Path:
        return self.data / "releases"

    @property
    def token(self) -> Path:
        return self.config / "token"

    @property
    def queen_config(self) -> Path:
        return self.config / "queen.json"

    @property
    def hive_config(self) -> Path:
        return self.config / "hive.json"

    @property
    def workers(self) -> Path:
        """One directory for each worker process: its config, mark, log."""
        return self.state / "workers"


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write to a temporary name in the same directory, fsync, rename: readers see the old file or the new.

    The file has `mode` from its first byte on. Raises OSError (disk full, no permission); then nothing changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as f:
            os.fchmod(f.fileno(), mode)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
