# SPDX-License-Identifier: GPL-3.0-or-later
"""The devices of a machine. Each backend is a reading and a pure parser; a missing driver is a reason, no error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rbee.adapters.gpu import cpu, nvidia
from rbee.adapters.gpu.host import Host, Seen, Use
from rbee.core.records import Device

if TYPE_CHECKING:
    from rbee.adapters.gpu.amd import Amd
    from rbee.adapters.gpu.apple import Apple

__all__ = ["Detected", "Gpus", "Host", "Seen", "Use", "detect"]


@dataclass(frozen=True, slots=True)
class Detected:
    """`reasons` says, by backend, why it has no devices, or not all; `broken` are those of which the driver is there,
    so that something should be mended."""

    devices: tuple[Device, ...]
    reasons: dict[str, str] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()


class Gpus:
    """Looks at one machine, again and again. Everything here blocks (a driver may take a second to wake) and nothing
    raises; one thread at a time."""

    def __init__(self, host: Host | None = None) -> None:
        self._host = host or Host()
        self._amd: Amd | None = None
        self._apple: Apple | None = None

    def detect(self, cores: int, *, glance: bool = False) -> Detected:
        """Every device, the CPU first. A `glance` tells memory and heat of the same devices with less effort."""
        seen = self._apple_seen() if self._host.system == "darwin" else self._linux_seen(glance)
        devices = [cpu.device(cores, self._host)]
        for found in seen.values():
            devices += found.devices
        return Detected(
            tuple(devices),
            {name: found.error for name, found in seen.items() if found.error},
            frozenset(name for name, found in seen.items() if found.error and found.driver),
        )

    def uses(self, devices: tuple[Device, ...]) -> tuple[Use, ...]:
        """Which processes have memory of which of these devices. Asks only the drivers of those that are there."""
        kinds = {device.device_type for device in devices}
        found: tuple[Use, ...] = ()
        if "cuda" in kinds:
            found += nvidia.parse_uses(nvidia.read(processes=True))
        if "rocm" in kinds and self._amd is not None:
            found += self._amd.uses()
        here = {device.id for device in devices}
        return tuple(use for use in found if use.device in here)

    # Parsers of drivers that are not there are not loaded: an idle hive is small.

    def _linux_seen(self, glance: bool) -> dict[str, Seen]:
        if self._amd is None:
            from rbee.adapters.gpu.amd import Amd

            self._amd = Amd(self._host)
        return {"nvidia": nvidia.look(self._host), "amd": self._amd.glance() if glance else self._amd.look()}

    def _apple_seen(self) -> dict[str, Seen]:
        if self._apple is None:
            from rbee.adapters.gpu.apple import Apple

            self._apple = Apple(self._host)
        return {"apple": self._apple.look()}


def detect(cores: int) -> Detected:
    """Every device of this machine, once."""
    return Gpus().detect(cores)
