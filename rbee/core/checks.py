# SPDX-License-Identifier: GPL-3.0-or-later
"""What a schema cannot say about rbee.yaml: names that must be there, ports that must not meet. Pure.

Each check yields findings at paths of the file; the loader gives them their lines. What the schema refused
already is `damaged`: it may be named by others, and nothing is said of what it lacks.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rbee.core.document import Path
from rbee.core.policy import Compiler
from rbee.core.problems import Severity, did_you_mean
from rbee.core.providers import EngineProvider
from rbee.core.sources import SourceProvider
from rbee.core.spec import HiveSpec, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A problem at a path of the file; `key`: at its key rather than its value; `within`: so many characters into
    the text there."""

    path: Path
    summary: str
    detail: str = ""
    mend: str = ""
    key: bool = False
    severity: Severity = "error"
    within: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that checks look at: the complete spec, the names it has (damaged things too), and what is around."""

    spec: Spec
    #: As the aliases were written, before they were followed to models.
    aliases: Mapping[str, tuple[str, ...]]
    providers: Mapping[str, EngineProvider]
    builtins: tuple[str, ...]
    #: Where models may come from; with none known, nothing is said of a source's beginning.
    sources: tuple[SourceProvider, ...] = ()
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    damaged: Callable[..., bool] = lambda *path: False
    #: What is at a path of this machine: `file`, `directory` or `missing`.
    kind: Callable[[str], str] = lambda path: "file"
    #: What is wrong with a file of this machine that holds a key: summary and mend; None: nothing.
    secret: Callable[[str], tuple[str, str] | None] = lambda path: None
    #: The same of a file with a password.
    password: Callable[[str], tuple[str, str] | None] = lambda path: None
    #: Whether a module of Python is not installed on this machine.
    lacks: Callable[[str], bool] = lambda module: False
    #: This machine is the queen's: what she reads must be here.
    deploying: bool = False
    #: What checks policies' expressions; None: they are not checked.
    compile: Compiler | None = None

    def known(self, section: str) -> list[str]:
        """Names in a section, those of damaged things too."""
        found: Mapping[str, Any] = getattr(self.spec, section)
        return sorted({*found, *self.names.get(section, ())})


def split_address(listen: str) -> tuple[str, int]:
    """Host (without brackets) and port of `host:port`."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def port_range(worker_ports: str) -> tuple[int, int]:
    first, last = worker_ports.split("-")
    return int(first), int(last)


def check_machines(scene: Scene) -> Iterator[Finding]:
    """The queen's and the hives' addresses, ports and names."""
    yield from _ports(scene)
    yield from _local_hives(scene)
    yield from _same_machine(scene)
    yield from _meeting_ports(scene)


def _ports(scene: Scene) -> Iterator[Finding]:
    said: list[tuple[Path, str | None]] = [(("queen", "listen"), scene.spec.queen.listen)]
    said += [(("hives", name, "listen"), hive.listen) for name, hive in scene.spec.hives.items()]
    for path, listen in said:
        if listen is not None and not 0 < split_address(listen)[1] < 65536:
            yield Finding(path=path, summary=f"{listen} has no such port.", mend="Ports are 1 to 65535.")
    for name, hive in scene.spec.hives.items():
        first, last = port_range(hive.worker_ports)
        path = ("hives", name, "worker_ports")
        if first > last:
            mend = f"Write {last}-{first}."
            yield Finding(path=path, summary=f"{hive.worker_ports} ends before it begins.", mend=mend)
        elif not 0 < first <= last < 65536:
            yield Finding(path=path, summary=f"{hive.worker_ports} has no such ports.", mend="Ports are 1 to 65535.")
        if hive.ssh and hive.ssh.port is not None and not 0 < hive.ssh.port < 65536:
            summary = f"{hive.ssh.host}:{hive.ssh.port} has no such port."
            yield Finding(path=("hives", name, "ssh"), summary=summary, mend="Ports are 1 to 65535.")
        if hive.ssh and hive.listen and is_loopback(split_address(hive.listen)[0]):
            yield Finding(
                path=("hives", name, "listen"),
                summary=f"The queen cannot reach {hive.listen} on another machine.",
                detail="A loopback address is heard on its own machine only.",
                mend="Leave `listen` out, or write an address of that machine.",
            )


def _local_hives(scene: Scene) -> Iterator[Finding]:
    local = [name for name, hive in scene.spec.hives.items() if hive.local and not scene.damaged("hives", name)]
    for name in local[1:]:
        yield Finding(
            path=("hives", name),
            summary=f"The hives {local[0]!r} and {name!r} are both this machine.",
            detail="A hive without `ssh` is the machine where you apply; it has one hive.",
            mend="Say how to reach the other one: ssh: {host: ...}.",
            key=True,
        )


def _same_machine(scene: Scene) -> Iterator[Finding]:
    seen: dict[tuple[str, str | None, int | None], str] = {}
    for name, hive in scene.spec.hives.items():
        if hive.ssh is None:
            continue
        machine = (hive.ssh.host.lower().rstrip("."), hive.ssh.user, hive.ssh.port)
        first = seen.setdefault(machine, name)
        if first != name:
            yield Finding(
                path=("hives", name, "ssh"),
                summary=f"The hives {first!r} and {name!r} are the same machine.",
                detail=f"Both are {hive.ssh.host}; two hives would take each other's ports and files.",
                mend="Remove one of them.",
            )


def _meeting_ports(scene: Scene) -> Iterator[Finding]:
    """The queen, the hive of this machine and its workers share this machine's ports."""
    hive = scene.spec.local_hive
    if hive is None:
        return
    queen_host, queen_port = split_address(scene.spec.queen.listen)
    hive_host, hive_port = split_address(hive.listen or "127.0.0.1:7835")
    anywhere = {"0.0.0.0", "::"}
    if queen_port == hive_port and (queen_host == hive_host or anywhere & {queen_host, hive_host}):
        path: Path = ("hives", hive.name, "listen") if hive.listen else ("queen", "listen")
        yield Finding(
            path=path,
            summary=f"The queen and the hive {hive.name!r} both listen on port {queen_port} of this machine.",
            mend="Give one of them another port.",
        )
    first, last = port_range(hive.worker_ports)
    if first <= queen_port <= last < 65536:
        yield Finding(
            path=("queen", "listen"),
            summary=f"The queen's port {queen_port} is one of the workers' ({hive.worker_ports}).",
            mend=f"Give the queen another port, or the hive {hive.name!r} other `worker_ports`.",
        )


def unknown_name(path: Path, what: str, name: str, known: list[str], mend: str = "") -> Finding:
    """Finding for a name that nothing in the file has."""
    return Finding(path=path, summary=f"There is no {what} {name!r}.", mend=did_you_mean(name, known) or mend)


def fits(hive: HiveSpec, labels: Mapping[str, str]) -> bool:
    return all(hive.labels.get(key) == value for key, value in labels.items())
