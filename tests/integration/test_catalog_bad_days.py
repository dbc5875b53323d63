# SPDX-License-Identifier: GPL-3.0-or-later
"""Catalogs under people's hands, several processes, and kill -9."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from rbee.adapters.catalog import ModelCatalog
from rbee.contracts import codec
from rbee.core.records import DownloadProgress, ModelFile, ModelRecord
from rbee.core.slug import slug

NOW = "2026-11-20T12:00:00Z"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def catalog(root: Path) -> ModelCatalog:
    return ModelCatalog(root)


def add(catalog: ModelCatalog, model_id: str, data: bytes = b"x" * 10) -> ModelRecord:
    folder = catalog.folder(model_id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.gguf").write_bytes(data)
    record = ModelRecord(
        id=model_id, name=model_id, path=str(folder / "model.gguf"), size_bytes=len(data), status="available"
    )
    catalog.put(record, NOW)
    return record


def only(catalog: ModelCatalog) -> ModelRecord:
    (found,) = catalog.list()
    return found


# What people do by hand.


def test_metadata_of_another_model_is_told_and_deleted_by_its_folder(catalog: ModelCatalog, root: Path) -> None:
    add(catalog, "org/model")
    shutil.copytree(catalog.folder("org/model"), root / "copy")
    copy, whole = catalog.list()
    assert (whole.id, whole.status) == ("org/model", "available")
    assert (copy.id, copy.status) == ("copy", "failed")
    assert "is of the model 'org/model'" in (copy.error or "")
    found = catalog.get("copy")
    assert found is not None
    assert found == copy
    assert catalog.remove("copy")
    assert [m.id for m in catalog.list()] == ["org/model"]


def test_a_folder_s_own_name_is_no_second_id(catalog: ModelCatalog) -> None:
    add(catalog, "org/model")
    assert catalog.get(slug("org/model")) is None


def test_links_are_followed_and_such_as_lead_nowhere_are_told(catalog: ModelCatalog, root: Path) -> None:
    elsewhere = ModelCatalog(root.parent / "elsewhere")
    add(elsewhere, "linked")
    root.mkdir()
    (root / "linked").symlink_to(elsewhere.folder("linked"))
    (root / "nowhere").symlink_to(root.parent / "not-mounted")
    (root / "loop").symlink_to(root / "loop")
    (root / "file").symlink_to(elsewhere.folder("linked") / "model.gguf")
    told = {m.id: (m.status, m.error) for m in catalog.list()}
    assert told["linked"] == ("available", None)
    assert {k for k, (status, _) in told.items() if status == "failed"} == {"loop", "nowhere"}
    assert "link that leads nowhere" in (told["nowhere"][1] or "")
    assert catalog.remove("nowhere")
    assert catalog.remove("loop")
    assert [m.id for m in catalog.list()] == ["linked"]
    shutil.rmtree(root.parent / "elsewhere")
    assert "link that leads nowhere" in ({m.id: m.error for m in catalog.list()}["linked"] or "")


def test_a_name_that_is_no_utf8_is_told_and_deleted(catalog: ModelCatalog, root: Path) -> None:
    add(catalog, "good")
    odd = root / os.fsdecode(b"odd-\xff\xfe")
    try:
        odd.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    shutil.copy(catalog.folder("good") / "metadata.json", odd)
    told = {m.id: m.status for m in catalog.list()}
    assert told == {"good": "available", "odd-\\xff\\xfe": "failed"}
    assert b"odd-" in codec.encode(catalog.list())
    assert catalog.get("odd-\\xff\\xfe") is not None
    assert catalog.remove("odd-\\xff\\xfe")
    assert [m.id for m in catalog.list()] == ["good"]


def test_what_is_no_file_where_a_file_should_be(catalog: ModelCatalog, root: Path) -> None:
    add(catalog, "good")
    for name in ("folder", "pipe", "loop", "huge"):
        (root / name).mkdir()
    (root / "folder" / "metadata.json").mkdir()
    os.mkfifo(root / "pipe" / "metadata.json")
    (root / "loop" / "metadata.json").symlink_to(root / "loop" / "metadata.json")
    with (root / "huge" / "metadata.json").open("wb") as f:
        f.truncate(2**34)
    (root / "a-file").write_text("x")
    (root / "no-metadata").mkdir()
    told = {m.id: m.error or "" for m in catalog.list()}
    assert set(told) == {"folder", "good", "huge", "loop", "pipe"}
    assert all("metadata.json cannot be read" in told[name] for name in told.keys() - {"good"})
    for name in told.keys() - {"good"}:
        assert catalog.remove(name)
    assert only(catalog).id == "good"


@pytest.mark.parametrize("how", ["folder", "pipe", "link"])
def test_a_model_s_file_that_is_none(catalog: ModelCatalog, how: str, tmp_path: Path) -> None:
    file = Path(add(catalog, "m").path)
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / "gone")
    assert only(catalog).status == "failed"
    assert ("is not a file" if how != "link" else "cannot be found") in (only(catalog).error or "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied_hides_no_other(catalog: ModelCatalog) -> None:
    add(catalog, "good")
    add(catalog, "closed")
    catalog.folder("closed").chmod(0)
    try:
        assert {m.id: m.status for m in catalog.list()} == {"good": "available", "closed": "failed"}
    finally:
        catalog.folder("closed").chmod(0o700)


def test_a_model_of_several_files_needs_all_of_them(catalog: ModelCatalog) -> None:
    folder = catalog.folder("m")
    folder.mkdir(parents=True)
    files = tuple(ModelFile(name=f"part-{n}", size_bytes=4) for n in range(3))
    for file in files:
        (folder / file.name).write_bytes(b"1234")
    record = ModelRecord(id="m", name="m", path=str(folder / "part-0"), size_bytes=12, status="available", files=files)
    catalog.put(record, NOW)
    assert only(catalog).status == "available"
    (folder / "part-2").write_bytes(b"123")
    assert "has 3 bytes, not 4" in (only(catalog).error or "")
    (folder / "part-2").write_bytes(b"1234")
    (folder / "part-1").unlink()
    assert "part-1" in (only(catalog).error or "")
    (folder / "part-1").write_bytes(b"1234")
    mlc = ModelRecord(id="m", name="m", path=str(folder), size_bytes=12, status="available", files=files, format="mlc")
    catalog.put(mlc, NOW)
    assert only(catalog).status == "available"


# Times.


def test_a_record_tells_when_it_came_was_changed_and_used(catalog: ModelCatalog, root: Path) -> None:
    record = add(catalog, "a")
    assert (only(catalog).added_at, only(catalog).updated_at, only(catalog).last_accessed) == (NOW, NOW, NOW)
    catalog.touch("a", "T2")
    assert (only(catalog).updated_at, only(catalog).last_accessed) == (NOW, "T2")
    progress = DownloadProgress(
        bytes_downloaded=1, total_bytes=2, speed_bytes_per_sec=3, eta_seconds=4, started_at=NOW, source_url="x"
    )
    catalog.put(
        ModelRecord(id="a", name="a", path=record.path, size_bytes=10, status="available", download_progress=progress),
        "T3",
    )
    found = only(catalog)
    assert (found.added_at, found.updated_at, found.last_accessed) == (NOW, "T3", "T2")
    assert found.download_progress is None
    catalog.touch("not-there", "T4")
    assert not catalog.folder("not-there").exists()
    # As a release before this one has written it.
    metadata = root / "a" / "metadata.json"
    said = json.loads(metadata.read_text())
    del said["artifact"]["added_at"], said["artifact"]["last_accessed"], said["artifact"]["updated_at"]
    metadata.write_text(json.dumps(said))
    assert (only(catalog).added_at, only(catalog).last_accessed) == (NOW, "T2")


def test_a_record_is_changed_only_as_it_was_read(catalog: ModelCatalog) -> None:
    add(catalog, "a")
    before = catalog.written("a")
    assert before is not None
    Path(before.path).unlink()
    assert only(catalog).status == "failed"
    after = ModelRecord(id="a", name="new", path=before.path, size_bytes=10, status="available")
    assert catalog.change(before, after, "T2")
    assert not catalog.change(before, after, "T3")
    written = catalog.written("a")
    assert written is not None
    assert (written.name, written.status, written.updated_at) == ("new", "available", "T2")
    catalog.remove("a")
    assert not catalog.change(written, after, "T4")
    assert catalog.written("a") is None


# A big catalog is not read anew for every list.


def big(root: Path, count: int = 600) -> ModelCatalog:
    catalog = ModelCatalog(root)
    record = codec.encode_pretty({"artifact": ModelRecord(
        id="ID", name="n", path=f"{root}/ID/model.gguf", size_bytes=1, status="available")})  # fmt: skip
    for number in range(count):
        folder = root / f"m{number:04}"
        folder.mkdir(parents=True)
        (folder / "model.gguf").write_bytes(b"x")
        (folder / "metadata.json").write_bytes(record.replace(b"ID", folder.name.encode()))
    assert len(catalog.list()) == count
    return catalog


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, ModelCatalog]]:
    """Two big catalogs whose folders were left alone for so long that their times prove something, and seen since."""
    roots = [tmp_path_factory.mktemp("old") for _ in range(2)]
    catalogs = [big(root) for root in roots]
    changed = max(folder.stat().st_ctime_ns for root in roots for folder in root.iterdir())
    while time.time_ns() - changed < 2.1 * 10**9:
        time.sleep(0.05)
    for catalog in catalogs:
        for _ in range(3):
            catalog.list()
    return list(zip(roots, catalogs, strict=True))


def test_every_change_to_a_folder_is_in_the_next_list(old: list[tuple[Path, ModelCatalog]]) -> None:
    root, catalog = old[0]
    other = ModelCatalog(root)
    (root / "m0001" / "model.gguf").unlink()
    other.remove("m0002")
    add(other, "m0003", b"y" * 33)
    add(other, "new")
    shutil.rmtree(root / "m0004")
    (root / "m0004").write_text("a file now")
    (root / "m0005").rename(root / "renamed")
    told = {m.id: m for m in catalog.list()}
    assert told["m0001"].status == "failed"
    assert {"m0002", "m0004", "m0005"}.isdisjoint(told)
    assert (told["m0003"].size_bytes, told["new"].status, told["renamed"].status) == (33, "available", "failed")
    assert len(told) == 600 - 3 + 2


def test_a_file_cut_in_place_is_found_at_once_by_id_and_some_lists_later_by_all(
    old: list[tuple[Path, ModelCatalog]],
) -> None:
    root, catalog = old[1]
    cut = {"m0010", "m0300", "m0599"}
    for name in cut:
        os.truncate(root / name / "model.gguf", 0)
    found = catalog.get("m0300")
    assert found is not None
    assert found.status == "failed"
    for _ in range(3):
        told = {m.id for m in catalog.list() if m.status == "failed"}
    assert told == cut


def test_the_same_records_are_told_again_not_made_anew(root: Path) -> None:
    catalog = big(root)
    assert all(a is b for a, b in zip(catalog.list(), catalog.list(), strict=True))


# Many at once.

_WRITER = """
import sys
from pathlib import Path
from rbee.adapters.catalog import ModelCatalog
from rbee.core.records import ModelRecord
root, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
catalog = ModelCatalog(root)
print("begun", flush=True)
for n in range(rounds):
    name = f"m{n % 5}"
    folder = catalog.folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / f".{seed}").write_bytes(b"x" * 10)
        (folder / f".{seed}").replace(folder / "model.gguf")
        catalog.put(ModelRecord(id=name, name=seed, path=str(folder / "model.gguf"), size_bytes=10,
                                status="available"), "T")
    except FileNotFoundError:
        pass  # the other one removed it
    catalog.touch(name, "U")
    catalog.list()
    if n % 3 == 0:
        catalog.remove(name)
