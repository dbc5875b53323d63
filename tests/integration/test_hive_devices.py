# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices of a real hive over HTTP: this machine as it is, and one with AMD cards whose tool stands in."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rbee.contracts.heartbeat import DeviceMonitor
from rbee.contracts.operations.devices import DeviceGet, DeviceList, DeviceStats
from rbee.contracts.operations.hives import HiveCheck, HiveStatus
from rbee.contracts.operations.models import ModelDownload
from rbee.contracts.operations.system import SystemStats
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerProcessList, WorkerSpawn
from rbee.core.errors import RbeeError
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.app import HiveDaemon
from tests.support import stand_ins
from tests.support.amd_machine import AmdMachine
from tests.support.hive import HiveClient, client, machine, settings
from tests.support.ports import free_range
from tests.support.waiting import eventually

SPAWN = WorkerSpawn(
    model="bee-tiny", worker="rocm", options=WorkerOptions(context_length=128, parallel=1), worker_id="w1"
)


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[HiveClient]:
    """This machine."""
    daemon = HiveDaemon(settings(free_range()), machine(tmp_path), None)
    await daemon.start()
    async with client(daemon.url) as asked:
        yield asked
    await daemon.stop()


@pytest.fixture
async def amd(tmp_path: Path) -> AsyncIterator[tuple[HiveClient, AmdMachine]]:
    made = AmdMachine(tmp_path)
    with made.daemon():
        async with client(f"http://{made.config.listen}") as asked:
            yield asked, made
    made.clear()


async def test_this_machine_has_its_processor_and_reasons_for_the_rest(hive: HiveClient) -> None:
    told = await hive.run(DeviceList())
    processor = told.response.devices[0]
    assert (processor.id, processor.device_type, processor.in_use, processor.workers) == ("cpu", "cpu", False, ())
    assert processor.cores >= 1
    assert 0 <= processor.utilization_percent <= 100
    gpus = {d.device_type for d in told.response.devices[1:]}
    if "cuda" not in gpus:
        assert told.response.reasons["nvidia"]
    if "rocm" not in gpus:
        assert "amd-smi is not installed" in told.response.reasons["amd"]
    said = [e["backend"] for e in told.events if e["event"] == "device_list_none"]
    assert said == list(told.response.reasons)
    assert told.names[-2:] == ["device_list_result", "result"]
    assert told.names.count("device_list_entry") == len(told.response.devices)


async def test_one_device_and_what_is_there_instead(hive: HiveClient) -> None:
    told = await hive.run(DeviceGet(device_id=0, device_type="cpu"))
    assert told.response.device.id == "cpu"
    assert told.names == ["device_get_result", "result"]
    for wrong in (DeviceGet(device_id=40), DeviceGet(device_id=0, device_type="vulkan")):
        with pytest.raises(RbeeError, match=r"It has: cpu") as refused:
            await hive.run(wrong)
        assert refused.value.code == "device_not_found"
    with pytest.raises(RbeeError) as refused:
        await hive.run(DeviceStats(device_id=1, device_type="cpu"))
    assert refused.value.code == "device_not_found"


async def test_the_processor_now(hive: HiveClient) -> None:
    told = await hive.run(DeviceStats(device_type="cpu"))
    (processor,) = told.response.devices
    assert 0 < processor.vram_used_mb < processor.vram_total_mb
    assert processor.vram_utilization_percent == pytest.approx(
        100 * processor.vram_used_mb / processor.vram_total_mb, abs=0.1
    )
    assert processor.processes == ()
    assert told.names == ["device_stats_entry", "device_stats_result", "result"]
    assert told.events[0]["vram_used_mb"] == processor.vram_used_mb


async def test_a_type_that_is_not_there_has_no_stats(hive: HiveClient) -> None:
    assert (await hive.run(DeviceStats(device_type="vulkan"))).response.devices == ()


async def test_cards_that_a_tool_tells_of(amd: tuple[HiveClient, AmdMachine]) -> None:
    hive, _ = amd
    told = (await hive.run(DeviceList())).response
    assert [d.id for d in told.devices if d.device_type == "rocm"] == ["rocm:0", "rocm:1"]
    assert "amd" not in told.reasons
    # Without a type it is the GPU of that index.
    card = (await hive.run(DeviceGet(device_id=0))).response.device
    assert (card.id, card.name, card.vram_total_mb) == ("rocm:0", "AMD Radeon RX 7800 XT", 16368)
    (now,) = (await hive.run(DeviceStats(device_id=0, device_type="rocm"))).response.devices
    assert (now.vram_used_mb, now.vram_utilization_percent) == (14569, 89.0)
    assert (now.temperature_celsius, now.power_usage_watts, now.fan_speed_percent) == (54.0, 120.0, 29.8)
    assert now.utilization_percent == 42.0
    stats = (await hive.run(SystemStats())).response
    assert stats.vram_per_device[0] == DeviceMonitor(
        device_id="rocm:0", vram_used_gb=14.23, vram_total_gb=15.98, temperature_celsius=54.0
    )
    assert [d.id for d in (await hive.capabilities()).devices if d.device_type == "rocm"] == ["rocm:0", "rocm:1"]


