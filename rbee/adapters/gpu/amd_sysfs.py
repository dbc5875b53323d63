# SPDX-License-Identifier: GPL-3.0-or-later
"""AMD cards as the kernel's own driver tells of them, without any tool: /sys/class/drm and /proc/PID/fdinfo."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rbee.adapters.gpu.host import Host, Use, mb
from rbee.core.records import Device

_VENDOR = "0x1002"
_IDS = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")
_FILES = ("vendor", "device", "product_name", "mem_info_vram_total", "mem_info_vram_used", "gpu_busy_percent")
_SENSORS = ("temp1_input", "temp2_input", "power1_average", "power1_input", "pwm1", "pwm1_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the files of one card say, by file name; `bdf` is its place on the PCI bus."""

    bdf: str
    files: Mapping[str, str] = field(default_factory=dict)


def read(host: Host) -> tuple[Card, ...]:
    """AMD's cards that have memory, in the order of the bus; never raises."""
    found = {}
    for place in (host.root / "sys/class/drm").glob("card*"):
        device = place / "device"
        if not re.fullmatch(r"card[0-9]+", place.name) or host.text(str(device), "vendor") != _VENDOR:
            continue
        files = {name: host.text(str(device), name) for name in _FILES}
        for monitor in sorted(device.glob("hwmon/hwmon*")):
            files |= {name: text for name in _SENSORS if (text := host.text(str(monitor), name))}
        if files["mem_info_vram_total"]:
            bdf = Path(os.path.realpath(device)).name.lower()
            found[bdf] = Card(bdf=bdf, files={k: v for k, v in files.items() if v})
    return tuple(found[bdf] for bdf in sorted(found))


def parse(cards: tuple[Card, ...], pci_ids: str = "") -> tuple[Device, ...]:
    """Devices `rocm:N`, N in the order of the bus, as amd-smi counts them. `pci_ids` is the file that names cards."""
    return tuple(_device(index, card, pci_ids) for index, card in enumerate(cards))


def _device(index: int, card: Card, pci_ids: str) -> Device:
    total, used = mb(_number(card, "mem_info_vram_total")), mb(_number(card, "mem_info_vram_used"))
    heat, fan = _number(card, "temp1_input"), _number(card, "pwm1")
    # The large cards have no sensor at the edge, which is the first; the second is the hottest spot.
    heat = _number(card, "temp2_input") if heat is None else heat
    power = _number(card, "power1_average")
    power = _number(card, "power1_input") if power is None else power
    code = card.files.get("device", "")
    return Device(
        id=f"rocm:{index}",
        device_id=index,
        device_type="rocm",
        name=card.files.get("product_name") or parse_name(pci_ids, code) or f"AMD GPU {code}".strip(),
        vendor="AMD",
        vram_total_mb=total,
        vram_used_mb=used,
        vram_free_mb=None if total is None or used is None else max(0, total - used),
        temperature_celsius=None if heat is None else heat / 1000,
        power_usage_watts=None if power is None else power / 1e6,
        fan_speed_percent=None if fan is None else round(100 * fan / (_number(card, "pwm1_max") or 255), 1),
        utilization_percent=_number(card, "gpu_busy_percent"),
    )


def _number(card: Card, name: str) -> float | None:
    text = card.files.get(name, "")
    return float(text) if text.isdigit() and len(text) < 19 else None


def names(host: Host) -> str:
    """The text of the machine's list of PCI devices; empty without one."""
    return next((text for place in _IDS if (text := host.text(place))), "")


def parse_name(pci_ids: str, device: str) -> str | None:
    """A card's name by its device id (`0x744c`)."""
    mine = False
    for line in pci_ids.splitlines():
        if line and not line.startswith(("\t", "#")):
            mine = line.startswith("1002")
        elif mine and line.startswith(f"\t{device.removeprefix('0x').lower()}  "):
            return line[7:].strip()
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One opening of a card by a process; a process may hold it by several descriptors."""

    bdf: str
    client: str
    vram: int


def parse_fdinfo(text: str) -> Client | None:
    """The card's side of a descriptor; None when it is of no AMD card or tells no memory.

    `drm-resident-vram` is the newer word for what `drm-memory-vram` was.
    """
    said = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    said = {key.strip(): value.strip() for key, value in said.items()}
    used = said.get("drm-resident-vram", said.get("drm-memory-vram", ""))
    match = re.fullmatch(r"([0-9]{1,15})(?: (KiB|MiB))?", used)
    if said.get("drm-driver") != "amdgpu" or match is None:
        return None
    size = int(match[1]) * {"KiB": 2**10, "MiB": 2**20}.get(match[2] or "", 1)
    return Client(bdf=said.get("drm-pdev", "").lower(), client=said.get("drm-client-id", ""), vram=size)


def uses(host: Host, indexes: Mapping[str, int]) -> tuple[Use, ...]:
    """Memory by process and card, of the processes that this user may look into (its own, or all for root).

    `indexes` numbers the cards by their place on the bus. Blocks for some milliseconds.
    """
    found: dict[tuple[int, str], dict[str, int]] = {}
    for pid, text in _descriptors(host.root / "proc"):
        client = parse_fdinfo(text)
        if client is not None and client.bdf in indexes:
            # Without an id a descriptor cannot be told from its copies: the largest counts.
            clients = found.setdefault((pid, client.bdf), {})
            clients[client.client] = max(client.vram, clients.get(client.client, 0))
    return tuple(
        Use(device=f"rocm:{indexes[bdf]}", pid=pid, vram_mb=sum(clients.values()) // 2**20)
        for (pid, bdf), clients in sorted(found.items())
    )


def _descriptors(proc: Path) -> Iterator[tuple[int, str]]:
    """What is said of each descriptor that is open on a card."""
    for process in proc.glob("[0-9]*"):
        for descriptor in _listed(process / "fd"):
            try:
                if str(descriptor.readlink()).startswith("/dev/dri/"):
                    yield int(process.name), (process / "fdinfo" / descriptor.name).read_text()
            except OSError:  # closed meanwhile
                continue


def _listed(folder: Path) -> list[Path]:
    """Empty when the process is gone meanwhile, or is another user's."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
