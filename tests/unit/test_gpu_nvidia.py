# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's cards by a library that stands in for NVML: lost cards, MIG, no permission, no driver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbee.adapters.gpu import Use, nvidia
from tests.support.stand_ins import host


class NVMLError(Exception):
    pass


class GpuIsLost(NVMLError):
    pass


class Nvml:
    """Answers as NVML does; a card is a table of answers, an exception among them is raised."""

    NVMLError = NVMLError
    NVMLError_GpuIsLost = GpuIsLost
    NVML_TEMPERATURE_GPU = 0

    def __init__(
        self, cards: Sequence[dict[str, Any]], fails: Exception | None = None, count_fails: Exception | None = None
    ) -> None:
        self.cards = cards
        self.fails = fails
        self.count_fails = count_fails
        self.open = 0

    def nvmlInit(self) -> None:
        if self.fails is not None:
            raise self.fails
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        if self.count_fails is not None:
            raise self.count_fails
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.cards[index]

    def __getattr__(self, name: str) -> Any:
        def answer(handle: dict[str, Any], *more: Any) -> Any:
            found = handle.get(name.removeprefix("nvmlDeviceGet"), NVMLError("Not Supported"))
            if isinstance(found, Exception):
                raise found
            return found

        return answer


def process(pid: int, used: int | None, *part: int) -> SimpleNamespace:
    gpu, compute = part or (None, None)
    return SimpleNamespace(pid=pid, usedGpuMemory=used, gpuInstanceId=gpu, computeInstanceId=compute)


WHOLE = {
    "Name": b"NVIDIA GeForce RTX 3090",
    "MemoryInfo": SimpleNamespace(total=24 * 2**30, free=20 * 2**30, used=4 * 2**30),
    "Temperature": 65,
    "PowerUsage": 120_500,
    "FanSpeed": 43,
    "UtilizationRates": SimpleNamespace(gpu=98, memory=40),
    "CudaComputeCapability": (8, 6),
    "ComputeRunningProcesses": [process(10, 3 * 2**30), process(11, None)],
    "GraphicsRunningProcesses": [process(10, 3 * 2**30), process(12, 2**20)],
}


def test_a_card_tells_all_that_a_device_has() -> None:
    nvml = Nvml([WHOLE])
    (device,) = nvidia.parse(nvidia.read(nvml))
    assert (device.id, device.name, device.vendor) == ("cuda:0", "NVIDIA GeForce RTX 3090", "NVIDIA")
    assert (device.vram_total_mb, device.vram_free_mb, device.vram_used_mb) == (24576, 20480, 4096)
    assert (device.temperature_celsius, device.power_usage_watts) == (65.0, 120.5)
    assert (device.fan_speed_percent, device.utilization_percent) == (43.0, 98.0)
    assert device.compute_capability == "8.6"
    assert nvml.open == 0, "what was opened is closed"


def test_processes_are_counted_once_though_they_compute_and_draw() -> None:
    uses = nvidia.parse_uses(nvidia.read(Nvml([WHOLE]), processes=True))
    assert set(uses) == {
        Use(device="cuda:0", pid=10, vram_mb=3072),
        Use(device="cuda:0", pid=11),
        Use(device="cuda:0", pid=12, vram_mb=1),
    }
    assert nvidia.read(Nvml([WHOLE])).running == ()


def test_slices_of_a_card_add_up_and_its_hidden_sensors_are_unknown() -> None:
    """With MIG the card itself tells neither load nor fan."""
    mig = {
        "Name": "NVIDIA A100-SXM4-80GB",
        "MemoryInfo": NVMLError("Insufficient Permissions"),
        "ComputeRunningProcesses": [process(5, 2**30, 1, 0), process(5, 2**31, 2, 0), process(6, None, 3, 0)],
    }
    reading = nvidia.read(Nvml([mig]), processes=True)
    (device,) = nvidia.parse(reading)
    assert (device.vram_total_mb, device.utilization_percent, device.fan_speed_percent) == (None, None, None)
    assert nvidia.parse_uses(reading) == (Use(device="cuda:0", pid=5, vram_mb=3072), Use(device="cuda:0", pid=6))
    assert reading.error is None


@pytest.mark.parametrize(
    "lost", [{"Name": GpuIsLost("GPU is lost")}, {**WHOLE, "MemoryInfo": GpuIsLost("GPU is lost")}]
)
def test_a_lost_card_hides_no_other(lost: dict[str, Any]) -> None:
    reading = nvidia.read(Nvml([lost, WHOLE]))
    assert [device.id for device in nvidia.parse(reading)] == ["cuda:1"]
    assert reading.error == "GPU 0: GPU is lost"


def test_processes_that_are_not_told_are_none() -> None:
    secret = {**WHOLE, "ComputeRunningProcesses": NVMLError("No Permission"), "GraphicsRunningProcesses": []}
    assert nvidia.read(Nvml([secret]), processes=True).running == ()


def test_a_driver_that_does_not_start_is_a_reason(tmp_path: Path) -> None:
    nvml = Nvml([WHOLE], NVMLError("Driver/library version mismatch"))
    seen = nvidia.look(host(tmp_path), nvml)
    assert (seen.devices, seen.error, seen.driver) == ((), "Driver/library version mismatch", False)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert nvidia.look(host(tmp_path), nvml).driver


def test_a_count_that_fails_is_a_reason() -> None:
    nvml = Nvml([WHOLE], count_fails=NVMLError("Unknown Error"))
    assert nvidia.read(nvml) == nvidia.Reading(error="Unknown Error")
    assert nvml.open == 0
