# SPDX-License-Identifier: GPL-3.0-or-later
"""What a heartbeat says, when the next one comes, and to whom it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee.adapters.paths import Paths
from rbee.contracts import defaults
from rbee.contracts.heartbeat import MonitorData
from rbee.contracts.operations.models import ModelDownload
from rbee.daemons.hive.heartbeat import Heartbeat
from tests.support.amd_machine import AmdMachine
from tests.support.beats import FakeQueen, running, taking
from tests.support.hive import client, machine
from tests.support.waiting import eventually


@pytest.fixture
async def queen() -> AsyncIterator[FakeQueen]:
    async with taking() as made:
        yield made


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path)


async def test_a_heartbeat_says_what_it_should(paths: Paths, queen: FakeQueen) -> None:
    async with running(paths, heartbeat_interval=3600.0) as daemon, client(daemon.url) as hive:
        await hive.capabilities(queen_url=queen.url)
        await eventually(lambda: queen.bodies)
        body = queen.bodies[0]
        assert set(body) == {"hive_id", "timestamp", "monitor_data", "capability_changes"}
        assert (body["hive_id"], body["capability_changes"]) == ("h1", None)
        said = {"cpu_usage_percent", "ram_used_gb", "ram_total_gb", "uptime_seconds", "devices"}
        assert set(body["monitor_data"]) == said
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        await eventually(lambda: queen.bodies[-1]["capability_changes"])
        (added,) = queen.bodies[-1]["capability_changes"]["models"]
        assert (added["action"], added["model_id"]) == ("added", "bee-tiny")
        assert added["size_gb"] > 0


async def test_a_heartbeat_has_the_devices_and_their_heat(tmp_path: Path, queen: FakeQueen) -> None:
    amd = AmdMachine(tmp_path)
    with amd.daemon():
        async with client(f"http://{amd.config.listen}") as hive:
            await hive.capabilities(queen_url=queen.url)
            await eventually(lambda: queen.bodies)
    devices = [d for d in queen.bodies[0]["monitor_data"]["devices"] if d["device_id"].startswith("rocm")]
    assert devices == [
        {"device_id": "rocm:0", "vram_used_gb": 14.23, "vram_total_gb": 15.98, "temperature_celsius": 54.0},
        {"device_id": "rocm:1", "vram_used_gb": 40.12, "vram_total_gb": 96.5, "temperature_celsius": 29.0},
    ]


async def test_a_queen_that_asks_again_is_not_waited_for(paths: Paths, queen: FakeQueen) -> None:
    """However long the pause has become that a queen who takes nothing has earned."""
    async with running(paths) as daemon, client(daemon.url) as hive:
        heartbeat = daemon.hive.heartbeat
        queen.status = 503
        await hive.capabilities(queen_url=queen.url)
        await eventually(lambda: heartbeat.failures)
        task, since = heartbeat._task, heartbeat.failing_since
        assert since is not None
        heartbeat.failures = 30  # as after hours
        await eventually(lambda: heartbeat.failures > 30)
        queen.status = 200
        await hive.capabilities(queen_url=queen.url)
        await eventually(lambda: queen.beats, seconds=defaults.BACKOFF_MAX * 0.8)
        await eventually(lambda: heartbeat.failing_since is None)
        assert heartbeat._task is task


async def test_a_queen_who_shows_the_token_later_is_shown_it_too(paths: Paths, queen: FakeQueen) -> None:
    heartbeat = Heartbeat("h1", 30, paths.state / "hive.queen.json", {"Authorization": "Bearer x"}, looked)
    await heartbeat.discovered(queen.url, False)
    await eventually(lambda: queen.headers)
    assert "Authorization" not in queen.headers[0]
    await heartbeat.discovered(queen.url, True)
    await eventually(lambda: len(queen.headers) > 1)
    assert queen.headers[-1]["Authorization"] == "Bearer x"
    await heartbeat.discovered(queen.url, False)
    assert heartbeat.trusted, "who knows less takes nothing away"
    assert len([t for t in asyncio.all_tasks() if t.get_name() == "hive-heartbeat"]) == 1
    await heartbeat.stop()


async def test_a_heartbeat_goes_nowhere_else(paths: Paths, queen: FakeQueen) -> None:
    queen.status = 307
    async with running(paths) as daemon, client(daemon.url) as hive:
        await hive.capabilities(queen_url=queen.url)
        await eventually(lambda: daemon.hive.heartbeat.failures)
        assert queen.strangers == 0


async def looked() -> MonitorData:
    return MonitorData(cpu_usage_percent=1.0, ram_used_gb=1.0, ram_total_gb=2.0, uptime_seconds=1)
