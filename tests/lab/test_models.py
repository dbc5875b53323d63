# SPDX-License-Identifier: GPL-3.0-or-later
"""Models over real SSH: of several files, of a hub that moves on, and one whose hive dies while it comes."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee.adapters import shipped
from tests.support.files_server import FileServer, file_server
from tests.support.hub_server import COMMIT, hub_server
from tests.support.rbee_cli import Ran
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.waiting import until

from .fleet import Fleet, fleet_of
from .lab import Lab


@pytest.fixture(scope="module")
def fleet(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(lab, tmp_path_factory.mktemp("models")) as made:
        yield made


async def apply(fleet: Fleet, rc: int | None = 0) -> Ran:
    """While this test's own server answers."""
    ran: Ran = await asyncio.to_thread(fleet.apply, rc)
    return ran


def models_of(fleet: Fleet, host: str) -> list[str]:
    """Files of models on a host, by `MODEL/FILE`."""
    start = "/home/bee/.cache/rbee/models/"
    return [file.removeprefix(start) for file in fleet.left(host) if file.startswith(start)]


def test_a_split_model_is_pushed_whole_and_served(fleet: Fleet) -> None:
    first = write_tiny_gguf(fleet.home.root / "tiny.gguf", split=8)
    fleet.write(("h1",), sources={"h1": f"file:{first}"})
    ran = fleet.apply()
    assert "model.push m-h1 on h1: ok" in ran.out + ran.err
    assert fleet.asks_well("h1").hive == "h1"
    parts = [f"m-h1/tiny-0000{no}-of-00003.gguf" for no in (1, 2, 3)]
    assert models_of(fleet, "h1") == ["m-h1/metadata.json", *parts]
    assert "No changes" in fleet.apply().out
    # One part of it is another file now: it is another model.
    write_tiny_gguf(fleet.home.root / "tiny.gguf", split=8, seed=8)
    plan = fleet.home.run("plan", rc=0).out
    assert "Plan: 0 to add, 2 to change, 1 to replace, 0 to remove." in plan
    fleet.apply()
    assert fleet.asks_well("h1").hive == "h1"
    assert "No changes" in fleet.apply().out


async def test_a_model_of_a_hub_stays_what_was_locked(fleet: Fleet) -> None:
    """Its branch moves on; another machine gets the bytes of the first one all the same."""
    bee = shipped.builtin_model("bee-tiny").read_bytes()
    other = write_tiny_gguf(fleet.home.root / "other.gguf").read_bytes()
    source = "corp:org/team:Q8_0"
    async with hub_server(b"", fleet.lab.controller_ip, team={"a-Q4_0.gguf": other, "a-Q8_0.gguf": bee}) as hub:
        provider(fleet.home.root, hub.url)
        fleet.write(("h1",), sources={"h1": source})
        await apply(fleet)
        pin = json.loads(fleet.home.yaml.with_suffix(".lock").read_text())["models"]["m-h1"]
        assert (pin["source"], pin["commit"]) == (source, COMMIT)
        assert "No changes" in (await apply(fleet)).out
        hub.push("f" * 40, team={"a-Q8_0.gguf": other})
        assert "No changes" in (await apply(fleet)).out
        moved = fleet.home.yaml.read_text().replace("hive: h1", "hive: h2")
        fleet.home.yaml.write_text(moved.replace("hives:", "hives:\n  h2: {ssh: h2}"))
        await apply(fleet)
        record = json.loads(fleet.lab.hosts["h2"].read_file(".cache/rbee/models/m-h1/metadata.json"))["artifact"]
        assert (record["checksum"], record["commit"]) == (pin["sha256"], COMMIT)
        assert (await asyncio.to_thread(fleet.asks_well, "h1")).hive == "h2"
        assert "No changes" in (await apply(fleet)).out


def provider(root: Path, url: str) -> None:
    """The fleet's own source of models, as a company writes it down once for all its machines."""
    folder = root / "config/rbee/providers/sources"
    folder.mkdir(parents=True)
    (folder / "corp.yaml").write_text(
        f"kind: source\nname: corp\ntitle: Our mirror\nsummary: The hub inside.\nprotocol: huggingface\n"
        f'prefixes: ["corp:"]\nendpoint: {url}\n'
    )


async def test_a_download_whose_hive_was_killed_goes_on_with_the_next_apply(fleet: Fleet) -> None:
    bee = shipped.builtin_model("bee-tiny").read_bytes()
    async with file_server(bee, fleet.lab.controller_ip, hold_after=len(bee) // 2) as server:
        source = f"{server.url}/model.gguf', sha256: '{server.sha256}"
        fleet.write(("h1",), sources={"h1": source})
        first = await asyncio.to_thread(fleet.applying)
        await server.holding.wait()
        kept = await asyncio.to_thread(until, lambda: part_of(fleet, len(bee) // 4), "something of it on the disk")
        [hive] = fleet.pids("h1")["hive"]
        fleet.lab.hosts["h1"].kill(hive, signal.SIGKILL)
        # It would wait for the hive for half a minute.
        first.interrupt()
        ran = await asyncio.to_thread(first.end)
        [failed] = [e for e in ran.events if e["type"] == "action_end" and e["status"] == "failed"]
        assert (failed["action"], failed["code"]) == ("model.fetch m-h1 on h1", "unreachable")
        server.hold_after = None
        server.go_on.set()
        ran = await apply(fleet)
        assert "hive.start h1: ok" in ran.out + ran.err
        goes_on(server, kept)
        assert (await asyncio.to_thread(fleet.asks_well, "h1")).hive == "h1"
        assert "No changes" in (await apply(fleet)).out
        assert len(server.starts) == 2


def part_of(fleet: Fleet, least: int) -> int:
    """Bytes of the model that are on the host's disk, once there are enough."""
    command = "stat -c %s /home/bee/.cache/rbee/models/m-h1/model.gguf.part"
    found = fleet.lab.hosts["h1"].exec(["sh", "-c", command], check=False).stdout.strip()
    return int(found) if found.isdigit() and int(found) >= least else 0


def goes_on(server: FileServer, kept: int) -> None:
    assert server.starts[0] == 0 and len(server.starts) == 2, server.starts
    assert kept <= server.starts[1] <= len(server.data) // 2 + server.piece, (kept, server.starts)
