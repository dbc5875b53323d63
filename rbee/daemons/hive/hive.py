# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything of a hive but its HTTP: what it holds, and a handler for each of its operations.

The daemon puts a server before it; `rbee-hive COMMAND` on a machine without a running daemon uses it as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from rbee.adapters import process, system
from rbee.adapters.catalog import ModelCatalog, WorkerBinaryCatalog
from rbee.adapters.paths import Paths
from rbee.adapters.secrets import Token
from rbee.adapters.sources import build_sources, shipped_sources
from rbee.contracts.configs import HiveConfig
from rbee.contracts.heartbeat import ModelChange, MonitorData
from rbee.core.lifecycle import Limits
from rbee.daemons import access
from rbee.daemons.hive.heartbeat import Heartbeat
from rbee.daemons.hive.machine.binary_ops import BinaryOps
from rbee.daemons.hive.machine.check_ops import CheckOps, KeptJob
from rbee.daemons.hive.machine.device_ops import DeviceOps
from rbee.daemons.hive.machine.devices import Devices
from rbee.daemons.hive.machine.hive_ops import HiveOps, only_for
from rbee.daemons.hive.machine.sight import Sight
from rbee.daemons.hive.machine.system_ops import SystemOps
from rbee.daemons.hive.models.download_ops import DownloadOps
from rbee.daemons.hive.models.downloads import Downloads
from rbee.daemons.hive.models.model_ops import ModelOps
from rbee.daemons.hive.models.preload import Preloader
from rbee.daemons.hive.models.preload_ops import PreloadOps
from rbee.daemons.hive.workers.remembered import Remembered
from rbee.daemons.hive.workers.spawn import Spawner
from rbee.daemons.hive.workers.spawn_plan import Planner
from rbee.daemons.hive.workers.supervisor import Supervisor
from rbee.daemons.hive.workers.worker_ops import WorkerOps
from rbee.daemons.jobs import Handler


class Hive:
    """`start`, then `stop`; not restartable. Must be made on the loop that it runs on. `limits`: how it cares for
    its workers."""

    def __init__(self, config: HiveConfig, paths: Paths, token: Token | None, limits: Limits | None = None) -> None:
        self.config = config
        self.paths = paths
        self._headers = token.header if token else {}
        self.listener = access.listener(config.listen, token)
        self.models = ModelCatalog(paths.models)
        self.binaries = WorkerBinaryCatalog(paths.worker_binaries)
        self.heartbeat = Heartbeat(
            config.hive_id, config.heartbeat_interval, paths.state / "hive.queen.json", self._headers, self._monitor
        )
        self.supervisor = Supervisor(
            paths.workers, self.listener.host, config.worker_ports, system.cores, self.heartbeat.worker_changed, limits
        )
        self.preloader = Preloader(lambda model: bool(self.supervisor.using(model)), config.preload_budget_mb)
        self.supervisor.find_model = self._find_model
        self.supervisor.on_begin = self.preloader.note_start
        #: Of models that came since the start.
        self.added_bytes = 0
        self.devices = Devices(self.supervisor.on_device)
        self.supervisor.vitals.vram_by_pid = self.devices.vram_by_pid
        #: The daemon's, which keeps jobs in a file.
        self.kept_job: KeptJob | None = None
        self.sight = Sight(config, paths, self.devices, self.models, self.binaries, self.supervisor)
        sources = build_sources((*shipped_sources(), *config.sources), paths.config)
        self.downloads = Downloads(self.models, sources, self._model_changed)
        self._token_file = _token_file(config, paths) if token else None
        self._lock: process.Lock | None = None

    def handlers(self) -> dict[str, Handler]:
        """A handler for each operation that a hive serves; each refuses what was meant for another hive."""
        return only_for(
            self.config.hive_id,
            ModelOps(self.models, self.downloads, self.supervisor).handlers(),
            DownloadOps(self.downloads).handlers(),
            WorkerOps(self.config.hive_id, self.supervisor, self._spawner()).handlers(),
            DeviceOps(self.devices, self.supervisor).handlers(),
            SystemOps(self.sight, self.supervisor).handlers(),
            BinaryOps(self.binaries).handlers(),
            PreloadOps(self.models, self.preloader).handlers(),
            HiveOps(
                self.config.hive_id,
                self.paths,
                self.sight,
                self.devices,
                self.supervisor,
                self.models,
                self.binaries,
                self.heartbeat,
            ).handlers(),
            CheckOps(
                self.config.hive_id,
                self.paths,
                self.devices,
                self.models,
                self.binaries,
                self.listener.host,
                self.config.worker_ports,
                lambda: self.kept_job,
            ).handlers(),
        )

    def _spawner(self) -> Spawner:
        memory = Remembered(self.paths.data / "memory.json")
        planner = Planner(
            self.config, self._token_file, self.models, self.binaries, self.devices, self.heartbeat, memory
        )
        spawner = Spawner(planner, self.supervisor, self.models, memory)
        spawner.locked = self.preloader.locked_bytes
        return spawner

    async def start(self, *, revive: bool = True, doing: str = "") -> None:
        """Take the machine's hive lock and adopt what runs. Raises Conflict when another hive of these paths runs.

        Without `revive` workers that died meanwhile are left to the next hive. `doing` tells whoever finds the lock
        taken what this one is about.
        """
        self._lock = process.hold(self.paths.state / "hive.lock", "A hive", doing)
        self.supervisor.revive = revive
        await asyncio.to_thread(self._tidy)
        await self.supervisor.start(self._headers)

    @property
    def held(self) -> bool:
        """Whether the machine's hive lock is this hive's."""
        return self._lock is not None

    def closing(self) -> None:
        """From now on a cancelled job leaves its worker running: the next hive takes it up."""
        self.supervisor.closing = True
        self.downloads.closing = True

    async def stop(self) -> None:
        """Stop downloads (their parts stay) and watching; keep the workers running; let go of the lock."""
        self.closing()
        await self.downloads.stop()
        await self.preloader.stop()
        await self.supervisor.stop()
        if self._lock is not None:
            self._lock.release()

    def _tidy(self) -> None:
        """Downloads that the hive before this one had running are told as what they are."""
        self.models.sweep()
        with contextlib.suppress(OSError):  # unreadable: those who ask are told
            self.binaries.refresh()
        self.downloads.recover(self.paths.models)

    def _model_changed(self, change: ModelChange) -> None:
        if change.action == "removed":
            self.preloader.forget(change.model_id)
        elif (record := self.models.get(change.model_id)) is not None:
            self.added_bytes += record.size_bytes
        self.heartbeat.model_changed(change)

    def _find_model(self, model_id: str) -> str | None:
        record = self.models.get(model_id)
        return record.path if record is not None and record.status == "available" else None

    async def _monitor(self) -> MonitorData:
        return await self.sight.monitor()


def _token_file(config: HiveConfig, paths: Paths) -> Path:
    return Path(config.token_file) if config.token_file else paths.token
