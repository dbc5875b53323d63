# SPDX-License-Identifier: GPL-3.0-or-later
"""Catalogs on disk: what is there is told, what is broken is told too, nothing escapes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rbee.adapters.catalog import BinaryEntry, ModelCatalog, WorkerBinaryCatalog
from rbee.adapters.paths import write_atomic
from rbee.contracts import codec
from rbee.core.providers import EngineProvider
from rbee.core.records import ModelRecord, WorkerBinary

NOW = "2026-11-20T12:00:00Z"
LATER = "2026-11-20T13:00:00Z"


def model(catalog: ModelCatalog, model_id: str, data: bytes = b"x" * 10) -> ModelRecord:
    folder = catalog.folder(model_id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.gguf").write_bytes(data)
    record = ModelRecord(
        id=model_id, name=model_id, path=str(folder / "model.gguf"), size_bytes=len(data), status="available"
    )
    catalog.put(record, NOW)
    return record


@pytest.fixture
def catalog(tmp_path: Path) -> ModelCatalog:
    return ModelCatalog(tmp_path / "models")


def test_empty_catalog_of_a_folder_that_is_not_there(catalog: ModelCatalog) -> None:
    assert catalog.list() == []
    assert catalog.get("llama") is None
    assert not catalog.remove("llama")


def test_put_get_list_remove(catalog: ModelCatalog, tmp_path: Path) -> None:
    model(catalog, "b")
    model(catalog, "a")
    assert [m.id for m in catalog.list()] == ["a", "b"]
    found = catalog.get("a")
    assert found is not None
    assert found.status == "available"
    assert found.added_at == NOW
    written = json.loads((tmp_path / "models" / "a" / "metadata.json").read_text())
    assert written["artifact"]["id"] == "a"
    assert written["added_at"] == NOW
    assert catalog.remove("a")
    assert [m.id for m in catalog.list()] == ["b"]
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == ["b"]


@pytest.mark.parametrize(
    "path",
    ["a\0b", "", "/proc/self/mem/x", "relative", "/" + "x" * 5000],
    ids=["nul", "empty", "odd", "relative", "long"],
)
def test_hostile_metadata_hides_no_other(catalog: ModelCatalog, path: str) -> None:
    model(catalog, "good")
    catalog.put(ModelRecord(id="bad", name="bad", path=path, size_bytes=10, status="available"), NOW)
    deep = catalog.folder("deep") / "metadata.json"
    write_atomic(deep, b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    assert {m.id: m.status for m in catalog.list()} == {"good": "available", "bad": "failed", "deep": "failed"}


def test_touch_and_a_second_put_keep_when_it_was_added(catalog: ModelCatalog, tmp_path: Path) -> None:
    record = model(catalog, "a")
    catalog.touch("a", LATER)
    written = json.loads((tmp_path / "models" / "a" / "metadata.json").read_text())
    assert (written["added_at"], written["last_accessed"]) == (NOW, LATER)
    catalog.put(record, LATER)
    found = catalog.get("a")
    assert found is not None
    assert found.added_at == NOW


@pytest.mark.parametrize("text", [b"", b'{"artifact": {"id": "a", "na', b"[]", b"\xff\xfe", b'{"artifact": {}}'])
def test_half_written_metadata_is_a_failed_record_among_good_ones(catalog: ModelCatalog, text: bytes) -> None:
    model(catalog, "good")
    catalog.folder("hurt").mkdir(parents=True)
    (catalog.folder("hurt") / "metadata.json").write_bytes(text)
    good, hurt = catalog.list()
    assert good.status == "available"
    assert (hurt.id, hurt.status) == ("hurt", "failed")
    assert "metadata.json cannot be read" in (hurt.error or "")
    assert catalog.remove("hurt")
    assert [m.id for m in catalog.list()] == ["good"]


def test_file_deleted_or_cut_by_hand_is_told(catalog: ModelCatalog) -> None:
    gone, cut = model(catalog, "gone"), model(catalog, "cut")
    Path(gone.path).unlink()
    Path(cut.path).write_bytes(b"xx")
    assert [(m.id, m.status) for m in catalog.list()] == [("cut", "failed"), ("gone", "failed")]
    found_cut, found_gone = catalog.get("cut"), catalog.get("gone")
    assert found_cut is not None
    assert found_gone is not None
    assert "has 2 bytes, not 10" in (found_cut.error or "")
    assert "cannot be found" in (found_gone.error or "")


def test_metadata_changed_by_another_process_is_seen(catalog: ModelCatalog, tmp_path: Path) -> None:
    model(catalog, "a")
    catalog.list()
    other = ModelCatalog(tmp_path / "models")
    model(other, "a", b"y" * 20)
    found = catalog.get("a")
    assert found is not None
    assert found.size_bytes == 20


@pytest.mark.parametrize("hostile", ["../../outside", "/etc/passwd", "..", ".", "a/../../b", "x\0y", ".hidden"])
def test_hostile_ids_stay_inside(catalog: ModelCatalog, tmp_path: Path, hostile: str) -> None:
    (tmp_path / "outside").mkdir()
    model(catalog, hostile)
    assert catalog.folder(hostile).resolve().parent == (tmp_path / "models").resolve()
    assert [m.id for m in catalog.list()] == [hostile]
    assert catalog.remove(hostile)
    assert (tmp_path / "outside").exists()
    assert list((tmp_path / "models").iterdir()) == []


def test_removing_a_link_leaves_what_it_points_to(catalog: ModelCatalog, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    model(ModelCatalog(elsewhere), "a")
    (tmp_path / "models").mkdir()
    catalog.folder("a").symlink_to(elsewhere / "a")
    assert [m.id for m in catalog.list()] == ["a"]
    assert catalog.remove("a")
    assert (elsewhere / "a" / "model.gguf").exists()


def test_sweep_ends_a_removal_that_was_cut_short(catalog: ModelCatalog, tmp_path: Path) -> None:
    model(catalog, "a")
    (tmp_path / "models" / ".removed-0123").mkdir()
    catalog.sweep()
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == ["a"]


def engine(python: str = sys.executable, worker_type: str = "cpu") -> BinaryEntry:
    return BinaryEntry(
        artifact=WorkerBinary(
            id="llama-cpp-1-linux-x86_64",
            engine="llama-cpp",
            version="1",
            worker_type=worker_type,
            platform="linux-x86_64",
            path="/x",
            python=python,
        ),
        provider=EngineProvider(
            kind="engine",
            name="llama-cpp",
            version="1",
            summary="s",
            worker_types=("cpu",),
            formats=("gguf",),
            module="m",
            distribution="d",
            command=("{python}",),
        ),
        added_at=NOW,
    )


def test_worker_binaries_are_read_and_a_lost_interpreter_is_told(tmp_path: Path) -> None:
    write_atomic(tmp_path / "one" / "metadata.json", codec.encode_pretty(engine()))
    write_atomic(tmp_path / "two" / "metadata.json", codec.encode_pretty(engine("/no/such/python")))
    write_atomic(tmp_path / "hurt" / "metadata.json", b"{")
    catalog = WorkerBinaryCatalog(tmp_path)
    assert [b.status for b in catalog.list()] == ["failed", "available", "failed"]
    hurt, one, two = catalog.entries()
    assert one.runs("cpu", "gguf")
    assert not one.runs("cuda", "gguf")
    assert not one.runs("cpu", "mlc")
    assert not two.runs("cpu", "gguf")
    assert not hurt.runs("cpu", "gguf")
    assert "Its Python is gone" in (two.artifact.error or "")
