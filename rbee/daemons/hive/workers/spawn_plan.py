# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request for a worker comes to on this machine: its model, device and engine, and what it will need."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from rbee.adapters import gguf, mlc, system
from rbee.adapters.catalog import ModelCatalog, WorkerBinaryCatalog
from rbee.contracts.configs import HiveConfig, WorkerConfig
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.records import Device, ModelRecord
from rbee.daemons.access import is_loopback, split_address
from rbee.daemons.hive.heartbeat import Heartbeat
from rbee.daemons.hive.machine.devices import Devices
from rbee.daemons.hive.workers import admission, sizing
from rbee.daemons.hive.workers.remembered import Case, Remembered
from rbee.daemons.hive.workers.sizing import Needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`config` lacks what the supervisor gives. `memory`: bytes that the machine has available."""

    model: ModelRecord
    device: Device
    needs: Needs
    memory: int
    config: WorkerConfig


class Planner:
    """Looks at models, devices and engines, and decides; starts nothing."""

    def __init__(
        self,
        config: HiveConfig,
        token_file: Path | None,
        models: ModelCatalog,
        binaries: WorkerBinaryCatalog,
        devices: Devices,
        heartbeat: Heartbeat,
        memory: Remembered,
    ) -> None:
        self._config = config
        self._token_file = token_file
        self._models = models
        self._binaries = binaries
        self._devices = devices
        self._heartbeat = heartbeat
        self._memory = memory

    async def plan(self, request: WorkerSpawn) -> Plan:
        """Raises RbeeError for everything that cannot be, but for what is taken by others at the moment."""
        admission.check_port(request.port, self._config.worker_ports)
        records = await asyncio.to_thread(self._models.list)
        model = admission.model_ready(request.model, records)
        seen = await self._devices.detect()
        device = admission.choose_device(request, seen.devices, seen.reasons, seen.broken)
        info = await asyncio.to_thread(system.info, Path(model.path))
        entries = await asyncio.to_thread(self._binaries.entries)
        engine = admission.choose_engine(request, model, entries, info.cpu_flags, info.arch)
        assert engine.provider is not None
        header = await asyncio.to_thread(_header, model)
        admission.check_task(request, engine.provider, header)
        needs = sizing.needs_of(request, model, header)
        queen_url, queen_trusted = self._queen_of(request)
        config = WorkerConfig(
            worker_id=request.worker_id or "",
            hive_id=self._config.hive_id,
            fleet=self._config.fleet,
            model=model.id,
            model_path=model.path,
            provider=engine.provider,
            engine_python=engine.artifact.python,
            worker_type=request.worker,
            device=device.id,
            listen="",
            url="",
            queen_url=queen_url,
            queen_trusted=queen_trusted,
            token_file=str(self._token_file) if self._token_file else None,
            options=request.options,
            heartbeat_interval=self._config.heartbeat_interval,
            idle_timeout=request.idle_timeout or None,
        )
        case = case_of(model, config, needs.slots, needs.context_length)
        if (measured := await asyncio.to_thread(self._memory.predicted, case)) is not None:
            needs = replace(needs, memory=measured, basis="measured")
        admission.check_options(request, engine.provider, needs)
        return Plan(model=model, device=device, needs=needs, memory=info.memory_available, config=config)

    def _queen_of(self, request: WorkerSpawn) -> tuple[str | None, bool]:
        """Where the worker sends its heartbeats, and whether that address may be shown the fleet's token: on an open
        listener any user of this machine may have named it."""
        known, found = self._config.queen_url, self._heartbeat
        url = request.queen_url or known or found.queen_url
        guarded = not is_loopback(split_address(self._config.listen)[0])
        return url, guarded or url == known or (url == found.queen_url and found.trusted)


def case_of(model: ModelRecord, config: WorkerConfig, slots: int, context_length: int | None) -> Case:
    """What the memory of a worker depends on."""
    return Case(
        model=model.checksum or f"{model.id} {model.size_bytes}",
        engine=f"{config.provider.name} {config.provider.version}",
        worker_type=config.worker_type,
        context_length=context_length,
        slots=slots,
        batch_size=config.options.batch_size,
        task=config.options.task,
    )


def files_of(model: ModelRecord) -> list[Path]:
    """The files of its weights and all others that it has."""
    path = Path(model.path)
    folder = path if model.format == "mlc" else path.parent
    return [folder / file.name for file in model.files] or [path]


def _header(model: ModelRecord) -> gguf.GgufHeader | mlc.MlcModel | None:
    """What the model's files say, which must be whole. Raises RbeeError `invalid_model`."""
    if model.format == "mlc":
        return mlc.check_whole(Path(model.path))
    return gguf.check_whole(Path(model.path)) if model.format == "gguf" else None
