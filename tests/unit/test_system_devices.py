# SPDX-License-Identifier: GPL-3.0-or-later
"""How often drivers are asked, and what is known while they do not answer."""

from __future__ import annotations

import threading

import pytest

from rbee.adapters.gpu import Detected, Use
from rbee.core.records import Device
from rbee.daemons.hive.machine.devices import Devices

CPU = Device(id="cpu", device_id=0, device_type="cpu", name="c", cores=2)
CARD = Device(id="cuda:0", device_id=0, device_type="cuda", name="g", vram_total_mb=8000)


class Drivers:
    """Answers when it may."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.may = threading.Event()
        self.asked: list[str] = []
        self.fails = False
        if not stuck:
            self.may.set()

    def detect(self, cores: int, *, glance: bool = False) -> Detected:
        self.asked.append("glance" if glance else "look")
        self.may.wait()
        if self.fails:
            raise RuntimeError("a fault of ours")
        return Detected((CPU, CARD))

    def uses(self, devices: tuple[Device, ...]) -> tuple[Use, ...]:
        self.asked.append("uses")
        self.may.wait()
        return (
            Use(device="cuda:0", pid=7, vram_mb=100),
            Use(device="cuda:1", pid=7, vram_mb=20),
            Use(device="cuda:0", pid=8),
        )


def nobody(device: str) -> tuple[str, ...]:
    return ()


async def test_many_who_ask_at_once_are_one_look() -> None:
    drivers = Drivers()
    devices = Devices(nobody, drivers)
    assert [d.id for d in await devices.list()] == ["cpu", "cuda:0"]
    await devices.list()
    assert [d.id for d in await devices.glance()] == ["cpu", "cuda:0"]
    assert drivers.asked == ["look"]
    assert await devices.vram_by_pid() == {7: 120}
    assert await devices.vram_by_pid() == {7: 120}
    assert drivers.asked == ["look", "uses"]


async def test_who_uses_a_device_is_told_with_it() -> None:
    devices = Devices(lambda device: ("chat",) if device == "cuda:0" else (), Drivers())
    cpu, card = await devices.list()
    assert (cpu.in_use, card.in_use, card.workers) == (False, True, ("chat",))
    assert cpu.utilization_percent is not None


async def test_a_driver_that_never_answers_is_a_reason_and_is_asked_once() -> None:
    drivers = Drivers(stuck=True)
    devices = Devices(nobody, drivers, limit=0.05)
    found = await devices.detect()
    assert ([d.id for d in found.devices], set(found.broken)) == (["cpu"], {"gpu"})
    assert found.reasons == {"gpu": "no answer within 0.05 s"}
    devices._good_until = 0.0
    await devices.detect()
    assert drivers.asked == ["look"]
    assert await devices.uses() == ()
    drivers.may.set()
    assert devices._waiting is not None
    await devices._waiting
    devices._good_until = 0.0
    assert [d.id for d in (await devices.detect()).devices] == ["cpu", "cuda:0"]


async def test_what_was_there_stays_while_its_driver_does_not_answer() -> None:
    drivers = Drivers()
    devices = Devices(nobody, drivers, limit=0.05)
    await devices.detect()
    drivers.may.clear()
    devices._good_until = 0.0
    assert [d.id for d in await devices.glance()] == ["cpu", "cuda:0"]
    found = await devices.detect()
    assert ([d.id for d in found.devices], set(found.broken)) == (["cpu", "cuda:0"], {"gpu"})
    assert drivers.asked == ["look", "glance"]
    drivers.may.set()


async def test_a_fault_of_ours_is_not_hidden() -> None:
    drivers = Drivers()
    drivers.fails = True
    with pytest.raises(RuntimeError, match="a fault of ours"):
        await Devices(nobody, drivers).detect()
