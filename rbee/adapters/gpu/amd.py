# SPDX-License-Identifier: GPL-3.0-or-later
"""AMD devices: by `amd-smi`, and without it (or when it fails) by what the kernel says itself."""

from __future__ import annotations

from dataclasses import replace

from rbee.adapters.gpu import amd_smi, amd_sysfs
from rbee.adapters.gpu.host import Host, Seen, Use, run
from rbee.core.records import Device

#: Where AMD's packages put the tool, which no PATH of a service has.
_PLACE = "opt/rocm/bin"


class Amd:
    """Keeps what does not change of the cards, because the tool takes most of a second to say it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._static: tuple[amd_smi.Static, ...] = ()

    def look(self) -> Seen:
        """The cards of this machine. Blocks; never raises."""
        cards = amd_sysfs.read(self._host)
        driver = bool(cards) or (self._host.root / "sys/module/amdgpu").is_dir()
        told = self._by_tool()
        if isinstance(told, tuple):
            return Seen(devices=told, driver=driver)
        devices = amd_sysfs.parse(cards, amd_sysfs.names(self._host) if cards else "")
        if told is None:
            none = "amd-smi is not installed, and the kernel shows no AMD GPU"
            return Seen(devices=devices, error=None if devices else none)
        return Seen(devices=devices, error=told, driver=driver)

    def glance(self) -> Seen:
        """As `look`, but by the kernel alone once the tool has told which cards there are: it takes a process and most
        of a second, which is too much for what a heartbeat says of them."""
        cards = {card.bdf: card for card in amd_sysfs.read(self._host)}
        if not self._static or any(s.shared_memory or s.bdf not in cards for s in self._static):
            return self.look()
        seen = amd_sysfs.parse(tuple(cards[s.bdf] for s in self._static))
        named = zip(seen, self._static, strict=True)
        devices = (replace(d, id=f"rocm:{s.index}", device_id=s.index, name=s.name) for d, s in named)
        return Seen(devices=tuple(devices), driver=True)

    def _by_tool(self) -> tuple[Device, ...] | str | None:
        """Devices, or why the tool does not tell them; None when there is no such tool."""
        try:
            if not self._static:
                said = run(self._host, ("amd-smi", "static", "--json"), _PLACE)
                if said.error is not None:
                    return None if said.missing else said.error
                self._static = amd_smi.parse_static(said.text)
            said = run(self._host, ("amd-smi", "metric", "--json"), _PLACE)
            if said.error is not None:
                self._static = ()
                return None if said.missing else said.error
            devices = amd_smi.parse_metric(said.text, self._static)
        except amd_smi.NotUnderstood as e:
            self._static = ()
            return str(e)
        if {d.device_id for d in devices} != {card.index for card in self._static}:
            self._static = ()
        return devices or "amd-smi tells of no cards"

    def uses(self) -> tuple[Use, ...]:
        """Processes with memory of a card. Blocks; never raises.

        The kernel tells by card what the tool may tell only as a sum, but only of processes that this user may look
        into: the others are the tool's.
        """
        places = {card.bdf: card.index for card in self._static if card.bdf}
        places = places or {card.bdf: index for index, card in enumerate(amd_sysfs.read(self._host))}
        own = amd_sysfs.uses(self._host, places)
        said = run(self._host, ("amd-smi", "process", "--json"), _PLACE)
        try:
            others = () if said.error is not None else amd_smi.parse_processes(said.text)
        except amd_smi.NotUnderstood:
            others = ()
        seen = {use.pid for use in own if use.vram_mb}
        return (*(use for use in own if use.pid in seen), *(use for use in others if use.pid not in seen))
