# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.apply.fabric_probe SSH_CONFIG HOST...`: the yardstick. One Fabric connection and one run of
rbee's own probe for each host, ten hosts at once, and nothing else: no plan, no queen, no jobs."""

from __future__ import annotations

import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fabric import Config, Connection
from paramiko import SSHConfig

from rbee.contracts import defaults
from rbee.fleet import commands


def look(host: str, config: Config) -> dict[str, Any]:
    """What the probe tells of a host."""
    # In the command, not by standard input: Invoke hands that on byte by byte, with pauses.
    asked = json.dumps({"libraries": ["libgomp.so.1"], "capabilities": True})
    line = f"echo {shlex.quote(asked)} | python3 -c {shlex.quote(commands.program('probe').decode())}"
    with Connection(host, config=config) as connection:
        told = connection.run(line, hide=True, in_stream=False)
    lines = [line for line in told.stdout.splitlines() if line.startswith("rbee: ")]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("rbee: "))
    return found


def main() -> None:
    config = Config(ssh_config=SSHConfig.from_text(Path(sys.argv[1]).read_text(encoding="utf-8")))
    with ThreadPoolExecutor(defaults.PARALLELISM) as pool:
        found = list(pool.map(lambda host: look(host, config), sys.argv[2:]))
    up = sum("capabilities" in about for about in found)
    print(f"{up} hives of {len(found)} hosts answered")


if __name__ == "__main__":
    main()
