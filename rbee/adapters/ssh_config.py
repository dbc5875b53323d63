# SPDX-License-Identifier: GPL-3.0-or-later
"""~/.ssh/config as OpenSSH means it, `Include` too, for Fabric and paramiko, which do not know that word."""

from __future__ import annotations

import glob
import os
import re
import shlex
from pathlib import Path

from fabric import Config
from paramiko import SSHConfig
from paramiko.ssh_exception import ConfigParseError

from rbee.core.errors import RbeeError

#: Overrides ~/.ssh/config and the system's (as `ssh -F` does).
VARIABLE = "RBEE_SSH_CONFIG"
_WORD = re.compile(r"^\s*(host|match|include)(?:\s*=\s*|\s+)(.*?)\s*$", re.IGNORECASE)
_DEEPEST = 16


def files() -> list[Path]:
    """The files that count, most important first."""
    said = os.environ.get(VARIABLE)
    if said:
        return [Path(said).expanduser()]
    return [Path.home() / ".ssh" / "config", Path("/etc/ssh/ssh_config")]


def flat_text(path: Path, depth: int = 0, block: str = "Host *") -> str:
    """The text of a file with every `Include` put in its place; a file that is not there is empty."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    out = []
    for line in text.splitlines():
        found = _WORD.match(line)
        if found is None:
            out.append(line)
        elif found.group(1).lower() != "include":
            block = line
            out.append(line)
        elif depth < _DEEPEST:
            for pattern in shlex.split(found.group(2)):
                where = Path(pattern).expanduser()
                base = Path("/etc/ssh") if path.is_relative_to("/etc/ssh") else Path.home() / ".ssh"
                for name in sorted(glob.glob(str(base / where))):  # noqa: PTH207 - patterns may be absolute
                    # What was included may have begun blocks of its own: go back to the one we are in.
                    out += [block, flat_text(Path(name), depth + 1, block), block]
    return "\n".join(out) + "\n"


def load(paths: list[Path] | None = None) -> Config:
    """Fabric's settings with nothing but these SSH config files. Raises RbeeError when one cannot be read."""
    paths = files() if paths is None else paths
    text = "".join(f"Host *\n{flat_text(path)}" for path in paths)
    try:
        return Config(ssh_config=SSHConfig.from_text(text), lazy=True)
    except (ConfigParseError, ValueError) as e:
        shown = ", ".join(map(str, paths))
        raise RbeeError(f"The SSH config ({shown}) cannot be read: {e}", code="ssh_config") from None
