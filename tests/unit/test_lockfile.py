# SPDX-License-Identifier: GPL-3.0-or-later
"""rbee.lock: what is pinned, for whom the pin holds, and what is dropped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbee.adapters.lockfile import read, read_pins, update
from rbee.core.desired import Pin
from rbee.core.errors import RbeeError
from rbee.core.spec import ModelSpec

SHA, OTHER = "a" * 64, "b" * 64
SOURCE = "hf:org/tiny.gguf"


def models(*found: ModelSpec) -> dict[str, ModelSpec]:
    return {m.name: m for m in found or (ModelSpec(name="tiny", source=SOURCE),)}


def told(source: str = SOURCE, sha256: str | None = SHA, **kw: str | None) -> dict[str, str | None]:
    return {"source": source, "sha256": sha256, **kw}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "rbee.lock"


def test_no_file_is_no_pins(lock: Path) -> None:
    assert read(lock) == {}
    assert read_pins(lock, models()) == {}


def test_what_was_fetched_is_pinned_and_read_again(lock: Path) -> None:
    of = models(ModelSpec(name="tiny", source=SOURCE, revision="v1"))
    assert update(lock, {"tiny": told(revision="v1", commit="c0ffee")}, of)
    assert read(lock) == {"tiny": Pin(source=SOURCE, sha256=SHA, revision="v1", commit="c0ffee")}
    assert read_pins(lock, of) == read(lock)
    assert json.loads(lock.read_text())["version"] == 1
    assert lock.read_bytes().endswith(b"}\n")


def test_what_is_the_same_is_not_written_again(lock: Path) -> None:
    update(lock, {"tiny": told()}, models())
    before = lock.stat()
    assert not update(lock, {"tiny": told()}, models())
    assert not update(lock, {}, models())
    assert (lock.stat().st_ino, lock.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_without_anything_to_pin_no_file_is_made(lock: Path) -> None:
    assert not update(lock, {}, models())
    assert not lock.exists()


@pytest.mark.parametrize(
    "now", [ModelSpec(name="tiny", source="hf:org/other.gguf"), ModelSpec(name="tiny", source=SOURCE, revision="v2")]
)
def test_a_pin_holds_only_for_its_source_and_revision(lock: Path, now: ModelSpec) -> None:
    update(lock, {"tiny": told()}, models())
    assert read_pins(lock, models(now)) == {}
    assert update(lock, {"tiny": told(now.source, OTHER, revision=now.revision)}, models(now))
    assert {name: pin.sha256 for name, pin in read_pins(lock, models(now)).items()} == {"tiny": OTHER}


def test_models_that_the_file_names_no_more_are_dropped(lock: Path) -> None:
    both = models(ModelSpec(name="tiny", source=SOURCE), ModelSpec(name="big", source="https://host/big.gguf"))
    update(lock, {"tiny": told(), "big": told("https://host/big.gguf")}, both)
    assert list(json.loads(lock.read_text())["models"]) == ["big", "tiny"]  # sorted: quiet in version control
    assert update(lock, {}, models())
    assert set(read(lock)) == {"tiny"}


@pytest.mark.parametrize(
    "fetched",
    [
        {"tiny": told("file:/m/tiny.gguf")},
        {"tiny": told("builtin:bee-tiny")},
        {"tiny": told(sha256=None)},
        {"tiny": told(sha256="")},
        {"unknown": told()},
    ],
)
def test_what_is_not_pinned(lock: Path, fetched: dict[str, dict[str, str | None]]) -> None:
    assert not update(lock, fetched, models())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "models": {"tiny": {}}}', "\xff"])
def test_what_is_no_lock_is_refused_with_a_mend(lock: Path, text: str) -> None:
    lock.write_text(text, encoding="latin-1")
    with pytest.raises(RbeeError) as e:
        read_pins(lock, models())
    assert e.value.code == "bad_lock"
    assert str(lock) in e.value.message
    assert "version control" in e.value.mend


def test_a_lock_of_another_version_is_not_guessed_at(lock: Path) -> None:
    lock.write_text('{"version": 2, "models": {}}')
    with pytest.raises(RbeeError, match="has version 2; this rbee reads 1"):
        update(lock, {}, models())
    assert "2" in lock.read_text()


def test_a_lock_that_cannot_be_read(lock: Path) -> None:
    lock.mkdir()
    with pytest.raises(RbeeError) as e:
        read(lock)
    assert e.value.code == "bad_lock"
