# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine is read from: pure parsers on recorded texts, and this machine as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rbee.adapters import gpu, system
from rbee.adapters.gpu import cpu, nvidia

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD Ryzen 9 7950X 16-Core Processor
flags\t\t: fpu sse avx2 fma

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: AMD Ryzen 9 7950X 16-Core Processor
flags\t\t: fpu sse avx2 fma
"""
PI = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd crc32

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


def test_cpuinfo() -> None:
    assert cpu.parse_cpuinfo(X86) == ("AMD Ryzen 9 7950X 16-Core Processor", "AuthenticAMD")
    assert cpu.parse_cpuinfo(PI) == ("Raspberry Pi 5 Model B Rev 1.0", "")
    assert cpu.parse_cpuinfo("") == ("", "")
    assert cpu.parse_flags(X86) == ("avx2", "fma", "fpu", "sse")
    assert cpu.parse_flags(PI) == ("asimd", "crc32", "fp")
    assert cpu.parse_flags("") == ()


def test_nvidia_cards_become_devices() -> None:
    card = nvidia.Card(
        index=1,
        name="NVIDIA GeForce RTX 3090",
        memory_total=24 * 2**30,
        memory_free=20 * 2**30,
        memory_used=4 * 2**30,
        temperature=65,
        power=120_500,
        compute_capability=(8, 6),
    )
    (device,) = nvidia.parse(nvidia.Reading(cards=(card,)))
    assert (device.id, device.device_id, device.device_type, device.vendor) == ("cuda:1", 1, "cuda", "NVIDIA")
    assert (device.vram_total_mb, device.vram_free_mb, device.vram_used_mb) == (24576, 20480, 4096)
    assert (device.temperature_celsius, device.power_usage_watts, device.compute_capability) == (65.0, 120.5, "8.6")


def test_a_card_that_tells_little_is_a_device_all_the_same() -> None:
    (device,) = nvidia.parse(nvidia.Reading(cards=(nvidia.Card(index=0, name="X"),)))
    assert (device.vram_total_mb, device.temperature_celsius, device.power_usage_watts) == (None, None, None)


def test_detecting_never_raises_and_says_why_there_is_no_gpu() -> None:
    found = gpu.detect(4)
    assert (found.devices[0].id, found.devices[0].cores) == ("cpu", 4)
    reading = nvidia.read()
    assert bool(reading.cards) or bool(reading.error)
    assert len(found.devices) == 1 + len(reading.cards)
    assert reading.error is None or "nvidia" in found.reasons


@pytest.mark.parametrize(
    ("system_name", "machine", "said"),
    [
        ("linux", "x86_64", "linux-x86_64"),
        ("linux", "aarch64", "linux-arm64"),
        ("darwin", "arm64", "macos-arm64"),
        ("win32", "AMD64", "windows-x86_64"),
    ],
)
def test_platform_names(system_name: str, machine: str, said: str) -> None:
    assert system.platform_name(system_name, machine) == said


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 2),
        ("50000 100000", 1),
        ("200000 100000", 2),
        ("", None),
        ("x y", None),
    ],
)
def test_cpu_quota(text: str, cores: int | None) -> None:
    assert system.parse_cpu_max(text) == cores


def test_cgroup_memory_stat() -> None:
    assert system.parse_stat("anon 100\nfile 200\nnonsense\nfoo bar\n") == {"anon": 100, "file": 200}


def test_this_machine(tmp_path: Path) -> None:
    info = system.info(tmp_path / "not" / "there")
    assert info.cpu_cores >= 1
    assert 0 < info.memory_available <= info.memory_total
    assert info.disk_free > 0
    assert system.platform_id().endswith(info.arch)
    assert system.uptime() > 0
    assert 0 <= system.cpu_percent() <= 100
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", system.now())
