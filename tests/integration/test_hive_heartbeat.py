# SPDX-License-Identifier: GPL-3.0-or-later
"""The discovery handshake, the heartbeat that follows, and who may be told the token."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee.adapters.paths import Paths
from rbee.adapters.secrets import Token
from rbee.contracts.configs import config_digest
from rbee.contracts.heartbeat import MonitorData
from rbee.contracts.openapi import ENDPOINTS
from rbee.contracts.operations.models import ModelDelete, ModelDownload
from rbee.core.errors import RbeeError
from rbee.daemons.hive.app import HiveDaemon
from rbee.daemons.hive.heartbeat import Heartbeat
from rbee.daemons.hive.ports import reachable_host
from tests.support.beats import FakeQueen, running, taking
from tests.support.hive import HiveClient, client, machine, settings
from tests.support.ports import free_port, free_range
from tests.support.waiting import eventually

SECRET = "a-token-of-the-fleet"


@pytest.fixture
async def queen() -> AsyncIterator[FakeQueen]:
    async with taking() as made:
        yield made


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path)


async def test_no_heartbeat_before_discovery_and_one_task_after_two(paths: Paths, queen: FakeQueen) -> None:
    async with running(paths, heartbeat_interval=0.05) as daemon, client(daemon.url) as hive:
        seen = await hive.capabilities()
        assert (seen.hive_id, seen.fleet, seen.release, seen.queen_url) == ("h1", "test", "r1", None)
        assert seen.config_digest == config_digest(daemon.config)
        assert seen.url == daemon.url
        assert seen.system.cpu_cores >= 1
        assert [d.id for d in seen.devices if d.device_type == "cpu"] == ["cpu"]
        assert queen.beats == []
        assert (await hive.capabilities(queen_url=queen.url)).queen_url == queen.url
        await eventually(lambda: len(queen.beats) >= 2)
        task = daemon.hive.heartbeat._task
        await hive.capabilities(queen_url=f"{queen.url}/")
        assert daemon.hive.heartbeat._task is task
        monitor = queen.beats[0].monitor_data
        assert monitor.ram_total_gb >= monitor.ram_used_gb > 0
        assert monitor.uptime_seconds > 0
        assert queen.beats[0].capability_changes is None


async def test_changes_are_told_at_once_and_once(paths: Paths, queen: FakeQueen) -> None:
    async with running(paths, heartbeat_interval=3600.0) as daemon, client(daemon.url) as hive:
        await hive.capabilities(queen_url=queen.url)
        await eventually(lambda: queen.beats)
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        await eventually(lambda: queen.changes == [("added", "bee-tiny")])
        await hive.run(ModelDelete(model_id="bee-tiny"))
        await eventually(lambda: queen.changes == [("added", "bee-tiny"), ("removed", "bee-tiny")])


async def test_changes_wait_for_a_queen_that_is_down(paths: Paths, queen: FakeQueen) -> None:
    async with running(paths) as daemon, client(daemon.url) as hive:
        queen.status = 503
        await hive.capabilities(queen_url=queen.url)
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        await eventually(lambda: len(queen.headers) >= 2)
        queen.status = 200
        await eventually(lambda: queen.changes == [("added", "bee-tiny")])


async def test_a_restarted_hive_goes_on_by_itself(paths: Paths, queen: FakeQueen) -> None:
    async with running(paths) as daemon, client(daemon.url) as hive:
        await hive.capabilities(queen_url=queen.url)
        await eventually(lambda: queen.beats)
    before = len(queen.beats)
    async with running(paths) as daemon, client(daemon.url) as hive:
        await eventually(lambda: len(queen.beats) > before)
        assert (await hive.capabilities()).queen_url == queen.url


@pytest.mark.parametrize(
    "wrong",
    [
        "ftp://x",
        "nonsense",
        "http://",
        "http://" + "x" * 600,
        "http://127.0.0.1:1/shutdown?x=",
        "http://127.0.0.1:1#",
        "http://127.0.0.1:1?",
        "http://u:p@127.0.0.1:1",
        "http://127.0.0.1:99999",
    ],
)
async def test_what_is_no_address_is_refused(paths: Paths, wrong: str) -> None:
    async with running(paths) as daemon, client(daemon.url) as hive:
        async with hive.session.get(f"{hive.url}/capabilities", params={"queen_url": wrong}) as answer:
            assert answer.status == 400
        assert daemon.hive.heartbeat.queen_url is None


async def test_two_queens_at_once_get_one_heartbeat(paths: Paths, queen: FakeQueen) -> None:
    async with running(paths, heartbeat_interval=0.05) as daemon, client(daemon.url) as hive:
        await hive.capabilities(queen_url=queen.url)
        others = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
        await asyncio.gather(*(daemon.hive.heartbeat.discovered(url, False) for url in others))
        tasks = [t for t in asyncio.all_tasks() if t.get_name() == "hive-heartbeat"]
        assert tasks == [daemon.hive.heartbeat._task]


async def test_a_look_that_fails_ends_no_heartbeat(paths: Paths, queen: FakeQueen) -> None:
    sick = [True]

    async def monitor() -> MonitorData:
        if sick:
            sick.clear()
            raise ValueError("a driver says nonsense")
        return MonitorData(cpu_usage_percent=1.0, ram_used_gb=1.0, ram_total_gb=2.0, uptime_seconds=1)

    heartbeat = Heartbeat("h1", 0.05, paths.state / "hive.queen.json", {}, monitor)
    await heartbeat.discovered(queen.url, False)
    await eventually(lambda: queen.beats)
    await heartbeat.stop()


async def test_the_queen_is_told_though_her_address_cannot_be_kept(paths: Paths, queen: FakeQueen) -> None:
    (paths.state / "hive.queen.json" / "in the way").mkdir(parents=True)
    async with running(paths) as daemon, client(daemon.url) as hive:
        assert (await hive.capabilities(queen_url=queen.url)).queen_url == queen.url
        await eventually(lambda: queen.beats)


async def test_nobody_without_the_token_can_have_it_sent_elsewhere(paths: Paths, queen: FakeQueen) -> None:
    """A loopback hive is open; whoever reaches it (any user, any web page) must not get the token out of it."""
    async with running(paths, Token(SECRET)) as daemon, client(daemon.url) as hive:
        params = {"queen_url": "http://192.0.2.1:7833"}
        async with hive.session.get(f"{hive.url}/capabilities", params=params) as answer:
            assert answer.status == 401
        await hive.capabilities(queen_url=queen.url)
        await eventually(lambda: queen.beats)
        assert all("Authorization" not in h for h in queen.headers)
    config = settings(free_range(), queen_url=queen.url)
    (paths.state / "hive.queen.json").unlink()
    queen.headers.clear()
    daemon = HiveDaemon(config, paths, Token(SECRET))
    await daemon.start()
    async with client(daemon.url) as hive:
        await hive.capabilities(queen_url=queen.url)
        await eventually(lambda: queen.headers)
        assert queen.headers[0]["Authorization"] == f"Bearer {SECRET}"
    await daemon.stop()


def outward() -> str | None:
    """An address of this machine that is not loopback, if it has one."""
    host = reachable_host("0.0.0.0")
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
    except OSError:
        return None
    return None if host.startswith("127.") else host


async def test_off_loopback_everything_but_health_wants_the_token(paths: Paths, queen: FakeQueen) -> None:
    host = outward()
    if host is None:
        pytest.skip("this machine has no address but loopback")
    listen = f"{host}:{free_port(host)}"
    with pytest.raises(RbeeError, match="without a token"):
        HiveDaemon(settings(free_range(), listen=listen), paths, None)
    async with running(paths, Token(SECRET), listen=listen) as daemon:
        assert daemon.url == f"http://{listen}"
        async with client(daemon.url) as stranger:
            for path, status in (("/health", 200), ("/readyz", 200), ("/capabilities", 401), ("/v1/jobs", 401)):
                async with stranger.session.get(daemon.url + path) as answer:
                    assert answer.status == status, path
        async with client(daemon.url, {"Authorization": f"Bearer {SECRET}"}) as hive:
            await hive.capabilities(queen_url=queen.url)
            await eventually(lambda: queen.headers)
            assert queen.headers[0]["Authorization"] == f"Bearer {SECRET}"


async def test_metrics_are_prometheus(paths: Paths) -> None:
    async with running(paths) as daemon, client(daemon.url) as hive:
        await hive.run(ModelDownload(model="builtin:bee-tiny"))
        text = await _text(hive, "/metrics")
    assert 'rbee_hive_models{status="available"} 1\n' in text
    assert 'rbee_hive_workers{status="ready"} 0\n' in text
    assert text.count("# TYPE") == len({line for line in text.splitlines() if line.startswith("# TYPE")})


async def _text(hive: HiveClient, path: str) -> str:
    async with hive.session.get(hive.url + path) as answer:
        assert answer.status == 200
        return await answer.text()


async def test_start_that_fails_lets_go_of_everything(paths: Paths) -> None:
    squatter = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = squatter.sockets[0].getsockname()[1]
    with pytest.raises(RbeeError, match="port is taken"):
        await HiveDaemon(settings(free_range(), listen=f"127.0.0.1:{port}"), paths, None).start()
    squatter.close()
    await squatter.wait_closed()
    async with running(paths) as daemon:
        assert daemon.url


async def test_a_hive_describes_all_that_it_serves(paths: Paths) -> None:
    async with running(paths) as daemon, client(daemon.url) as hive:
        async with hive.session.get(f"{hive.url}/openapi.json") as answer:
            described = (await answer.json())["paths"]
        served = {(r.method.lower(), r.path) for r in daemon.routes()} | {("get", "/openapi.json")}
        assert {(method, path) for path, methods in described.items() for method in methods} == served
        assert all((m.upper(), p) in ENDPOINTS for m, p in served)
