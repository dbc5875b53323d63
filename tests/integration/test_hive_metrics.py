# SPDX-License-Identifier: GPL-3.0-or-later
"""`/metrics` of a real hive, read as strictly as Prometheus reads it; and the log lines of its jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rbee.adapters.paths import write_atomic
from rbee.adapters.system import Usage
from rbee.contracts import codec
from rbee.contracts.operations.models import ModelDownload, ModelList
from rbee.contracts.operations.preload import ModelPreload, ModelPreloadEvict
from rbee.core.errors import RbeeError
from rbee.core.records import Device, WorkerRecord
from rbee.daemons.hive.app import HiveDaemon
from rbee.daemons.hive.metrics import Restarts, Seen, render
from rbee.daemons.hive.models.preload import Counts
from tests.support.hive import HiveClient, client, machine, settings
from tests.support.ports import free_port, free_range
from tests.support.waiting import eventually

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_UNITS = ("_bytes", "_celsius", "_ratio", "_watts", "_seconds", "_bytes_per_second")


@dataclass
class Family:
    kind: str
    help: str
    samples: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)


def parse(text: str) -> dict[str, Family]:
    """The families of an exposition in text format 0.0.4: each once, HELP and TYPE before its samples, no sample
    twice, and names as Prometheus advises."""
    assert text.endswith("\n")
    families: dict[str, Family] = {}
    current, helped = "", ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped, _, said = line[7:].partition(" ")
            assert _NAME.fullmatch(helped) and said and helped not in families, line
            assert said.endswith("."), line
            families[helped] = Family("", said)
        elif line.startswith("# TYPE "):
            current, kind = line[7:].split(" ")
            assert current == helped and kind in ("gauge", "counter"), line
            assert current.endswith("_total") == (kind == "counter"), line
            families[current].kind = kind
        else:
            match = _SAMPLE.fullmatch(line)
            assert match is not None and match[1] == current, line
            labels = tuple(_LABEL.findall(match[2] or ""))
            assert ",".join(f'{k}="{v}"' for k, v in labels) == (match[2] or ""), line
            assert labels not in families[current].samples, line
            families[current].samples[labels] = float(match[3])
    assert all(f.kind and f.samples for f in families.values())
    return families


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[HiveClient]:
    daemon = HiveDaemon(settings(free_range()), machine(tmp_path), None)
    await daemon.start()
    async with client(daemon.url) as asked:
        yield asked
    await daemon.stop()


async def scrape(hive: HiveClient) -> dict[str, Family]:
    async with hive.session.get(f"{hive.url}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(await answer.text())


async def test_the_numbers_are_what_happened(hive: HiveClient) -> None:
    before = await scrape(hive)
    downloaded = (await hive.run(ModelDownload(model="builtin:bee-tiny"))).response
    await hive.run(ModelPreload(model_id="bee-tiny"))
    with pytest.raises(RbeeError):
        await hive.run(ModelPreload(model_id="none"))
    preloaded = await scrape(hive)
    await hive.run(ModelPreloadEvict(model_id="bee-tiny"))
    after = await scrape(hive)
    assert preloaded["rbee_hive_preload_models"].samples[()] == 1
    assert preloaded["rbee_hive_preload_bytes"].samples[()] == downloaded.size_bytes
    assert after["rbee_hive_preload_models"].samples[()] == 0
    assert after["rbee_hive_preload_evictions_total"].samples[()] == 1
    assert after["rbee_hive_models_bytes"].samples[()] == downloaded.size_bytes
    assert after["rbee_hive_models_added_bytes_total"].samples[()] == downloaded.size_bytes
    ended = after["rbee_hive_jobs_ended_total"].samples
    assert ended[("lane", "fetch"), ("state", "completed")] == 1
    assert ended[("lane", "load"), ("state", "completed")] == ended[("lane", "load"), ("state", "failed")] == 1
    assert after["rbee_hive_jobs_running"].samples[()] == 0
    assert after["process_open_fds"].samples[()] > 3
    assert after["process_cpu_seconds_total"].samples[()] >= before["process_cpu_seconds_total"].samples[()]
    assert after["rbee_hive_device_workers"].samples[(("device", "cpu"),)] == 0


async def test_the_series_are_the_same_whatever_is_done(hive: HiveClient) -> None:
    def series(families: dict[str, Family]) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {(name, labels) for name, family in families.items() for labels in family.samples}

    before = series(await scrape(hive))
    await hive.run(ModelDownload(model="builtin:bee-tiny"))
    for _ in range(5):
        await hive.run(ModelList())
    assert series(await scrape(hive)) == before


def test_names_carry_their_units_and_labels_are_escaped() -> None:
    gpu = Device(
        id='odd"\\\nid',
        device_id=0,
        device_type="cuda",
        name="A GPU",
        vram_total_mb=24576,
        vram_used_mb=1024,
        temperature_celsius=61.5,
        power_usage_watts=80.25,
        utilization_percent=50.0,
    )
    seen = Seen(
        workers=(),
        restarts=3,
        models=(),
        added_bytes=5,
        downloads=(),
        devices=(gpu,),
        memory=(10, 5),
        lanes={},
        ended={},
        heartbeats_sent=0,
        preloaded={},
        preload_budget=1,
        preload=Counts(),
        usage=Usage(cpu_seconds=0.5, resident=1, started_at=1.5, open_files=None),
    )
    families = parse(render(seen))
    (labels,) = families["rbee_hive_device_vram_used_bytes"].samples
    assert labels == (("device", 'odd\\"\\\\\\nid'),)
    assert families["rbee_hive_device_vram_used_bytes"].samples[labels] == 2**30
    assert families["rbee_hive_device_utilization_ratio"].samples[labels] == 0.5
    assert families["rbee_hive_device_temperature_celsius"].samples[labels] == 61.5
    assert families["rbee_hive_worker_restarts_total"].samples[()] == 3
    assert "process_open_fds" not in families
    measured = {n.removesuffix("_total") for n in families if re.search("memory|vram|size|speed|seconds|heat", n)}
    assert all(name.endswith(_UNITS) for name in measured), measured


def test_a_counter_of_restarts_never_falls() -> None:
    one = WorkerRecord(
        worker_id="a", model="", engine="", worker_type="cpu", device="cpu", port=1, url="", pid=1, status="ready"
    )
    counter = Restarts()
    assert counter.seen([one]) == 0
    assert counter.seen([replace(one, restarts=2), replace(one, worker_id="b", restarts=1)]) == 3
    assert counter.seen([replace(one, restarts=2)]) == 3
    assert counter.seen([]) == 3
    assert counter.seen([one]) == 3
    assert counter.seen([replace(one, restarts=1)]) == 4


async def test_every_line_of_a_hives_log_is_json_and_names_its_job(tmp_path: Path) -> None:
    """Of the real process; a job that breaks unforeseen is logged with its id and its trace."""
    config = settings(free_range(), listen=f"127.0.0.1:{free_port()}")
    paths = machine(tmp_path)
    write_atomic(tmp_path / "hive.json", codec.encode_pretty(config))
    roots = {"CONFIG": paths.config, "CACHE": paths.cache, "DATA": paths.data, "STATE": paths.state}
    env = os.environ | {f"XDG_{name}_HOME": str(root.parent / name.lower()) for name, root in roots.items()}
    with (tmp_path / "hive.log").open("ab") as log:
        argv = [sys.executable, "-m", "rbee.cli.daemons", "hive", "--config", str(tmp_path / "hive.json")]
        daemon = subprocess.Popen(argv, env=env, stderr=log, cwd=Path(__file__).parents[2])
    try:
        async with client(f"http://{config.listen}") as hive:

            async def answers() -> bool:
                try:
                    async with hive.session.get(f"{hive.url}/readyz") as answer:
                        return answer.status == 200
                except OSError:
                    return False

            await eventually(answers)
            models = tmp_path / "cache" / "rbee" / "models"
            models.parent.mkdir(parents=True, exist_ok=True)
            if models.exists():
                models.rmdir()
            models.write_text("no folder")
            job = await hive.submit(ModelPreload(model_id="x"))
            _ = [e async for e in hive.events(job)]
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
    lines = [json.loads(line) for line in (tmp_path / "hive.log").read_text().splitlines()]
    assert lines
    for line in lines:
        assert {"time", "level", "actor", "logger", "message"} <= set(line)
        assert line["actor"] == "hive/h1"
    of_job = [line for line in lines if line.get("job_id") == job]
    assert of_job, [line["message"] for line in lines]
