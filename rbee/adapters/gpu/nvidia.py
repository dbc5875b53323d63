# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA devices by NVML (package nvidia-ml-py, which needs only the driver's own library)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rbee.core.records import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What NVML says of one GPU: bytes, degrees Celsius, milliwatts. None: the card does not tell."""

    index: int
    name: str
    memory_total: int | None = None
    memory_free: int | None = None
    memory_used: int | None = None
    temperature: int | None = None
    power: int | None = None
    compute_capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Cards in NVML's order; `error` says why there are none."""

    cards: tuple[Card, ...] = ()
    error: str | None = None


def read() -> Reading:
    """Ask NVML. Without a driver, or with one that fails, no cards and the reason; never raises."""
    try:
        import pynvml
    except ImportError:
        return Reading(error="nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as e:
        return Reading(error=str(e))
    try:
        cards, errors = [], []
        for index in range(pynvml.nvmlDeviceGetCount()):
            # One card that is lost must not hide the others.
            try:
                cards.append(_card(pynvml, index))
            except pynvml.NVMLError as e:
                errors.append(f"GPU {index}: {e}")
        return Reading(cards=tuple(cards), error="; ".join(errors) or None)
    except pynvml.NVMLError as e:
        return Reading(error=str(e))
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _card(nvml: Any, index: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(question: Callable[..., Any], *more: Any) -> Any:
        """None where this card has no such sensor (or MIG hides it)."""
        try:
            return question(handle, *more)
        except nvml.NVMLError:
            return None

    name = nvml.nvmlDeviceGetName(handle)
    memory = ask(nvml.nvmlDeviceGetMemoryInfo)
    return Card(
        index=index,
        name=name.decode() if isinstance(name, bytes) else name,
        memory_total=memory.total if memory else None,
        memory_free=memory.free if memory else None,
        memory_used=memory.used if memory else None,
        temperature=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        power=ask(nvml.nvmlDeviceGetPowerUsage),
        compute_capability=ask(nvml.nvmlDeviceGetCudaComputeCapability),
    )


def parse(reading: Reading) -> tuple[Device, ...]:
    """Devices `cuda:N` of a reading. N is NVML's index: workers get CUDA_DEVICE_ORDER=PCI_BUS_ID to agree with it."""
    return tuple(
        Device(
            id=f"cuda:{card.index}",
            device_id=card.index,
            device_type="cuda",
            name=card.name,
            vendor="NVIDIA",
            vram_total_mb=_mb(card.memory_total),
            vram_free_mb=_mb(card.memory_free),
            vram_used_mb=_mb(card.memory_used),
            temperature_celsius=None if card.temperature is None else float(card.temperature),
            power_usage_watts=None if card.power is None else card.power / 1000,
            compute_capability=".".join(map(str, card.compute_capability)) if card.compute_capability else None,
        )
        for card in reading.cards
    )


def _mb(size: int | None) -> int | None:
    return None if size is None else size // 2**20
