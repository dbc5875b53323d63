# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings files that `rbee apply` writes for the daemons (`~/.config/rbee/*.json`, mode 0600).

They hold no secret, only the name of the token's file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rbee.contracts import codec, defaults
from rbee.core.digest import digest
from rbee.core.providers import EngineProvider
from rbee.core.records import Mark
from rbee.core.sources import SourceProvider
from rbee.core.spec import PolicySpec, Ssh, WorkerOptions
from rbee.core.spec_queen import KeySpec, LimitsSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveConfig:
    """`hive.json`. `listen` is `address:port`; a `token_file` is required for any bind but loopback."""

    hive_id: str
    fleet: str
    listen: str = defaults.HIVE_LISTEN
    token_file: str | None = None
    #: Where this hive's workers send heartbeats; None until a queen is known.
    queen_url: str | None = None
    worker_ports: tuple[int, int] = defaults.WORKER_PORTS
    heartbeat_interval: float = defaults.HEARTBEAT_INTERVAL
    #: The fleet's own model sources, beside those that come with rbee.
    sources: tuple[SourceProvider, ...] = ()
    #: What preloaded models may take together; None: half of what is available when one is to be preloaded.
    preload_budget_mb: int | None = None
    release: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHive:
    """A hive that the queen discovers; `url` is reachable from the queen."""

    hive_id: str
    url: str
    labels: dict[str, str] = field(default_factory=dict)
    #: How the apply that registered it reached the machine, so that a later one can clean it up.
    ssh: Ssh | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A declared model, live or not: `/v1/models` lists it either way."""

    name: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWorker:
    """A worker process that the file describes, placed: what the queen starts when it is wanted and not there.

    `on_demand`: beyond its `min` replicas; only the queen starts it, and only such a one makes room for others.
    """

    worker_id: str
    spec_name: str
    model: str
    hive_id: str
    worker_type: str
    engine: str
    device: int = 0
    options: WorkerOptions = field(default_factory=WorkerOptions)
    idle_timeout: float | None = None
    mark: Mark | None = None
    on_demand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueenConfig:
    """`queen.json`. Clients use `listen`; hives on other machines use `fleet_listen` (token required there)."""

    fleet: str
    listen: str = defaults.QUEEN_LISTEN
    fleet_listen: tuple[str, ...] = ()
    token_file: str | None = None
    hives: tuple[KnownHive, ...] = ()
    models: tuple[KnownModel, ...] = ()
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    policies: dict[str, PolicySpec] = field(default_factory=dict)
    workers: tuple[KnownWorker, ...] = ()
    keys: dict[str, KeySpec] = field(default_factory=dict)
    limits: LimitsSpec = field(default_factory=LimitsSpec)
    #: URL of PostgreSQL, without a password; None: `queen.db` beside the other data.
    store: str | None = None
    store_password_file: str | None = None
    traces: str | None = None
    access_log: bool = True
    #: The hive of this machine, run inside the queen's process.
    local_hive: HiveConfig | None = None
    release: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Settings of one worker process, written by its hive. `engine_python` has the engine importable."""

    worker_id: str
    hive_id: str
    fleet: str
    model: str
    model_path: str
    provider: EngineProvider
    engine_python: str
    worker_type: str
    device: str
    listen: str
    #: As the queen reaches it.
    url: str
    queen_url: str | None = None
    #: Whether that address may be shown the token: not when anyone on the machine may have named it.
    queen_trusted: bool = True
    token_file: str | None = None
    options: WorkerOptions = field(default_factory=WorkerOptions)
    heartbeat_interval: float = defaults.HEARTBEAT_INTERVAL
    #: Seconds without a request after which its hive unloads it.
    idle_timeout: float | None = None
    state_dir: str = ""


#: Settings of the queen that she reads again without a restart.
RELOADABLE = ("hives", "models", "aliases", "policies", "workers", "keys", "limits", "access_log")


def boot_digest(config: QueenConfig) -> str:
    """Digest of the settings that ask for a restart when they change (addresses, token, local hive)."""
    boot = {k: v for k, v in codec.to_mapping(config).items() if k not in (*RELOADABLE, "release")}
    if config.local_hive is not None:
        boot["local_hive"] = {k: v for k, v in boot["local_hive"].items() if k != "release"}
    return digest(boot)


def config_digest(config: HiveConfig | QueenConfig) -> str:
    """Digest that `capabilities` and `Status` report: apply restarts or reloads a daemon whose digest differs."""
    return digest(codec.plain(config))
