# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests of big files: read once for each content, whatever becomes of the cache."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from rbee.adapters.digests import Digests


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def rewrite_unseen(path: Path, text: str) -> None:
    """Another content of the same size and time: only who reads the file again can see it."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x" * (2**20 + 5))  # more than one chunk
    assert Digests(tmp_path / "cache").of(path) == hashlib.sha256(b"x" * (2**20 + 5)).hexdigest()


def test_a_file_is_read_once_also_by_the_next_program(tmp_path: Path) -> None:
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    path.write_text("one")
    first = Digests(cache)
    assert first.of(path) == sha("one")
    rewrite_unseen(path, "two")
    assert first.of(path) == sha("one")
    assert Digests(cache).of(path) == sha("one")


def test_another_size_or_time_is_another_content_and_the_old_one_is_forgotten(tmp_path: Path) -> None:
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    known = Digests(cache)
    path.write_text("one")
    known.of(path)
    path.write_text("longer")
    assert known.of(path) == sha("longer")
    path.write_text("LONGER")
    os.utime(path, ns=(1, 1))
    assert known.of(path) == sha("LONGER")
    assert list(json.loads((cache / "digests.json").read_text()).values()) == [sha("LONGER")]


def test_a_link_is_the_file_that_it_leads_to(tmp_path: Path) -> None:
    path, link, known = tmp_path / "m.gguf", tmp_path / "link", Digests(tmp_path / "cache")
    path.write_text("one")
    link.symlink_to(path)
    known.of(path)
    rewrite_unseen(path, "two")
    assert known.of(link) == sha("one")


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff\xfe"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    path.write_text("one")
    cache.mkdir()
    (cache / "digests.json").write_bytes(damage)
    assert Digests(cache).of(path) == sha("one")
    assert list(json.loads((cache / "digests.json").read_text()).values()) == [sha("one")]


def test_a_cache_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    path.write_text("one")
    cache.write_text("a file where the directory should be")
    assert Digests(cache).of(path) == sha("one")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Digests(tmp_path / "cache").of(tmp_path / "none")
