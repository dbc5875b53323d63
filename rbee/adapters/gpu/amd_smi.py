# SPDX-License-Identifier: GPL-3.0-or-later
"""What `amd-smi ... --json` says, as pure parsers. Its shapes differ between releases, and all are read here.

ROCm 6 prints a list of cards, ROCm 7 an object with that list in `gpu_data` (but not for `process`). A number is
bare, or text with its unit, or `{"value": 1, "unit": "W"}`; what a card does not tell is `"N/A"` in any of these
places. Warnings may stand before the JSON. Its MB are 2^20 bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rbee.adapters.gpu.host import Use
from rbee.core.records import Device

_UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
#: Memory of the machine itself: the card is part of the processor.
_SHARED = re.compile(r"(LP)?DDR[0-9]", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """What does not change of a card; `bdf` is its place on the PCI bus."""

    index: int
    name: str
    bdf: str
    gfx: str | None = None
    shared_memory: bool = False


class NotUnderstood(Exception):
    """What came is not what this tool says."""


def parse_static(text: str) -> tuple[Static, ...]:
    """Raises NotUnderstood."""
    found = []
    for index, card in _cards(text):
        asic, vram = _table(card, "asic"), _table(card, "vram")
        found.append(
            Static(
                index=index,
                name=_word(asic, "market_name") or _word(_table(card, "board"), "product_name") or "AMD GPU",
                bdf=(_word(_table(card, "bus"), "bdf") or "").lower(),
                gfx=_word(asic, "target_graphics_version"),
                shared_memory=bool(_SHARED.match(_word(vram, "type") or "")),
            )
        )
    return tuple(found)


def parse_metric(text: str, static: tuple[Static, ...]) -> tuple[Device, ...]:
    """Devices `rocm:N`, N being amd-smi's index. Raises NotUnderstood.

    A GPU that is part of the processor has two memories, one set aside and one lent by the machine (GTT): an
    engine can use both, so both are counted.
    """
    known = {card.index: card for card in static}
    return tuple(_device(index, card, known.get(index)) for index, card in _cards(text))


def _device(index: int, card: dict[str, Any], static: Static | None) -> Device:
    memory, power, fan = _table(card, "mem_usage"), _table(card, "power"), _table(card, "fan")
    total, used = megabytes(memory.get("total_vram")), megabytes(memory.get("used_vram"))
    if static is not None and static.shared_memory:
        total, used = _sum(total, memory.get("total_gtt")), _sum(used, memory.get("used_gtt"))
    heat = _table(card, "temperature")
    return Device(
        id=f"rocm:{index}",
        device_id=index,
        device_type="rocm",
        name=static.name if static else "AMD GPU",
        vendor="AMD",
        vram_total_mb=total,
        vram_used_mb=used,
        vram_free_mb=None if total is None or used is None else max(0, total - used),
        # The large cards (MI300) have no edge sensor.
        temperature_celsius=_first(heat, "edge", "hotspot", "mem"),
        power_usage_watts=_first(power, "socket_power", "current_socket_power", "average_socket_power"),
        fan_speed_percent=_fan(fan),
        utilization_percent=_percent(_first(_table(card, "usage"), "gfx_activity")),
        compute_capability=static.gfx if static else None,
    )


def parse_processes(text: str) -> tuple[Use, ...]:
    """Processes by card. Raises NotUnderstood.

    Some releases list a process under each card with the sum over all of them: the same number everywhere. Then it
    stands at the first card, and the others have it unknown.
    """
    found: list[tuple[int, int, int | None]] = []
    for index, card in _cards(text):
        listed = card.get("process_list", card.get("process_info"))
        for entry in listed if isinstance(listed, list) else [listed]:
            info = entry.get("process_info", entry) if isinstance(entry, dict) else None
            # "No running processes detected" stands where a process would.
            if not isinstance(info, dict) or (pid := number(info.get("pid"))) is None or pid <= 0:
                continue
            vram = _table(info, "memory_usage").get("vram_mem", info.get("vram_mem", info.get("mem_usage")))
            found.append((index, int(pid), size(vram)))
    uses, told = [], set[tuple[int, int]]()
    for index, pid, used in found:
        repeated = used is not None and used > 0 and (pid, used) in told
        told.add((pid, used or 0))
        vram = None if used is None or repeated else used // 2**20
        uses.append(Use(device=f"rocm:{index}", pid=pid, vram_mb=vram))
    return tuple(uses)


def number(said: Any) -> float | None:
    """The number in any of the shapes that it has; None for N/A."""
    if isinstance(said, dict):
        said = said.get("value")
    if isinstance(said, str):
        match = re.match(r"\s*(-?[0-9]+(?:\.[0-9]+)?)", said)
        said = float(match[1]) if match else None
    if isinstance(said, bool) or not isinstance(said, int | float) or not abs(said) < 1e18:
        return None
    return float(said)


def size(said: Any, unit: str = "B") -> int | None:
    """Bytes; `unit` is that of a bare number."""
    value = number(said)
    if isinstance(said, dict) and isinstance(said.get("unit"), str) and said["unit"] != "N/A":
        unit = said["unit"]
    elif isinstance(said, str):
        unit = said.strip().partition(" ")[2] or unit
    factor = _UNITS.get(unit.strip().upper().replace("IB", "B"))
    return None if value is None or factor is None or value < 0 else int(value * factor)


def megabytes(said: Any) -> int | None:
    """MB; a bare number is in MB already, as this tool tells memory of cards."""
    found = size(said, "MB")
    return None if found is None else found // 2**20


def _cards(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each card with its index. Raises NotUnderstood."""
    start = re.search(r"^\s*[\[{]", text, re.MULTILINE)
    try:
        said = json.loads(text[start.start() :]) if start else None
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        said = said.get("gpu_data")
    if not isinstance(said, list):
        raise NotUnderstood(f"amd-smi says what is no list of cards: {text.strip()[:100]!r}")
    for place, card in enumerate(said):
        if isinstance(card, dict):
            index = number(card.get("gpu"))
            yield (place if index is None else int(index)), card


def _table(card: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of a card; empty where it is missing or N/A."""
    found = card.get(key)
    return found if isinstance(found, dict) else {}


def _word(table: dict[str, Any], key: str) -> str | None:
    found = table.get(key)
    return found if isinstance(found, str) and found not in ("", "N/A") else None


def _first(table: dict[str, Any], *keys: str) -> float | None:
    return next((found for key in keys if (found := number(table.get(key))) is not None), None)


def _sum(one: int | None, other: Any) -> int | None:
    return None if one is None else one + (megabytes(other) or 0)


def _percent(value: float | None) -> float | None:
    return None if value is None else min(100.0, max(0.0, value))


def _fan(fan: dict[str, Any]) -> float | None:
    usage, speed, most = number(fan.get("usage")), number(fan.get("speed")), number(fan.get("max"))
    if usage is None and speed is not None and most:
        usage = speed / most * 100
    return None if usage is None else _percent(round(usage, 1))
