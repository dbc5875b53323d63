# SPDX-License-Identifier: GPL-3.0-or-later
"""The hive's decisions, each alone: admission, threads, ports, health, files."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters import gguf, shipped
from rbee.adapters.catalog import BinaryEntry
from rbee.adapters.trees import Memory
from rbee.contracts import defaults
from rbee.contracts.configs import WorkerConfig
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.errors import Conflict, Insufficient, InvalidRequest, NotFound, RbeeError
from rbee.core.providers import EngineProvider, Needs
from rbee.core.records import Device, ModelRecord, WorkerBinary, WorkerStatus
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive import ports
from rbee.daemons.hive.workers import admission, files, health, sizing
from rbee.daemons.hive.workers.files import ProcessFile, WorkerFolder, folders
from rbee.daemons.hive.workers.managed import Managed
from rbee.daemons.hive.workers.supervisor import Supervisor

CPU = Device(id="cpu", device_id=0, device_type="cpu", name="c", cores=8)
GPU = Device(id="cuda:1", device_id=1, device_type="cuda", name="g", vram_total_mb=8000, vram_free_mb=1)
MODEL = ModelRecord(id="m", name="m", path="/m.gguf", size_bytes=10**9, status="available")
SPAWN = WorkerSpawn(model="m")


def provider(**changes: object) -> EngineProvider:
    said: dict[str, object] = {
        "kind": "engine",
        "name": "llama-cpp",
        "version": "1",
        "summary": "s",
        "worker_types": ("cpu",),
        "formats": ("gguf",),
        "module": "m",
        "distribution": "d",
        "command": ("x",),
    }
    return EngineProvider(**{**said, **changes})  # type: ignore[arg-type]


def installed(added_at: str, **changes: object) -> BinaryEntry:
    artifact = WorkerBinary(
        id=f"llama-cpp-{added_at}", engine="llama-cpp", version="1", worker_type="cpu", platform="p", path="/p"
    )
    return BinaryEntry(artifact=artifact, provider=provider(**changes), added_at=added_at)


def test_a_model_that_is_not_ready_says_why() -> None:
    assert admission.model_ready("m", [MODEL]) is MODEL
    with pytest.raises(RbeeError, match="cut short"):
        admission.model_ready("m", [replace(MODEL, status="failed", error="cut short")])
    with pytest.raises(RbeeError, match="being downloaded"):
        admission.model_ready("m", [replace(MODEL, status="downloading")])
    with pytest.raises(NotFound, match="Download it first"):
        admission.model_ready("m", [])


def test_device_must_be_there() -> None:
    assert admission.choose_device(SPAWN, [CPU, GPU]) is CPU
    assert admission.choose_device(replace(SPAWN, worker="cuda", device=1), [CPU, GPU]) is GPU
    with pytest.raises(NotFound, match=r"no device cuda:0 .* It has: cpu, cuda:1"):
        admission.choose_device(replace(SPAWN, worker="cuda"), [CPU, GPU])


def test_newest_engine_that_can_is_taken() -> None:
    old, new = installed("2026-01-01"), installed("2026-02-01")
    assert admission.choose_engine(SPAWN, MODEL, [new, old], (), "x86_64") is new
    with pytest.raises(NotFound, match="mlc models on cpu"):
        admission.choose_engine(SPAWN, replace(MODEL, format="mlc"), [new], (), "x86_64")
    broken = replace(new, artifact=replace(new.artifact, status="failed", error="Its Python is gone"))
    with pytest.raises(NotFound, match="Its Python is gone"):
        admission.choose_engine(SPAWN, MODEL, [broken], (), "x86_64")


def test_cpu_without_the_instructions_is_refused_with_the_mend() -> None:
    entry = installed("1", needs=Needs(cpu_flags={"x86_64": ("avx2",)}, hints={"avx2": "Take another hive."}))
    with pytest.raises(RbeeError, match=r"lacks: avx2\. Take another hive"):
        admission.choose_engine(SPAWN, MODEL, [entry], ("sse",), "x86_64")
    assert admission.choose_engine(SPAWN, MODEL, [entry], ("sse", "avx2"), "x86_64") is entry
    assert admission.choose_engine(SPAWN, MODEL, [entry], ("sse",), "arm64") is entry


def test_memory_is_told_with_both_numbers() -> None:
    header = gguf.read_header(shipped.builtin_model("bee-tiny"))
    small = sizing.needs_of(replace(SPAWN, options=WorkerOptions(context_length=128, parallel=1)), MODEL, header)
    large = sizing.needs_of(replace(SPAWN, options=WorkerOptions(context_length=512, parallel=64)), MODEL, header)
    assert (small.slots, small.context_length) == (1, 128)
    assert small.memory < large.memory
    sizing.check_memory(MODEL, small, CPU, small.memory)
    with pytest.raises(Insufficient, match=rf"about {large.memory / 1e6:,.0f} MB with 64 slots of 512 .* 1 MB are"):
        sizing.check_memory(MODEL, large, CPU, 10**6)
    with pytest.raises(Insufficient, match=r"on cuda:1"):
        sizing.check_memory(MODEL, large, GPU, sizing.available_on(GPU, 10**12, 0))
    assert sizing.available_on(replace(GPU, vram_free_mb=10), 0, 5) == 10 * 2**20 - 5
    assert sizing.available_on(replace(GPU, vram_free_mb=10), 0, 10**9) == 0
    assert sizing.available_on(replace(GPU, vram_free_mb=None), 0, 0) is None
    assert sizing.available_on(replace(GPU, device_type="metal", vram_free_mb=None), 5, 0) == 5
    assert sizing.available_on(CPU, -1, 0) == 0
    sizing.check_memory(MODEL, large, replace(GPU, vram_free_mb=None), None)
    unknown = sizing.needs_of(SPAWN, MODEL, None)
    assert unknown.memory > MODEL.size_bytes
    assert unknown.context_length is None


def test_threads_are_shared_and_refused_when_used_up() -> None:
    assert sizing.share_threads(None, 2, {}) == 1
    assert sizing.share_threads(None, 8, {}) == 4
    assert sizing.share_threads(None, 8, {"a": 7}) == 1
    assert sizing.share_threads(6, 8, {"a": 2}) == 6
    with pytest.raises(Insufficient, match=r"needs 1 CPU thread; 0 of 2 cores are left \(a 1, b 1\)"):
        sizing.share_threads(None, 2, {"a": 1, "b": 1})
    with pytest.raises(InvalidRequest, match="has 2 cores"):
        sizing.share_threads(3, 2, {})


@given(st.integers(1, 64), st.lists(st.one_of(st.none(), st.integers(1, 64)), max_size=20))
def test_threads_given_never_exceed_the_cores(cores: int, wanted: list[int | None]) -> None:
    given_: dict[str, int] = {}
    for i, want in enumerate(wanted):
        try:
            given_[str(i)] = sizing.share_threads(want, cores, given_)
        except RbeeError:
            continue
        assert given_[str(i)] >= 1
    assert sum(given_.values()) <= cores


def test_ports_are_bind_tested() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not ports.is_free("127.0.0.1", port)
        with pytest.raises(Conflict, match=f"Port {port} is taken"):
            ports.pick("127.0.0.1", (1, 2), set(), port)
        with pytest.raises(Insufficient, match="worker_ports"):
            ports.pick("127.0.0.1", (port, port), set())
    assert ports.pick("127.0.0.1", (port, port), set()) == port
    with pytest.raises(Insufficient):
        ports.pick("127.0.0.1", (port, port), {port})


def test_wildcards_become_an_address() -> None:
    assert ports.reachable_host("127.0.0.1") == "127.0.0.1"
    assert ports.reachable_host("gpu.home.arpa") == "gpu.home.arpa"
    assert ports.reachable_host("0.0.0.0") not in ("0.0.0.0", "")
    assert ports.reachable_host("::") not in ("::", "")
    assert ports.join("::1", 80) == "[::1]:80"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'{"status": "busy", "progress": 1.0}', health.Health(status="busy", progress=1.0)),
        (200, b"ok", health.Health(status="ready")),
        (503, b'{"status": "starting", "progress": 0.5}', health.Health(status="starting", progress=0.5)),
        (503, b'{"status": "failed", "reason": "bad"}', health.Health(status="failed", reason="bad")),
        (503, b'{"error": {"message": "oh"}}', health.Health(status="unknown", reason="oh")),
        (502, b"\xff", health.Health(status="unknown")),
    ],
)
def test_health_is_read_as_said(status: int, body: bytes, said: health.Health) -> None:
    assert health.parse(status, body) == said


def config(**changes: object) -> WorkerConfig:
    said: dict[str, object] = {
        "worker_id": "w1",
        "hive_id": "h",
        "fleet": "f",
        "model": "m",
        "model_path": "/m",
        "provider": provider(),
        "engine_python": "/p",
        "worker_type": "cpu",
        "device": "cpu",
        "listen": "127.0.0.1:9300",
        "url": "http://127.0.0.1:9300",
    }
    return WorkerConfig(**{**said, **changes})  # type: ignore[arg-type]


def test_worker_folder_is_read_back_and_unreadable_settings_are_none(tmp_path: Path) -> None:
    folder = WorkerFolder.of(tmp_path, "../w1")
    assert folder.path.parent == tmp_path
    said = config(worker_id="../w1")
    folder.save_config(said)
    state = ProcessFile(pid=5, start_time=6, port=9300, status="ready", was_ready=True)
    folder.save_process(state)
    assert folder.load() == (said, state)
    assert folder.config_file.stat().st_mode & 0o777 == 0o600
    assert folders(tmp_path) == [folder]
    (folder.path / "process.json").unlink()
    found = folder.load()
    assert found is not None
    assert (found[1].status, found[1].port) == ("failed", 9300)
    folder.save_config(config())
    assert folder.load() is None, "they are another worker's"
    folder.config_file.write_text("{")
    assert folder.load() is None
    folder.remove()
    assert folders(tmp_path) == folders(tmp_path / "nothing") == []


def test_log_is_bounded_and_its_last_words_are_read(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    assert folder.last_words() == ""
    folder.log.write_text('{"message": "first"}\n{"level": "error", "message": "no memory"}\n\n')
    assert folder.last_words() == "no memory"
    folder.log.write_text("Traceback\nOSError: gone\n")
    assert folder.last_words() == "OSError: gone"
    with folder.log.open("ab") as writing:
        os.ftruncate(writing.fileno(), files.LOG_LIMIT)
        folder.bound_log()
        assert folder.log.stat().st_size == files.LOG_LIMIT
        os.ftruncate(writing.fileno(), files.LOG_LIMIT + 1)
        folder.bound_log()
        assert folder.log.stat().st_size == 0
        writing.write(b"later\n")
    assert folder.log.read_bytes() == b"later\n"
    older = tmp_path / "worker.log.1"
    assert (older.stat().st_size, older.stat().st_mode & 0o777) == (files.LOG_LIMIT + 1, 0o600)
    assert not list(tmp_path.glob(".worker*"))


def test_a_log_that_grew_without_measure_keeps_its_newest_part(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    with folder.log.open("wb") as f:
        os.ftruncate(f.fileno(), 20 * defaults.LOG_BYTES)
        f.seek(0, os.SEEK_END)
        f.write(b"the last line\n")
    folder.bound_log()
    older = tmp_path / "worker.log.1"
    assert folder.log.stat().st_size == 0
    assert older.stat().st_size <= 3 * defaults.LOG_BYTES
    assert older.read_bytes().endswith(b"the last line\n")


def test_a_log_is_bounded_also_where_no_copy_can_be_made(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    with folder.log.open("wb") as f:
        os.ftruncate(f.fileno(), files.LOG_LIMIT + 1)
    (tmp_path / "worker.log.1").mkdir()
    folder.bound_log()
    assert folder.log.stat().st_size == 0
    assert not list(tmp_path.glob(".worker*"))


def test_memory_that_looks_available_and_is_not(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, "127.0.0.1", (1, 2), lambda: 2, lambda change: None)

    def held(worker_id: str, pid: int, status: WorkerStatus, model_path: str = "/m") -> None:
        worker = Managed(
            config=config(worker_id=worker_id, model_path=model_path),
            folder=WorkerFolder.of(tmp_path, worker_id),
            state=ProcessFile(pid=pid, status=status, predicted=1000),
        )
        supervisor._workers[worker_id] = worker

    sizes = {1: Memory(300, 100), 2: Memory(900, 500), 3: Memory(900, 400), 4: Memory(700, 50)}
    held("loading", 1, "starting", "/other")
    assert supervisor.spoken_for("cpu", sizes) == 700 + 100
    held("one", 2, "ready")
    held("two", 3, "busy")
    assert supervisor.spoken_for("cpu", sizes) == 700 + 100 + 500
    held("gone", 4, "failed", "/third")
    assert supervisor.spoken_for("cpu", sizes) == 700 + 100 + 500
    assert supervisor.spoken_for("cuda:0", sizes) == 0
