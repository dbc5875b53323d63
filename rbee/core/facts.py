# SPDX-License-Identifier: GPL-3.0-or-later
"""What one probe of a machine tells: the machine itself, what rbee has on it, what rbee runs on it.

Made by `rbee.fleet.facts.parse` from the probe's JSON; nothing else makes one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rbee.core.records import Mark, ModelRecord, WorkerBinary

Supervisor = Literal["systemd-user", "launchd", "detached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """An interpreter found on the machine. `tag` is the ABI tag of its wheels, such as `cp311`."""

    path: str
    version: tuple[int, int, int]
    tag: str = ""

    @property
    def shown(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Free bytes, and whether this user may write there (or make it)."""

    path: str
    free: int
    writable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """rbee's four directories on the machine (XDG, ending in `/rbee`), as its daemons will see them."""

    config: str
    cache: str
    data: str
    state: str

    @property
    def releases(self) -> str:
        return f"{self.data}/releases"

    @property
    def engines(self) -> str:
        return f"{self.cache}/workers"

    @property
    def models(self) -> str:
        return f"{self.cache}/models"

    @property
    def wheels(self) -> str:
        return f"{self.cache}/wheels"

    @property
    def token(self) -> str:
        return f"{self.config}/token"

    @property
    def hive_config(self) -> str:
        return f"{self.config}/hive.json"

    @property
    def queen_config(self) -> str:
        return f"{self.config}/queen.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """An rbee installed on the machine. `python` is its interpreter; `mark` says whose it is."""

    id: str
    path: str
    python: str
    mark: Mark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A queen or hive that left a runtime file; `alive`: its pid runs and is the process that wrote the file."""

    name: Literal["queen", "hive"]
    pid: int
    alive: bool
    url: str = ""
    fleet: str = ""
    hive_id: str = ""
    release: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """A worker's directory on the machine, and whether its process lives; seen even when the hive is down.

    `status` is what its hive last wrote down.
    """

    worker_id: str
    pid: int
    alive: bool
    status: str = ""
    model: str = ""
    engine: str = ""
    fleet: str = ""
    spec_digest: str = ""
    idle_timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A settings file: `digest` is that of `rbee.contracts.configs.config_digest`, `fleet` whose it is."""

    digest: str
    fleet: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """The fleet's token on the machine: first 16 hex digits of its SHA-256, and its mode (0o600 is right)."""

    digest: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """One machine at one moment. Memory and disk in bytes.

    `python` is None when none new enough was found (`old_pythons` then says what there is), and then only
    `os`, `arch`, `home` and the addresses are known. `libraries` answers for the ones that were asked.
    """

    os: str
    arch: str
    home: str
    platform: str = ""
    hostname: str = ""
    user: str = ""
    python: Python | None = None
    old_pythons: tuple[Python, ...] = ()
    #: Modules of the standard library that rbee needs and this Python lacks (a minimal install).
    missing_modules: tuple[str, ...] = ()
    libc: str = ""
    libc_version: tuple[int, int] = (0, 0)
    cpu_cores: int = 0
    cpu_flags: frozenset[str] = frozenset()
    memory_total: int = 0
    memory_available: int = 0
    roots: Roots = Roots(config="", cache="", data="", state="")
    disks: dict[str, Disk] = field(default_factory=dict)
    libraries: dict[str, bool] = field(default_factory=dict)
    #: How many GPUs the kernel shows, by device type (`cuda`); the hive's own look at them is the exact one.
    gpus: dict[Literal["cuda", "metal", "rocm"], int] = field(default_factory=dict)
    supervisor: Supervisor = "detached"
    #: systemd-user only: whether its daemons outlive the login and start at boot.
    linger: bool = False
    #: Addresses of the SSH connection as the machine sees it: the controller's, and its own.
    client_address: str | None = None
    server_address: str | None = None
    releases: tuple[Release, ...] = ()
    engines: tuple[WorkerBinary, ...] = ()
    models: tuple[ModelRecord, ...] = ()
    workers: tuple[WorkerProcess, ...] = ()
    hive: Daemon | None = None
    queen: Daemon | None = None
    hive_config: ConfigFile | None = None
    queen_config: ConfigFile | None = None
    token: TokenFile | None = None
