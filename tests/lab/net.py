# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's network: one bridge with no way out, and a second one behind jump hosts.

10.77.N.0/24 is the lab's. The controller is .1 on the bridge, hosts start at .11. Hosts that are reached
only through another one live in .128/25 on the inner bridge, where the controller has no address: to it
they are silent neighbours, never a packet for a default route.
"""

from __future__ import annotations

import re
from pathlib import Path

from .registry import HostRecord, LabRecord
from .shell import ip, run

FIRST, INNER = 10, 128
MOST_HOSTS = 100
LINKS = Path("/sys/class/net")
SPACES = Path("/run/netns")


def address(number: int, index: int, *, inner: bool) -> str:
    """The address of host number `index` (from 1) of lab `number`; `inner` for the side behind a jump host."""
    return f"10.77.{number}.{index + FIRST + (INNER if inner else 0)}"


def netns(lab: LabRecord, host: HostRecord) -> str:
    return f"{lab.prefix}-{host.name}"


def bridge(lab: LabRecord, host: HostRecord) -> str:
    """The bridge that the host's eth0 is plugged into."""
    return f"{lab.prefix}i" if host.traits.via else lab.prefix


def create_bridges(lab: LabRecord) -> None:
    """Make both bridges; from here on the lab's number is taken as far as the kernel knows."""
    ip(
        [
            f"link add {lab.prefix} type bridge",
            f"addr add {lab.subnet}.1/24 dev {lab.prefix}",
            f"link set {lab.prefix} up",
            f"link add {lab.prefix}i type bridge",
            f"link set {lab.prefix}i up",
        ]
    )


def plug_in(lab: LabRecord) -> None:
    """Give each host a network namespace and its links."""
    jumps = {host.traits.via for host in lab.hosts}
    outside: list[str] = []
    for host in lab.hosts:
        name = netns(lab, host)
        outside += [
            f"netns add {name}",
            f"link add {name} type veth peer name eth0 netns {name}",
            f"link set {name} master {bridge(lab, host)} up",
        ]
        if host.name in jumps:
            outside += [
                f"link add {name}i type veth peer name eth1 netns {name}",
                f"link set {name}i master {lab.prefix}i up",
            ]
    ip(outside)
    for host in lab.hosts:
        mask = 25 if host.traits.via else 24
        inside = ["link set lo up", f"addr add {host.ip}/{mask} dev eth0", "link set eth0 up"]
        if host.name in jumps:
            inner = address(lab.number, host.index, inner=True)
            inside += [f"addr add {inner}/25 dev eth1", "link set eth1 up"]
        ip(inside, netns=netns(lab, host))


def partition(lab: LabRecord, host: HostRecord) -> None:
    """Unplug the host from its bridge: its own side sees a link that is up and answers nothing."""
    ip([f"link set {link} nomaster" for link in _links(lab, host)])


def heal(lab: LabRecord, host: HostRecord) -> None:
    """Plug the host in again; nothing happens to one that is plugged in."""
    name = netns(lab, host)
    plugs = {name: bridge(lab, host), f"{name}i": f"{lab.prefix}i"}
    ip([f"link set {link} master {plugs[link]}" for link in _links(lab, host)])


def power(lab: LabRecord, host: HostRecord, *, on: bool) -> None:
    """Links go down with the machine, so that a dead host is silent instead of refusing connections."""
    ip([f"link set {link} {'up' if on else 'down'}" for link in _links(lab, host)])


def _links(lab: LabRecord, host: HostRecord) -> list[str]:
    name = netns(lab, host)
    return [link for link in (name, f"{name}i") if (LINKS / link).exists()]


def remove(prefix: str) -> None:
    """Remove every link and network namespace of the lab with this prefix; what is gone already is no error."""
    ours = re.compile(rf"{prefix}(i|-h\d+i?)?")
    for link in sorted(path.name for path in LINKS.iterdir() if ours.fullmatch(path.name)):
        run("ip", "link", "del", link, check=False)
    for space in sorted(SPACES.iterdir()) if SPACES.is_dir() else []:
        if ours.fullmatch(space.name):
            run("ip", "netns", "del", space.name, check=False)


def pids(prefix: str) -> list[int]:
    """Every process in a network namespace of the lab with this prefix."""
    ours = re.compile(rf"{prefix}-h\d+")
    names = [space.name for space in SPACES.iterdir() if ours.fullmatch(space.name)] if SPACES.is_dir() else []
    return [int(pid) for name in names for pid in run("ip", "netns", "pids", name, check=False).stdout.split()
            if pid.isdigit()]  # fmt: skip


def prefixes() -> set[str]:
    """The prefixes of all labs that the kernel knows something of."""
    names = [path.name for top in (LINKS, SPACES) if top.is_dir() for path in top.iterdir()]
    return {found[1] for name in names if (found := re.fullmatch(r"(rbl\d+)(?:i|-h\d+i?)?", name))}
