# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU as a device: every machine has this one."""

from __future__ import annotations

import platform
from pathlib import Path

from rbee.core.records import Device


def device(cores: int) -> Device:
    """Device `cpu`, with the cores that this process may use."""
    try:
        name, vendor = parse_cpuinfo(Path("/proc/cpuinfo").read_text())
    except OSError:
        name, vendor = "", ""
    return Device(
        id="cpu",
        device_id=0,
        device_type="cpu",
        name=name or platform.processor() or platform.machine(),
        vendor=vendor,
        cores=cores,
    )


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
