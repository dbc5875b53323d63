# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources: what their texts mean, and files of this machine brought to their place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from threading import Event

import pytest

from rbee.adapters import shipped
from rbee.adapters.sources import Builtin, HuggingFace, LocalFile, Url, default_id, place, safe_filename
from rbee.adapters.sources.huggingface import parse
from rbee.core.errors import Interrupted, InvalidRequest, NotFound, Unauthorized


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("hf:org/repo/sub/Llama-Q4_K_M.gguf", "Llama-Q4_K_M"),
        ("https://host/a/b%20c.gguf?download=true", "b c"),
        ("file:/models/x.gguf", "x"),
        ("builtin:bee-tiny", "bee-tiny"),
    ],
)
def test_default_id(source: str, made: str) -> None:
    assert default_id(source) == made


def test_no_default_id_for_a_bare_host() -> None:
    with pytest.raises(InvalidRequest, match="No name"):
        default_id("https://host/")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("model.gguf", "model.gguf"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\x.gguf", "x.gguf"),
        ("metadata.json", "model.gguf"),
        ("x.gguf.part", "model.gguf"),
        (".hidden", "hidden"),
        ("a b\0c.gguf", "a-b-c.gguf"),
        ("", "model.gguf"),
        ("..", "model.gguf"),
    ],
)
def test_safe_filename(name: str, safe: str) -> None:
    assert safe_filename(name) == safe


def test_each_source_knows_its_own_texts_only() -> None:
    sources = [HuggingFace(), Url(), LocalFile(), Builtin()]
    texts = ["hf:a/b/c.gguf", "https://h/x.gguf", "file:/x.gguf", "builtin:bee-tiny"]
    assert [[s.supports(t) for s in sources] for t in texts] == [[i == j for j in range(4)] for i in range(4)]
    assert not any(s.supports("ftp://h/x") for s in sources)


def test_hugging_face_text_names_repository_and_file() -> None:
    assert parse("hf:org/repo/sub/file.gguf") == ("org/repo", "sub/file.gguf")
    for wrong in ("hf:org/repo", "hf:x", "hf:", "hf:org/repo/../x.gguf"):
        with pytest.raises(InvalidRequest, match="names no file"):
            parse(wrong)


async def test_hugging_face_token_file_must_be_private(tmp_path: Path) -> None:
    token = tmp_path / "hf-token"
    token.write_text("hf_secretsecret\n")
    token.chmod(0o644)
    with pytest.raises(Unauthorized, match="chmod 600"):
        await HuggingFace(token).locate("hf:org/repo/x.gguf", None)


async def test_local_files(tmp_path: Path) -> None:
    file = tmp_path / "my model.gguf"
    file.write_bytes(b"12345")
    located = await LocalFile().locate(f"file:{file}", None)
    assert (located.files[0].path, located.files[0].size, located.files[0].filename) == (file, 5, "my-model.gguf")
    assert (await LocalFile().locate(f"file://{str(file).replace(' ', '%20')}", None)).files[0].path == file
    with pytest.raises(InvalidRequest, match="absolute"):
        await LocalFile().locate("file:relative.gguf", None)
    with pytest.raises(NotFound, match="no file"):
        await LocalFile().locate(f"file:{tmp_path}/gone.gguf", None)
    with pytest.raises(InvalidRequest, match="not a file"):
        await LocalFile().locate(f"file:{tmp_path}", None)


async def test_builtin_is_shipped() -> None:
    located = await Builtin().locate("builtin:bee-tiny", None)
    assert located.files[0].path is not None
    assert located.files[0].path.read_bytes()[:4] == b"GGUF"
    with pytest.raises(NotFound, match="bee-tiny"):
        await Builtin().locate("builtin:bee-tinny", None)
    assert (shipped.providers_dir() / "engines").is_dir()


@pytest.mark.parametrize("ours", [True, False])
def test_place_links_only_what_is_ours_and_tells_the_digest(tmp_path: Path, ours: bool) -> None:
    source, target = tmp_path / "a.gguf", tmp_path / "deep" / "b.gguf"
    source.write_bytes(b"z" * 3_000_000)
    told: list[tuple[int, int | None]] = []
    digest = place(source, target, lambda done, total: told.append((done, total)), Event(), ours=ours)
    assert digest == hashlib.sha256(source.read_bytes()).hexdigest()
    assert target.samefile(source) is ours
    assert told[-1] == (3_000_000, 3_000_000)
    assert place(source, target, lambda *_: None, Event()) == digest
    assert [p.name for p in target.parent.iterdir()] == ["b.gguf"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_place_copies_from_another_file_system(tmp_path: Path) -> None:
    source = Path("/dev/shm") / f"rbee-test-{os.getpid()}.gguf"
    source.write_bytes(b"q" * 2_000_000)
    try:
        if source.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("the same file system")
        target = tmp_path / "b.gguf"
        digest = place(source, target, lambda *_: None, Event())
        assert target.read_bytes() == source.read_bytes()
        assert not target.samefile(source)
        assert digest == hashlib.sha256(source.read_bytes()).hexdigest()
    finally:
        source.unlink()


def test_place_cancelled_leaves_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "a.gguf", tmp_path / "deep" / "b.gguf"
    source.write_bytes(b"z" * 100)
    cancelled = Event()
    cancelled.set()
    with pytest.raises(Interrupted):
        place(source, target, lambda *_: None, cancelled)
    assert list(target.parent.iterdir()) == []
    assert source.exists()
