# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of several files on the controller: what plan takes their digest to be."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rbee.adapters.digests import Digests
from rbee.adapters.sources import build_sources, shipped_sources, source_for
from rbee.cli.planning import file_digests
from rbee.core.errors import NotFound, RbeeError
from rbee.core.model_files import together
from rbee.core.spec import ModelSpec, Spec
from tests.support.gguf_bytes import write_parts
from tests.support.mlc_folder import write_mlc


def of(path: Path, cache: Path) -> str:
    spec = Spec(version=1, fleet="f", models={"m": ModelSpec(name="m", source=f"file:{path}")})
    return file_digests(spec, Digests(cache))["m"]


@pytest.mark.parametrize("kind", ["one", "parts", "mlc"])
async def test_the_digest_is_of_the_files_that_a_hive_takes(tmp_path: Path, kind: str) -> None:
    if kind == "mlc":
        path = write_mlc(tmp_path / "x-MLC")
        (path / "notes.txt").write_text("no part of it")
    elif kind == "parts":
        path = write_parts(tmp_path, name="my big")[1]
    else:
        path = tmp_path / "x.gguf"
        path.write_bytes(b"GGUF")
    source = source_for("file:", build_sources(shipped_sources(), tmp_path))
    located = await source.locate(f"file:{path}", None)
    pairs = []
    for file in located.files:
        assert file.path is not None
        pairs.append((file.filename, hashlib.sha256(file.path.read_bytes()).hexdigest()))
    assert of(path, tmp_path / "cache") == together(pairs)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(RbeeError, match="cannot be read") as refused:
        of(tmp_path / "gone.gguf", tmp_path)
    assert refused.value.code == "unreadable_model"
    with pytest.raises(NotFound, match="no MLC model"):
        of(tmp_path, tmp_path / "cache")
