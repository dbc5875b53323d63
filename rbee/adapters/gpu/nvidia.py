# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA devices by NVML (package nvidia-ml-py, which needs only the driver's own library)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rbee.adapters.gpu.host import Host, Seen, Use, mb
from rbee.core.records import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What NVML says of one GPU: bytes, degrees Celsius, milliwatts, percent. None: the card does not tell."""

    index: int
    name: str
    memory_total: int | None = None
    memory_free: int | None = None
    memory_used: int | None = None
    temperature: int | None = None
    power: int | None = None
    fan: int | None = None
    utilization: int | None = None
    compute_capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A process on card `index`, as one of NVML's lists has it; `used` in bytes. Of a card that is cut by MIG,
    `part` tells its slices apart."""

    index: int
    pid: int
    used: int | None = None
    part: tuple[int | None, int | None] = (None, None)
    graphics: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Cards in NVML's order; `error` says why there are none, or not all."""

    cards: tuple[Card, ...] = ()
    running: tuple[Running, ...] = ()
    error: str | None = None


def read(nvml: Any = None, *, processes: bool = False) -> Reading:
    """Ask NVML. Without a driver, or with one that fails, no cards and the reason; never raises.

    NVML is opened for each reading and closed again: held open, it would keep the driver from being updated and the
    cards from sleeping, and would never see a card that came back. `nvml` is the library's module.
    """
    if nvml is None:
        try:
            import pynvml

            nvml = pynvml
        except ImportError:
            return Reading(error="nvidia-ml-py is not installed")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as e:
        return Reading(error=str(e))
    cards, running, errors = [], list[Running](), []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            # One card that is lost must not hide the others.
            try:
                cards.append(_card(nvml, index))
                if processes:
                    running += _running(nvml, index)
            except nvml.NVMLError as e:
                errors.append(f"GPU {index}: {e}")
    except nvml.NVMLError as e:
        errors.append(str(e))
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
    return Reading(cards=tuple(cards), running=tuple(running), error="; ".join(errors) or None)


def _card(nvml: Any, index: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(question: Callable[..., Any], *more: Any) -> Any:
        """None where this card has no such sensor, MIG hides it, or this user may not see it; raises when it is
        lost."""
        try:
            return question(handle, *more)
        except nvml.NVMLError_GpuIsLost:
            raise
        except nvml.NVMLError:
            return None

    name = nvml.nvmlDeviceGetName(handle)
    memory, rates = ask(nvml.nvmlDeviceGetMemoryInfo), ask(nvml.nvmlDeviceGetUtilizationRates)
    return Card(
        index=index,
        name=name.decode() if isinstance(name, bytes) else name,
        memory_total=memory.total if memory else None,
        memory_free=memory.free if memory else None,
        memory_used=memory.used if memory else None,
        temperature=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        power=ask(nvml.nvmlDeviceGetPowerUsage),
        fan=ask(nvml.nvmlDeviceGetFanSpeed),
        utilization=rates.gpu if rates else None,
        compute_capability=ask(nvml.nvmlDeviceGetCudaComputeCapability),
    )


def _running(nvml: Any, index: int) -> Iterator[Running]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    for graphics, question in (
        (False, nvml.nvmlDeviceGetComputeRunningProcesses),
        (True, nvml.nvmlDeviceGetGraphicsRunningProcesses),
    ):
        try:
            listed = question(handle)
        except nvml.NVMLError:
            continue
        for entry in listed:
            part = getattr(entry, "gpuInstanceId", None), getattr(entry, "computeInstanceId", None)
            yield Running(index=index, pid=entry.pid, used=entry.usedGpuMemory, part=part, graphics=graphics)


def parse(reading: Reading) -> tuple[Device, ...]:
    """Devices `cuda:N` of a reading. N is NVML's index: workers get CUDA_DEVICE_ORDER=PCI_BUS_ID to agree with it."""
    return tuple(
        Device(
            id=f"cuda:{card.index}",
            device_id=card.index,
            device_type="cuda",
            name=card.name,
            vendor="NVIDIA",
            vram_total_mb=mb(card.memory_total),
            vram_free_mb=mb(card.memory_free),
            vram_used_mb=mb(card.memory_used),
            temperature_celsius=None if card.temperature is None else float(card.temperature),
            power_usage_watts=None if card.power is None else card.power / 1000,
            fan_speed_percent=None if card.fan is None else float(card.fan),
            utilization_percent=None if card.utilization is None else float(card.utilization),
            compute_capability=".".join(map(str, card.compute_capability)) if card.compute_capability else None,
        )
        for card in reading.cards
    )


def parse_uses(reading: Reading) -> tuple[Use, ...]:
    """Processes by card. One that computes and draws is in both lists with the same memory; one that has several
    MIG slices is in a list once for each."""
    found: dict[tuple[int, int], dict[tuple[int | None, int | None], int | None]] = {}
    for entry in reading.running:
        parts = found.setdefault((entry.index, entry.pid), {})
        known = parts.get(entry.part)
        parts[entry.part] = entry.used if known is None or entry.used is None else max(known, entry.used)
        if entry.used is None:
            parts[entry.part] = known
    return tuple(
        Use(device=f"cuda:{index}", pid=pid, vram_mb=mb(sum(known)) if known else None)
        for (index, pid), parts in found.items()
        for known in ([used for used in parts.values() if used is not None],)
    )


def look(host: Host, nvml: Any = None) -> Seen:
    """The cards of this machine."""
    reading = read(nvml)
    driver = (host.root / "proc/driver/nvidia/version").exists() or (host.root / "dev/nvidiactl").exists()
    return Seen(devices=parse(reading), error=reading.error, driver=driver)