"""


def writer(root: Path, rounds: int, seed: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", _WRITER, str(root), str(rounds), seed]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


def whole(root: Path) -> bool:
    """Every entry is whole, or lacks only the file that its remover and its maker fought for."""
    for record in ModelCatalog(root).list():
        if record.status == "failed" and "cannot be found" not in (record.error or ""):
            return False
    return True


def test_two_processes_and_threads_write_at_once(catalog: ModelCatalog, root: Path) -> None:
    children = [writer(root, 150, seed) for seed in "ab"]

    def mine(n: int) -> None:
        add(catalog, f"mine-{n % 4}")
        catalog.touch(f"mine-{n % 4}", "U")
        catalog.list()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(mine, range(80)))
    for child in children:
        child.communicate()
        assert child.returncode == 0
    assert whole(root)
    assert {f"mine-{n}" for n in range(4)} <= {m.id for m in catalog.list() if m.status == "available"}
    # Who makes a file in a folder that is leaving keeps that folder until the next start.
    catalog.sweep()
    assert not [p for p in root.rglob(".*") if p.name.startswith((".metadata", ".removed"))]


def test_killed_at_any_moment_every_entry_is_whole_or_absent(catalog: ModelCatalog, root: Path) -> None:
    add(catalog, "bystander")
    chance = random.Random(7)
    for _ in range(20):
        child = writer(root, 10**9, "k")
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(chance.random() * 0.05)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        for record in ModelCatalog(root).list():
            assert record.status == "available", record.error
    left = ModelCatalog(root)
    left.sweep()
    assert not [p for p in root.rglob(".*") if p.name.startswith((".metadata", ".removed"))]
    assert "bystander" in {m.id for m in left.list()}
    add(left, "after")


# Any order of things.

NAMES = ("a", "org/b", "..", "ü", "x" * 120)


class AnyOrder(RuleBasedStateMachine):
    """A catalog against a dictionary: two readers of the same folder always tell what was put last."""

    root: Path

    def __init__(self) -> None:
        super().__init__()
        shutil.rmtree(self.root, ignore_errors=True)
        self.ours, self.other = ModelCatalog(self.root), ModelCatalog(self.root)
        self.model: dict[str, str] = {}

    @rule(name=st.sampled_from(NAMES), data=st.binary(min_size=1, max_size=3))
    def put(self, name: str, data: bytes) -> None:
        add(self.other, name, data)
        self.model[name] = "available"

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        assert self.ours.remove(name) == (self.model.pop(name, None) is not None)

    @rule(name=st.sampled_from(NAMES))
    def lose_the_file(self, name: str) -> None:
        (self.other.folder(name) / "model.gguf").unlink(missing_ok=True)
        if name in self.model:
            self.model[name] = "failed"

    @rule(name=st.sampled_from(NAMES))
    def touch(self, name: str) -> None:
        self.ours.touch(name, "U")

    @invariant()
    def both_tell_the_same(self) -> None:
        for catalog in (self.ours, self.other):
            assert {m.id: m.status for m in catalog.list()} == self.model
            for name in NAMES:
                found = catalog.get(name)
                assert (found.status if found else None) == self.model.get(name)


def test_any_order_of_things(root: Path) -> None:
    class Here(AnyOrder):
        pass

    Here.root = root
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Here, settings=settings(max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=checks)
    )
