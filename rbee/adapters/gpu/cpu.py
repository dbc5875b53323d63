# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU as a device: every machine has this one."""

from __future__ import annotations

import platform
from pathlib import Path

from rbee.adapters.gpu.host import Host
from rbee.core.records import Device

#: Sensors of processors, by the names their drivers give them, and the reading that stands for the whole.
_DRIVERS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")
_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc_thermal", "soc-thermal")
_WHOLE = ("Package id 0", "Tdie", "Tctl")


def device(cores: int, host: Host | None = None) -> Device:
    """Device `cpu`, with the cores that this process may use."""
    host = host or Host()
    name, vendor = parse_cpuinfo(host.text("proc/cpuinfo"))
    return Device(
        id="cpu",
        device_id=0,
        device_type="cpu",
        name=name or platform.processor() or platform.machine(),
        vendor=vendor,
        cores=cores,
        temperature_celsius=temperature(host),
    )


def temperature(host: Host) -> float | None:
    """Degrees Celsius of the processor; None where nothing tells it (virtual machines, most containers)."""
    found: dict[str, float] = {}
    for monitor in sorted((host.root / "sys/class/hwmon").glob("hwmon*")):
        if host.text(str(monitor), "name") not in _DRIVERS:
            continue
        for file in sorted(monitor.glob("temp*_input")):
            heat = _celsius(host, file)
            if heat is not None:
                found.setdefault(host.text(str(file.with_name(file.name.replace("_input", "_label")))), heat)
    whole = next((found[label] for label in _WHOLE if label in found), None)
    if whole is not None or found:
        return max(found.values()) if whole is None else whole
    zones = (z for z in sorted((host.root / "sys/class/thermal").glob("thermal_zone*")))
    return next((_celsius(host, z / "temp") for z in zones if host.text(str(z), "type") in _ZONES), None)


def _celsius(host: Host, file: Path) -> float | None:
    """Of a file in thousandths; None when it cannot be read or says what no processor has."""
    text = host.text(str(file))
    heat = int(text) / 1000 if text.lstrip("-").isdigit() and len(text) < 10 else None
    return heat if heat is not None and -50 < heat < 200 else None


def parse_cpuinfo(text: str) -> tuple[str, str]:
    """Model name and vendor in /proc/cpuinfo; empty where it does not say (as on most ARM)."""
    said: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            said.setdefault(key.strip(), value.strip())
    return said.get("model name", said.get("Model", "")), said.get("vendor_id", "")


def parse_flags(text: str) -> tuple[str, ...]:
    """CPU flags in /proc/cpuinfo, sorted."""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() in ("flags", "Features"):
            return tuple(sorted(value.split()))
    return ()
