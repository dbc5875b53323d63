# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole lab: up, the bad days by host name, down without a trace."""

from __future__ import annotations

import atexit
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from . import client, disks, faults, net, registry
from .base import base_tree
from .hosts import Host
from .lifetime import register, remove
from .registry import LabRecord, Owner
from .requirements import require_machine
from .shell import LabError, run
from .traits import host_traits


class Lab:
    """A running lab of hosts h1, h2, ...; a context manager that takes itself down.

    `hosts` by name; `controller_ip` is where hosts reach a server of the test; `home` is a HOME whose
    `.ssh` knows all hosts, `ssh_config` the config file in it (for `ssh -F`).
    """

    def __init__(self, record: LabRecord) -> None:
        self.record = record
        self.id = record.id
        self.controller_ip = f"{record.subnet}.1"
        self.home = record.directory / "controller"
        self.ssh_config = self.home / ".ssh/config"
        self.hosts = {host.name: Host(record, host) for host in record.hosts}

    @classmethod
    def up(
        cls, count: int, traits: Mapping[str, str] | None = None, *, name: str | None = None, keep: bool = False
    ) -> Lab:
        """Make a lab of `count` hosts, `traits` by host name (`{"h2": "nopython,home=64"}`), ready for SSH.

        It belongs to this process and goes with it, at the latest when the next lab is made, unless `keep`.
        Labs of dead processes are collected first. Raises LabUnavailable (the reason) where this machine
        cannot have a lab, LabError for bad arguments and a host that does not come up; nothing stays then.
        """
        if not 1 <= count <= net.MOST_HOSTS:
            raise LabError(f"a lab has 1 to {net.MOST_HOSTS} hosts, not {count}")
        wanted = host_traits(count, traits or {})
        require_machine()
        tree = base_tree()
        record = register(wanted, name, None if keep else Owner.this_process())
        try:
            return cls(record)._build(tree)
        except BaseException:
            remove(record)
            raise

    @classmethod
    def find(cls, name: str | None = None) -> Lab:
        """The lab with this id, or the only one there is that was made by hand; raises LabError else."""
        found = [record for record in registry.records() if name == record.id or (name is None and not record.owner)]
        if len(found) != 1:
            names = ", ".join(record.id for record in registry.records()) or "none"
            asked = f"no lab {name!r}" if name else f"{len(found)} labs made by hand"
            raise LabError(f"which lab? {asked}; there are: {names}")
        return cls(found[0])

    def _build(self, tree: Path) -> Lab:
        if self.record.owner:
            atexit.register(self.down)
        disks.prepare(self.record.directory, tree)
        net.plug_in(self.record)
        client.create(self.home)
        for host in self.hosts.values():
            self._new_disk(host, tree)
            host.start(tree)
        for host in self.hosts.values():
            host.wait_ready()
        client.write_config(self.home, self.hosts.values())
        return self

    def _new_disk(self, host: Host, tree: Path) -> None:
        names = [(self.controller_ip, "controller"), *((other.ip, other.name) for other in self.hosts.values())]
        login_key = (self.home / ".ssh/id_ed25519.pub").read_text()
        disks.create(host.disk, host.record, tree=tree, names=names, login_key=login_key)

    def down(self) -> None:
        """Remove all of it: processes, mounts, links, namespaces, files. Nothing happens the second time."""
        atexit.unregister(self.down)
        remove(self.record)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    # ------------------------------------------------------------ bad days, by host name

    def partition(self, *names: str) -> None:
        """Nothing passes between these hosts and anybody."""
        for host in self.pick(names):
            faults.partition(host)

    def heal(self, *names: str) -> None:
        """End partitions and freezes; all hosts when none is named."""
        for host in self.pick(names or tuple(self.hosts)):
            faults.heal(host)

    def freeze(self, *names: str) -> None:
        """Every process of these hosts stands still until `heal`."""
        for host in self.pick(names):
            faults.freeze(host)

    def kill(self, *names: str) -> None:
        """Cut the power. Disks stay, /run and /tmp do not."""
        for host in self.pick(names):
            host.stop()

    def boot(self, *names: str) -> None:
        """Switch on those that are off, all when none is named; returns when they take SSH connections."""
        off = [host for host in self.pick(names or tuple(self.hosts)) if host.init is None]
        for host in off:
            host.start(base_tree())
        for host in off:
            host.wait_ready()

    def reboot(self, *names: str) -> None:
        """`kill` and `boot`."""
        self.kill(*names)
        self.boot(*names)

    def reimage(self, *names: str) -> None:
        """Give these hosts the disk of a new machine, with the host key they first had; plugged in, on."""
        for host in self.pick(names):
            host.stop()
            disks.wipe(host.disk)
            self._new_disk(host, base_tree())
        self.boot(*names)
        self.heal(*names)

    def rekey(self, *names: str) -> None:
        """New SSH host keys, which the lab's known_hosts does not know until `trust`."""
        for host in self.pick(names):
            faults.rekey(host)

    def trust(self) -> None:
        """Make known_hosts say what the hosts' keys are now."""
        client.write_config(self.home, self.hosts.values())

    def fill(self, *names: str, leave: int = 0) -> None:
        """Fill the home disks (trait `home`), leaving about `leave` bytes."""
        for host in self.pick(names):
            faults.fill(host, leave=leave)

    def unfill(self, *names: str) -> None:
        for host in self.pick(names):
            faults.unfill(host)

    def ssh(self, name: str, *argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """The system's `ssh` to a host with the lab's config; `argv` goes to the remote shell as it is."""
        return run("ssh", "-F", self.ssh_config, name, *argv, check=False, timeout=timeout)

    def pick(self, names: tuple[str, ...]) -> list[Host]:
        if strange := [name for name in names if name not in self.hosts]:
            raise LabError(f"no such host: {', '.join(strange)} (there are {', '.join(self.hosts)})")
        return [self.hosts[name] for name in names]
