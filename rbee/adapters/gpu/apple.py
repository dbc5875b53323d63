# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU of an Apple silicon machine, by the tools that every macOS has. It shares the machine's memory."""

from __future__ import annotations

import json
import plistlib
from dataclasses import dataclass
from typing import Any

import psutil

from rbee.adapters.gpu.host import Host, Said, Seen, mb, run
from rbee.core.records import Device

_SYSCTL = ("sysctl", "machdep.cpu.brand_string", "hw.memsize", "iogpu.wired_limit_mb")
_PROFILER = ("system_profiler", "SPDisplaysDataType", "-json")
_IOREG = ("ioreg", "-r", "-c", "IOAccelerator", "-d", "1", "-a")
_PLACES = ("usr/sbin", "usr/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The GPU as `system_profiler` has it."""

    name: str
    cores: int | None = None
    metal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """How it is now: bytes, percent."""

    used: int | None = None
    utilization: float | None = None


class Apple:
    """Keeps the profile, which takes a second to be told and does not change."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._profile: Profile | None = None

    def look(self) -> Seen:
        """`metal:0`, if this is an Apple silicon machine. Blocks; never raises."""
        sysctl = self._run(_SYSCTL)
        known = parse_sysctl(sysctl.text)
        brand = known.get("machdep.cpu.brand_string", "")
        if not brand.startswith("Apple"):
            # Metal of an Intel Mac is too little for a model, and no engine of ours is built for it.
            return Seen(error=sysctl.error if not brand else f"no Apple silicon ({brand})")
        said = Said()
        if self._profile is None:
            said = self._run(_PROFILER)
            self._profile = parse_profiler(said.text)
        ioreg = self._run(_IOREG)
        here = self._host.system == "darwin"
        available = int(psutil.virtual_memory().available) if here else None
        device = parse(known, self._profile, parse_ioreg(ioreg.text), available)
        error = "; ".join(e for e in (said.error, ioreg.error) if e)
        return Seen(devices=(device,), error=error or None, driver=True)

    def _run(self, argv: tuple[str, ...]) -> Said:
        return run(self._host, argv, *_PLACES)


def parse(known: dict[str, str], profile: Profile | None, live: Live, available: int | None) -> Device:
    """`metal:0`. Free is what the limit leaves, and never more than the machine has `available`."""
    total = working_set(_int(known.get("hw.memsize")), _int(known.get("iogpu.wired_limit_mb")))
    free = None if total is None or live.used is None else max(0, total - live.used)
    if free is not None and available is not None:
        free = min(free, available)
    return Device(
        id="metal:0",
        device_id=0,
        device_type="metal",
        name=profile.name if profile else known.get("machdep.cpu.brand_string", ""),
        vendor="Apple",
        vram_total_mb=mb(total),
        vram_used_mb=mb(live.used),
        vram_free_mb=mb(free),
        utilization_percent=live.utilization,
        compute_capability=profile.metal if profile else None,
        cores=profile.cores if profile else None,
    )


def working_set(memory: int | None, wired_limit_mb: int | None) -> int | None:
    """Bytes that the GPU may hold: what its administrator has set, else Metal's default.

    Metal tells it (`recommendedMaxWorkingSetSize`), but only to programs linked with it. Seen: two thirds of machines
    of 16, 24 and 32 GB (10.7, 16, 21.3), three quarters from 36 GB on (27 of 36, 48 of 64, 96 of 128); newer macOS
    gives some more (11.8 of 16, 107.5 of 128), so this never promises too much.
    """
    if wired_limit_mb:
        limit = wired_limit_mb * 2**20
        return limit if memory is None else min(limit, memory)
    if memory is None:
        return None
    return memory * 2 // 3 if memory < 36 * 2**30 else memory * 3 // 4


def parse_sysctl(text: str) -> dict[str, str]:
    """`name: value` lines; a name that this macOS does not know is missing."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon and value.strip()}


def parse_profiler(text: str) -> Profile | None:
    """The first of Apple's GPUs; None when there is none in it, or it is not understood."""
    try:
        cards = json.loads(text)["SPDisplaysDataType"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    for card in cards if isinstance(cards, list) else ():
        if isinstance(card, dict) and "apple" in str(card.get("spdisplays_vendor", "")).lower():
            family = card.get("spdisplays_mtlgpufamilysupport") or card.get("spdisplays_metalfamily") or ""
            family = str(family).removeprefix("spdisplays_")
            name = card.get("sppci_model") or card.get("_name") or "Apple GPU"
            return Profile(name=str(name), cores=_int(card.get("sppci_cores")), metal=family or None)
    return None


def parse_ioreg(text: str) -> Live:
    """The accelerator's own statistics; empty when they are not understood."""
    try:
        entries = plistlib.loads(text.encode(), fmt=plistlib.FMT_XML)
    except Exception:  # what expat and plistlib raise on bad input differs by version
        return Live()
    for entry in entries if isinstance(entries, list) else ():
        found: Any = entry.get("PerformanceStatistics") if isinstance(entry, dict) else None
        if isinstance(found, dict) and str(entry.get("IOClass", "AGX")).startswith("AGX"):
            used, busy = found.get("In use system memory"), found.get("Device Utilization %")
            return Live(
                used=used if isinstance(used, int) and used >= 0 else None,
                utilization=min(100.0, max(0.0, float(busy))) if isinstance(busy, int | float) else None,
            )
    return Live()


def _int(said: Any) -> int | None:
    return int(said) if str(said).isdigit() and len(str(said)) < 19 else None
