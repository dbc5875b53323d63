# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of SSH: a home directory with key, known_hosts and config that know the lab's hosts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from . import disks
from .base import USER
from .hosts import Host

COMMON = """\
Host *
  User {user}
  IdentityFile {ssh}/id_ed25519
  IdentitiesOnly yes
  UserKnownHostsFile {ssh}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 10
"""


def create(home: Path) -> str:
    """Make the directory and a fresh login key; the answer is its public half."""
    ssh = home / ".ssh"
    ssh.mkdir(parents=True)
    home.chmod(0o700)
    ssh.chmod(0o700)
    disks.new_key(ssh / "id_ed25519")
    return (ssh / "id_ed25519.pub").read_text()


def write_config(home: Path, hosts: Iterable[Host]) -> None:
    """Write `config` and `known_hosts` for hosts by name and address, with the keys they have now."""
    ssh, config, known = home / ".ssh", [], []
    for host in hosts:
        jump = f"  ProxyJump {host.traits.via}\n" if host.traits.via else ""
        config.append(f"Host {host.name}\n  HostName {host.ip}\n{jump}")
        kind, key = (host.disk.upper / f"{disks.HOST_KEY}.pub").read_text().split()[:2]
        known.append(f"{host.name},{host.ip} {kind} {key}\n")
    config.append(COMMON.format(user=USER, ssh=ssh))
    (ssh / "config").write_text("".join(config))
    (ssh / "known_hosts").write_text("".join(known))
