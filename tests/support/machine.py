# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine of a test's own on this one: rbee's four directories below a temporary place, over a real sshd."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rbee.adapters import ssh_config
from rbee.adapters.ssh import SshShell
from rbee.core.facts import MachineFacts
from rbee.core.spec import Ssh
from rbee.fleet.facts import observe
from tests.support.sshd import Sshd

VARIABLES = {"config": "XDG_CONFIG_HOME", "cache": "XDG_CACHE_HOME", "data": "XDG_DATA_HOME", "state": "XDG_STATE_HOME"}


@dataclass
class Machine:
    """`facts` are those of the probe, over SSH; `home` has the four directories."""

    shell: SshShell
    home: Path

    @classmethod
    def make(cls, sshd: Sshd, name: str, home: Path) -> Machine:
        """Daemons started there are detached and leave nothing for the next boot."""
        environment = {variable: str(home / k) for k, variable in VARIABLES.items()}
        sshd.start(name, environment={**environment, "RBEE_SUPERVISOR": "detached"})
        return cls(SshShell(name, Ssh(host=name), ssh_config.load([sshd.config])), home)

    @property
    def facts(self) -> MachineFacts:
        return observe(self.shell, python=sys.executable).facts

    def with_facts(self, **changes: object) -> MachineFacts:
        return replace(self.facts, **changes)  # type: ignore[arg-type]
