# SPDX-License-Identifier: GPL-3.0-or-later
"""The devices of a machine. Each backend is a reading and a pure parser; a missing driver is a reason, no error."""

from __future__ import annotations

from dataclasses import dataclass, field

from rbee.adapters.gpu import cpu, nvidia
from rbee.core.records import Device


@dataclass(frozen=True, slots=True)
class Detected:
    """`reasons` says, by backend, why it has no devices."""

    devices: tuple[Device, ...]
    reasons: dict[str, str] = field(default_factory=dict)


def detect(cores: int) -> Detected:
    """Every device of this machine, the CPU first. Blocks (a driver may take a second to wake); never raises."""
    reading = nvidia.read()
    reasons = {"nvidia": reading.error} if reading.error else {}
    return Detected((cpu.device(cores), *nvidia.parse(reading)), reasons)
