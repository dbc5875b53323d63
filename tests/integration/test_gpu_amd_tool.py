# SPDX-License-Identifier: GPL-3.0-or-later
"""`amd-smi` as a process of its own: there, missing, failing, hanging; and the kernel asked in its place."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rbee.adapters.gpu import Gpus, Use
from rbee.adapters.gpu.amd import Amd
from tests.support import stand_ins
from tests.support.stand_ins import amd_card, descriptor, golden, host
from tests.support.workers import alive


def test_the_tool_is_asked(tmp_path: Path) -> None:
    stand_ins.amd_smi(tmp_path / "bin")
    amd = Amd(host(tmp_path))
    seen = amd.look()
    assert ([d.id for d in seen.devices], seen.error, seen.driver) == (["rocm:0", "rocm:1"], None, False)
    (tmp_path / "bin/amd-smi").unlink()
    again = amd.look()
    assert again.error == "amd-smi is not installed, and the kernel shows no AMD GPU"


def test_the_tool_is_found_where_its_package_puts_it(tmp_path: Path) -> None:
    stand_ins.amd_smi(tmp_path / "opt/rocm/bin", "rocm6")
    assert [d.name for d in Amd(host(tmp_path)).look().devices] == ["AMD Instinct MI300X", "AMD GPU"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'ERROR: no amdgpu driver' >&2; exit 3", "amd-smi failed (3): ERROR: no amdgpu driver"),
        ("echo 'it is broken'; exit 1", "amd-smi failed (1): it is broken"),
        ("exit 1", "amd-smi failed (1): it says nothing"),
        ("echo hello", "amd-smi says what is no list of cards: 'hello'"),
        ("echo '[]'", "amd-smi tells of no cards"),
    ],
)
def test_a_tool_that_fails_is_a_reason_and_the_kernel_is_asked(tmp_path: Path, script: str, why: str) -> None:
    stand_ins.tool(tmp_path / "bin", "amd-smi", script)
    none = Amd(host(tmp_path)).look()
    assert (none.devices, none.error, none.driver) == ((), why, False)
    amd_card(tmp_path, 0, "0000:03:00.0")
    seen = Amd(host(tmp_path)).look()
    assert ([d.id for d in seen.devices], seen.error, seen.driver) == (["rocm:0"], why, True)


def gone(pid: int) -> bool:
    """Within ten seconds: a signal takes its time to arrive."""
    for _ in range(1000):
        if not alive(pid):
            return True
        time.sleep(0.01)
    return False


def test_a_tool_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    stand_ins.tool(tmp_path / "bin", "amd-smi", f"/bin/sleep 600 & echo $! > {pid}; wait")
    seen = Amd(host(tmp_path, timeout=2.0)).look()
    assert seen.error == "amd-smi did not answer within 2 s"
    assert gone(int(pid.read_text()))


def test_a_tool_that_cannot_be_run_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/amd-smi").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "bin/amd-smi").chmod(0o755)
    assert (Amd(host(tmp_path)).look().error or "").startswith("amd-smi cannot be run: ")


def test_the_kernel_is_enough_without_a_tool(tmp_path: Path) -> None:
    amd_card(tmp_path, 0, "0000:03:00.0")
    seen = Amd(host(tmp_path)).look()
    assert ([d.id for d in seen.devices], seen.error) == (["rocm:0"], None)


def test_a_glance_needs_no_tool_once_the_cards_are_known(tmp_path: Path) -> None:
    amd_card(tmp_path, 0, "0000:83:00.0")
    static = json.loads(golden("amd-smi-static.rocm6.json"))[:1]
    static[0]["gpu"] = 5
    tool = f"""case "$1" in
static) echo '{json.dumps(static)}' ;;
metric) echo '[{{"gpu": 5, "mem_usage": {{"total_vram": {{"value": 1, "unit": "MB"}}}}}}]' ;;
esac"""
    stand_ins.tool(tmp_path / "bin", "amd-smi", tool)
    amd = Amd(host(tmp_path))
    # Not known yet: it is a look.
    assert [(d.id, d.vram_total_mb) for d in amd.glance().devices] == [("rocm:5", 1)]
    (tmp_path / "bin/amd-smi").unlink()
    seen = amd.glance()
    assert [(d.id, d.name, d.vram_total_mb, d.temperature_celsius) for d in seen.devices] == [
        ("rocm:5", "AMD Instinct MI300X", 24576, 54.0)
    ]
    assert (seen.error, seen.driver) == (None, True)
    # A card that is gone since is looked for again.
    (tmp_path / "sys/class/drm/card0/device").unlink()
    assert amd.glance() == amd.look()


def test_processes_by_the_kernel_first_and_the_tool_for_others(tmp_path: Path) -> None:
    stand_ins.amd_smi(tmp_path / "bin")
    descriptor(tmp_path, 1883505, 3, 9, "2048 MiB")
    gpus = Gpus(host(tmp_path))
    devices = gpus.detect(2).devices
    assert [d.id for d in devices] == ["cpu", "rocm:0", "rocm:1"]
    assert set(gpus.uses(devices)) == {
        Use(device="rocm:0", pid=1883505, vram_mb=2048),
        Use(device="rocm:0", pid=2266127, vram_mb=1945),
        Use(device="rocm:1", pid=77),
    }
    assert gpus.uses(devices[:1]) == ()
    stand_ins.tool(tmp_path / "bin", "amd-smi", "echo nonsense")
    assert gpus.uses(devices) == (Use(device="rocm:0", pid=1883505, vram_mb=2048),)
