# SPDX-License-Identifier: GPL-3.0-or-later
"""AMD's cards: what its tool and the kernel were seen to say, and the tool as a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters.gpu import Use, amd_smi, amd_sysfs
from tests.support.stand_ins import amd_card, descriptor, golden, host


def test_cards_of_rocm_7_after_a_warning_and_one_in_the_processor() -> None:
    static = amd_smi.parse_static(golden("amd-smi-static.rocm7.json"))
    assert [(s.name, s.bdf, s.gfx, s.shared_memory) for s in static] == [
        ("AMD Radeon RX 7800 XT", "0000:03:00.0", "gfx1101", False),
        ("AMD Radeon Graphics", "0000:c5:00.0", "gfx1151", True),
    ]
    card, shared = amd_smi.parse_metric(golden("amd-smi-metric.rocm7.json"), static)
    assert (card.id, card.device_type, card.vendor) == ("rocm:0", "rocm", "AMD")
    assert (card.name, card.compute_capability) == ("AMD Radeon RX 7800 XT", "gfx1101")
    assert (card.vram_total_mb, card.vram_used_mb, card.vram_free_mb) == (16368, 14569, 1799)
    assert (card.utilization_percent, card.power_usage_watts) == (42.0, 120.0)
    assert (card.temperature_celsius, card.fan_speed_percent) == (54.0, 29.8)
    # Both of its memories: the one set aside and the one lent.
    assert (shared.vram_total_mb, shared.vram_used_mb, shared.vram_free_mb) == (98816, 41088, 57728)
    assert (shared.utilization_percent, shared.fan_speed_percent, shared.temperature_celsius) == (None, None, 29.0)


def test_cards_of_rocm_6_with_parts_that_are_not_told() -> None:
    static = amd_smi.parse_static(golden("amd-smi-static.rocm6.json"))
    large, silent = amd_smi.parse_metric(golden("amd-smi-metric.rocm6.json"), static)
    assert (large.name, large.vram_total_mb, large.vram_used_mb) == ("AMD Instinct MI300X", 196288, 2531)
    assert (large.temperature_celsius, large.fan_speed_percent, large.power_usage_watts) == (49.0, None, 305.0)
    assert (silent.id, silent.name, silent.vram_total_mb, silent.vram_free_mb) == ("rocm:1", "AMD GPU", None, None)
    assert (silent.utilization_percent, silent.temperature_celsius) == (None, None)
    (unknown, _) = amd_smi.parse_metric(golden("amd-smi-metric.rocm6.json"), ())
    assert unknown.name == "AMD GPU"


def test_a_sum_that_is_told_for_every_card_is_counted_once() -> None:
    assert amd_smi.parse_processes(golden("amd-smi-process.json")) == (
        Use(device="rocm:0", pid=1883505, vram_mb=28066),
        Use(device="rocm:0", pid=2266127, vram_mb=1945),
        Use(device="rocm:1", pid=1883505),
        Use(device="rocm:1", pid=77),
    )
    older = '[{"gpu": 0, "process_info": "No running processes detected"}, {"gpu": 1, "process_info": [{"pid": 4}]}]'
    assert amd_smi.parse_processes(older) == (Use(device="rocm:1", pid=4),)


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (42, 42.0),
        ("300", 300.0),
        ("32 GT/s", 32.0),
        ({"value": 7, "unit": "W"}, 7.0),
        ({"value": "N/A", "unit": "W"}, None),
        ({"unit": "W"}, None),
        ("N/A", None),
        (None, None),
        (True, None),
        ([1], None),
        (float("nan"), None),
    ],
)
def test_numbers_in_every_shape(said: Any, value: float | None) -> None:
    assert amd_smi.number(said) == value


@pytest.mark.parametrize(
    ("said", "size"),
    [
        (1024, 1024),
        ({"value": 2, "unit": "MB"}, 2**21),
        ({"value": 2, "unit": "KiB"}, 2048),
        ("2 GiB", 2**31),
        ("5 potatoes", None),
        ({"value": -1, "unit": "B"}, None),
        ({"value": 7, "unit": "N/A"}, 7),
        ("N/A", None),
    ],
)
def test_sizes_in_every_unit(said: Any, size: int | None) -> None:
    assert amd_smi.size(said) == size


def test_a_fan_without_percent_is_told_by_its_speed() -> None:
    (device,) = amd_smi.parse_metric('[{"gpu": 0, "fan": {"speed": 51, "max": 255}}]', ())
    assert device.fan_speed_percent == 20.0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("N/A"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "gpu",
                    "gpu_data",
                    "asic",
                    "vram",
                    "mem_usage",
                    "total_vram",
                    "value",
                    "unit",
                    "process_list",
                    "pid",
                    "fan",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON | st.lists(_JSON, max_size=3))
def test_whatever_comes_is_read_or_refused(said: Any) -> None:
    text = json.dumps(said)
    for parse in (amd_smi.parse_static, lambda t: amd_smi.parse_metric(t, ()), amd_smi.parse_processes):
        try:
            assert isinstance(parse(text), tuple)
        except amd_smi.NotUnderstood as e:
            assert "amd-smi" in str(e)


@pytest.mark.parametrize("said", ["", "nonsense", "[", '{"error": "no driver"}', "[" * 100_000])
def test_what_is_no_list_of_cards_is_refused(said: str) -> None:
    with pytest.raises(amd_smi.NotUnderstood):
        amd_smi.parse_static(said)


# The kernel.


def test_cards_of_the_kernel_in_the_order_of_the_bus(tmp_path: Path) -> None:
    amd_card(tmp_path, 0, "0000:83:00.0", product_name="AMD Instinct MI210")
    amd_card(tmp_path, 1, "0000:03:00.0")
    amd_card(tmp_path, 2, "0000:04:00.0", vendor="0x10de")
    amd_card(tmp_path, 3, "0000:05:00.0", mem_info_vram_total="")
    (tmp_path / "sys/class/drm/card0-DP-1").mkdir()
    first, second = amd_sysfs.parse(amd_sysfs.read(host(tmp_path)), golden("pci.ids.txt"))
    assert (first.id, first.name) == ("rocm:0", "Navi 31 [Radeon RX 7900 XT/7900 XTX/7900M]")
    assert (second.id, second.name) == ("rocm:1", "AMD Instinct MI210")
    assert (first.vram_total_mb, first.vram_used_mb, first.vram_free_mb) == (24576, 4096, 20480)
    assert (first.temperature_celsius, first.power_usage_watts) == (54.0, 120.5)
    assert (first.fan_speed_percent, first.utilization_percent) == (20.0, 37.0)


def test_a_card_that_says_little_or_nonsense_is_a_device_all_the_same() -> None:
    files = {"mem_info_vram_total": "x", "device": "0x1", "power1_input": "7000000", "temp2_input": "49000"}
    (device,) = amd_sysfs.parse((amd_sysfs.Card(bdf="b", files=files),))
    assert (device.name, device.vram_total_mb, device.power_usage_watts) == ("AMD GPU 0x1", None, 7.0)
    assert (device.fan_speed_percent, device.temperature_celsius) == (None, 49.0)
    (silent,) = amd_sysfs.parse((amd_sysfs.Card(bdf="b"),))
    assert (silent.name, silent.vram_free_mb, silent.temperature_celsius) == ("AMD GPU", None, None)


def test_memory_of_a_descriptor() -> None:
    client = amd_sysfs.parse_fdinfo(golden("fdinfo.amdgpu.txt"))
    assert client == amd_sysfs.Client(bdf="0000:03:00.0", client="9", vram=2 * 2**20)
    older = "drm-driver:\tamdgpu\ndrm-pdev:\t0000:03:00.0\ndrm-memory-vram:\t512 KiB\n"
    assert amd_sysfs.parse_fdinfo(older) == amd_sysfs.Client(bdf="0000:03:00.0", client="", vram=512 * 1024)
    assert amd_sysfs.parse_fdinfo(older.replace("amdgpu", "i915")) is None
    assert amd_sysfs.parse_fdinfo("drm-driver: amdgpu\ndrm-memory-vram: lots\n") is None
    assert amd_sysfs.parse_fdinfo("pos:\t0\n") is None


def test_a_copied_descriptor_counts_once(tmp_path: Path) -> None:
    descriptor(tmp_path, 7, 3, 9, "2048 MiB")
    descriptor(tmp_path, 7, 4, 9, "2048 MiB")
    descriptor(tmp_path, 7, 5, 10, "1024 KiB")
    descriptor(tmp_path, 8, 3, 11, "5 MiB", to="/dev/null")
    (tmp_path / "proc/9/fd").mkdir(parents=True)
    (tmp_path / "proc/9/fd/3").symlink_to("/dev/dri/renderD128")  # closed meanwhile
    (tmp_path / "proc/10").mkdir()
    assert amd_sysfs.uses(host(tmp_path), {"0000:03:00.0": 2}) == (Use(device="rocm:2", pid=7, vram_mb=2049),)
    assert amd_sysfs.uses(host(tmp_path), {}) == ()