@pytest.mark.engine
async def test_who_has_the_memory_of_a_card(amd: tuple[HiveClient, AmdMachine]) -> None:
    hive, made = amd
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    pid = (await hive.run(SPAWN)).response.pid
    listed = (await hive.run(DeviceStats(device_type="cpu"))).response.devices[0]
    assert listed.processes == (), "it is not the processor's"
    engine = psutil.Process(pid).children(recursive=True)[-1].pid
    made.holds(engine, 1500)
    (worker,) = (await hive.run(WorkerProcessList())).response.workers
    assert (worker.worker_id, worker.device, worker.worker_type) == ("w1", "rocm:0", "rocm")
    card = (await hive.run(DeviceGet(device_id=0, device_type="rocm"))).response.device
    assert (card.in_use, card.workers) == (True, ("w1",))

    async def seen() -> bool:
        (now,) = (await hive.run(DeviceStats(device_id=0, device_type="rocm"))).response.devices
        return [(p.pid, p.vram_mb, p.worker_id) for p in now.processes] == [(engine, 1500, "w1")]

    await eventually(seen)

    async def recorded() -> bool:
        (worker,) = (await hive.run(WorkerProcessList())).response.workers
        return bool(worker.vram_mb == 1500)

    await eventually(recorded)
    made.holds(os.getpid(), 7)

    async def strange() -> bool:
        (now,) = (await hive.run(DeviceStats(device_id=0, device_type="rocm"))).response.devices
        return [(p.pid, p.vram_mb, p.worker_id) for p in now.processes] == [(os.getpid(), 7, None)]

    await eventually(strange)
    await hive.run(WorkerProcessDelete(pid=pid))
    assert not (await hive.run(DeviceGet(device_id=0, device_type="rocm"))).response.device.in_use


@pytest.mark.engine
async def test_a_worker_of_the_processor_has_its_memory(amd: tuple[HiveClient, AmdMachine]) -> None:
    hive, _ = amd
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    pid = (await hive.run(replace(SPAWN, worker="cpu"))).response.pid
    (processor,) = (await hive.run(DeviceStats(device_type="cpu"))).response.devices
    assert processor.workers == ("w1",)
    assert pid in {p.pid for p in processor.processes}
    assert {p.worker_id for p in processor.processes} == {"w1"}
    assert all(p.vram_mb is not None and p.name for p in processor.processes)


@pytest.mark.engine
async def test_a_full_card_takes_no_worker(amd: tuple[HiveClient, AmdMachine]) -> None:
    hive, made = amd
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    script = made.tools / "amd-smi"
    full = made.root / "full.json"
    full.write_text(stand_ins.golden("amd-smi-metric.rocm7.json").replace('"value": 14569', '"value": 16367'))
    script.write_text(script.read_text().replace(f"{stand_ins.GOLDENS}/amd-smi-metric.rocm7.json", str(full)))
    with pytest.raises(RbeeError, match=r"rocm:0") as refused:
        await hive.run(SPAWN)
    assert refused.value.code == "insufficient_memory"
    with pytest.raises(RbeeError, match=r"no device rocm:7") as refused:
        await hive.run(replace(SPAWN, device=7))
    assert refused.value.code == "device_not_found"


async def test_a_tool_that_fails_hides_no_hive(tmp_path: Path) -> None:
    """No driver is here, so there is nothing that should be mended: a reason, and a hive that is not worse for it."""
    made = AmdMachine(tmp_path)
    stand_ins.tool(made.tools, "amd-smi", "echo 'no amdgpu driver' >&2; exit 255")
    with made.daemon():
        async with client(f"http://{made.config.listen}") as hive:
            told = (await hive.run(DeviceList())).response
            assert told.reasons["amd"] == "amd-smi failed (255): no amdgpu driver"
            assert [d for d in told.devices if d.device_type == "rocm"] == []
            status = (await hive.run(HiveStatus())).response
            assert not [reason for reason in status.reasons if "amd" in reason]
            assert (await hive.run(HiveCheck())).response.message
