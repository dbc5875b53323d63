# SPDX-License-Identifier: GPL-3.0-or-later
"""Apple's GPU: what macOS's tools were seen to say, and stand-ins of them as processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters.gpu import Gpus, apple
from tests.support.stand_ins import GOLDENS, golden, host, tool

GB = 2**30


def mac(root: Path, profile: str = "system_profiler.m1.json") -> None:
    """sysctl fails when it does not know one of the names, and tells the others all the same."""
    tool(root / "bin", "sysctl", f"/bin/cat {GOLDENS}/sysctl.m1pro.txt; echo 'sysctl: unknown oid x' >&2; exit 1")
    tool(root / "bin", "system_profiler", f"echo asked >> {root}/asked; /bin/cat {GOLDENS}/{profile}")
    tool(root / "bin", "ioreg", f"/bin/cat {GOLDENS}/ioreg.m1pro.plist")


def test_the_tools_are_asked_and_the_slow_one_once(tmp_path: Path) -> None:
    mac(tmp_path)
    gpu = apple.Apple(host(tmp_path))
    seen = gpu.look()
    (device,) = seen.devices
    assert (device.id, device.device_type, device.name, device.cores) == ("metal:0", "metal", "Apple M1", 8)
    assert (device.vram_total_mb, device.vram_used_mb, device.vram_free_mb) == (10922, 325, 10597)
    assert (device.utilization_percent, device.compute_capability) == (2.0, "mtlgpufamilyapple7")
    assert (seen.error, seen.driver) == (None, True)
    assert gpu.look() == seen
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_a_mac_has_its_processor_and_its_gpu(tmp_path: Path) -> None:
    mac(tmp_path, "system_profiler.m3pro.json")
    found = Gpus(host(tmp_path, "darwin")).detect(8)
    assert [d.id for d in found.devices] == ["cpu", "metal:0"]
    assert (found.devices[1].name, found.devices[1].compute_capability) == ("Apple M3 Pro", "metal3")
    assert (found.reasons, found.broken) == ({}, frozenset())


def test_an_intel_mac_has_none(tmp_path: Path) -> None:
    tool(tmp_path / "bin", "sysctl", "echo 'machdep.cpu.brand_string: Intel(R) Core(TM) i7-8700B CPU @ 3.20GHz'")
    seen = apple.Apple(host(tmp_path)).look()
    assert (seen.devices, seen.driver) == ((), False)
    assert seen.error == "no Apple silicon (Intel(R) Core(TM) i7-8700B CPU @ 3.20GHz)"


def test_missing_and_hanging_tools_are_reasons(tmp_path: Path) -> None:
    assert apple.Apple(host(tmp_path)).look().error == "sysctl is not installed"
    mac(tmp_path)
    tool(tmp_path / "bin", "ioreg", "exec /bin/sleep 600")
    (tmp_path / "bin/system_profiler").unlink()
    seen = apple.Apple(host(tmp_path, timeout=1.0)).look()
    assert [d.name for d in seen.devices] == ["Apple M1 Pro"]
    assert (seen.devices[0].vram_total_mb, seen.devices[0].vram_used_mb) == (10922, None)
    assert seen.error == "system_profiler is not installed; ioreg did not answer within 1 s"
    found = Gpus(host(tmp_path, "darwin", timeout=1.0)).detect(1)
    assert found.broken == {"apple"}


@pytest.mark.parametrize(
    ("memory", "limit", "most"),
    [
        (16 * GB, None, 16 * GB * 2 // 3),
        (24 * GB, 0, 16 * GB),
        (36 * GB, 0, 27 * GB),
        (64 * GB, 0, 48 * GB),
        (128 * GB, 0, 96 * GB),
        (32 * GB, 26000, 26000 * 2**20),
        (16 * GB, 99999, 16 * GB),
        (None, 1000, 1000 * 2**20),
        (None, None, None),
    ],
)
def test_what_the_gpu_may_hold(memory: int | None, limit: int | None, most: int | None) -> None:
    assert apple.working_set(memory, limit) == most


def test_free_is_never_more_than_the_machine_has() -> None:
    known = apple.parse_sysctl(golden("sysctl.m1pro.txt"))
    device = apple.parse(known, None, apple.parse_ioreg(golden("ioreg.m1pro.plist")), 2 * GB)
    assert (device.name, device.vram_free_mb, device.vram_total_mb) == ("Apple M1 Pro", 2048, 10922)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"SPDisplaysDataType": [1, {"spdisplays_vendor": "Intel"}]}', "["])
def test_a_profile_without_an_apple_gpu(text: str) -> None:
    assert apple.parse_profiler(text) is None


@given(st.text(max_size=200))
def test_statistics_that_are_not_understood_are_unknown(text: str) -> None:
    assert apple.parse_ioreg(text) == apple.Live()


@pytest.mark.parametrize(
    ("statistics", "live"),
    [
        ("<integer>5</integer>", apple.Live(used=5)),
        ("<integer>-5</integer>", apple.Live()),
        ("<string>5</string>", apple.Live()),
    ],
)
def test_statistics_of_other_shapes(statistics: str, live: apple.Live) -> None:
    head, foot = '<?xml version="1.0"?><plist version="1.0"><array><string>x</string><dict>', "</dict></array></plist>"
    inner = f"<key>PerformanceStatistics</key><dict><key>In use system memory</key>{statistics}</dict>"
    assert apple.parse_ioreg(head + inner + foot) == live


def test_another_makers_accelerator_is_not_apples() -> None:
    text = golden("ioreg.m1pro.plist").replace("AGXAcceleratorG13X", "AMDRadeonX6000")
    assert apple.parse_ioreg(text) == apple.Live()
