# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad days: what can be done to a host of a running lab, and undone."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import BinaryIO

from . import disks, net
from .base import SSHD_PID
from .hosts import Host
from .shell import LabError

FILL = ".rbee-lab-fill"

RESTART_SSHD = f"""
old=$(cat {SSHD_PID})
kill "$old"
while kill -0 "$old" 2>/dev/null; do sleep 0.02; done
/usr/sbin/sshd -E /var/log/sshd.log
"""


def partition(host: Host) -> None:
    """Nothing passes between the host and anybody; its processes go on."""
    net.partition(host.lab, host.record)


def heal(host: Host) -> None:
    """End a partition and a freeze."""
    net.heal(host.lab, host.record)
    with contextlib.suppress(LabError):
        host.cgroup.freeze(False)


def freeze(host: Host) -> None:
    """Every process stands still; the network answers at its lowest level only. `thaw` or `heal` ends it."""
    host.cgroup.freeze(True)


def thaw(host: Host) -> None:
    host.cgroup.freeze(False)


def rekey(host: Host) -> None:
    """The host shows a new SSH host key from now on; the lab's known_hosts keeps the old one."""
    root = Path(f"/proc/{host.init}/root") if host.init else host.disk.upper
    disks.new_key(root / disks.HOST_KEY)
    if host.init:
        host.exec(["sh", "-c", RESTART_SSHD], user="root")
        host.wait_ready()


def fill(host: Host, *, leave: int = 0) -> None:
    """Use up the host's home disk but for `leave` bytes (rounded by its blocks); needs the trait `home`."""
    with _home_of(host).joinpath(FILL).open("wb", buffering=0) as file:
        # Blocks held back for delayed writes come free at the sync, hence the second time round.
        for size in (1 << 20, 4096, 1 << 20, 4096):
            _write_until_full(file, bytes(size))
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
        if leave:
            file.truncate(max(0, file.tell() - leave))
            os.fsync(file.fileno())


def unfill(host: Host) -> None:
    """Give back what `fill` used."""
    _home_of(host).joinpath(FILL).unlink(missing_ok=True)


def _home_of(host: Host) -> Path:
    if host.traits.home is None:
        raise LabError(f"{host.name}: to fill its home it needs a disk of its own there (trait home=MiB)")
    return host.disk.home


def _write_until_full(file: BinaryIO, block: bytes) -> None:
    try:
        while file.write(block) == len(block):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
