# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources: what their texts mean, and files of this machine brought to their place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from threading import Event

import pytest

from rbee.adapters import shipped
from rbee.adapters.sources import Source, build_sources, place, safe_filename, shipped_sources, source_for
from rbee.adapters.sources.account import Account
from rbee.adapters.sources.base import said_sha256, said_size
from rbee.core.errors import Interrupted, InvalidRequest, NotFound, RbeeError, Unauthorized
from rbee.core.sources import SourceProvider


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


def test_each_source_knows_its_own_texts_only(tmp_path: Path) -> None:
    sources = build_sources(shipped_sources(), tmp_path)
    texts = ["builtin:bee-tiny", "GH:o/r@v", "a/b:Q8_0", "file:/x.gguf", "ollama:x", "https://h/x.gguf"]
    assert [[s.supports(t) for s in sources] for t in texts] == [[i == j for j in range(6)] for i in range(6)]
    assert source_for("HF:a/b", sources).name == "Hugging Face"
    with pytest.raises(InvalidRequest, match=r"no source of models\. Did you mean 'ollama:'"):
        source_for("olama:x", sources)


def test_what_a_server_says_of_a_file_is_checked() -> None:
    digest = "ab" * 32
    assert said_sha256(f"sha256:{digest.upper()}", "h") == digest
    assert (said_sha256(None, "h"), said_size(None, "h"), said_size(0, "h")) == (None, None, 0)
    with pytest.raises(RbeeError, match="no SHA-256") as refused:
        said_sha256("md5:123", "h")
    assert refused.value.code == "bad_answer"
    with pytest.raises(RbeeError, match="-1 bytes"):
        said_size(-1, "h")


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [("hf_secretsecret\n", 0o644, "chmod 600"), ("two words", 0o600, "holds no token"), ("a\nb: c", 0o600, "no token")],
)
async def test_a_token_file_must_be_private_and_hold_one_token(tmp_path: Path, text: str, mode: int, said: str) -> None:
    token = tmp_path / "hf-token"
    token.write_text(text)
    token.chmod(mode)
    with pytest.raises(Unauthorized, match=said) as refused:
        await account(tmp_path, token_file="hf-token").token()
    assert text not in str(refused.value)


def account(folder: Path, **said: object) -> Account:
    provider = SourceProvider(
        kind="source",
        name="x",
        title="X",
        summary="",
        protocol="huggingface",
        prefixes=("x:",),
        **said,  # type: ignore[arg-type]
    )
    return Account(provider, folder, "https://default.example")


async def test_tokens_come_from_the_file_then_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The environment is where a user puts them.
    for name in ("X_TOKEN", "Y_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    asked = account(tmp_path, token_file="t", token_env=("X_TOKEN", "Y_TOKEN"), hub_login=True)
    assert await asked.token() is None
    assert "the variable X_TOKEN, or a file" in asked.token_advice
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("kept\n")
    assert await asked.token() == "kept"
    assert await account(tmp_path).token() is None
    monkeypatch.setenv("Y_TOKEN", "of-y")
    assert await asked.token() == "of-y"
    file = tmp_path / "t"
    file.touch(mode=0o600)
    assert await asked.token() == "of-y"
    file.write_text("of-file")
    assert await asked.token() == "of-file"


def test_the_endpoint_may_be_said_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = account(tmp_path, endpoint="https://own.example/base/", endpoint_env="X_ENDPOINT")
    monkeypatch.delenv("X_ENDPOINT", raising=False)
    assert account(tmp_path).endpoint == "https://default.example"
    assert asked.endpoint == "https://own.example/base"
    monkeypatch.setenv("X_ENDPOINT", "http://mirror:8080/")
    assert asked.endpoint == "http://mirror:8080"
    for wrong in ("mirror:8080", "file:///etc", "https://me:s3cret@h", "https://[::1"):
        monkeypatch.setenv("X_ENDPOINT", wrong)
        with pytest.raises(InvalidRequest, match="Set X_ENDPOINT to https://HOST") as refused:
            assert asked.endpoint
        assert "s3cret" not in str(refused.value)


@pytest.fixture
def local(tmp_path: Path) -> Source:
    return source_for("file:/x", build_sources(shipped_sources(), tmp_path))


async def test_local_files(tmp_path: Path, local: Source) -> None:
    file = tmp_path / "my model.gguf"
    file.write_bytes(b"12345")
    located = await local.locate(f"file:{file}", None)
    assert (located.files[0].path, located.files[0].size, located.files[0].filename) == (file, 5, "my-model.gguf")
    assert (await local.locate(f"file://{str(file).replace(' ', '%20')}", None)).files[0].path == file
    assert (await local.locate(f"local:{file}", None)).files[0].path == file
    for source, said in [
        ("file:relative.gguf", "absolute"),
        (f"file:{tmp_path}/a\0b.gguf", "absolute"),
        (f"file:{tmp_path}", "is a folder, and no MLC model. It has my model.gguf"),
    ]:
        with pytest.raises(InvalidRequest, match=said):
            await local.locate(source, None)
    with pytest.raises(NotFound, match="no file"):
        await local.locate(f"file:{tmp_path}/gone.gguf", None)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(InvalidRequest, match="not a file"):
        await local.locate(f"file:{tmp_path}/pipe.gguf", None)


async def test_local_parts_belong_together(tmp_path: Path, local: Source) -> None:
    names = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for name in names:
        (tmp_path / name).write_bytes(b"12")
    located = await local.locate(f"file:{tmp_path}/{names[1]}", None)
    assert ([f.filename for f in located.files], located.size) == (names, 6)
    (tmp_path / names[2]).unlink()
    with pytest.raises(NotFound, match=f"{names[2]} is missing"):
        await local.locate(f"file:{tmp_path}/{names[0]}", None)
    with pytest.raises(NotFound, match="no file"):
        await local.locate(f"file:{tmp_path}/other-00001-of-00002.gguf", None)


async def test_a_local_mlc_folder(tmp_path: Path, local: Source) -> None:
    for name in ("mlc-chat-config.json", "ndarray-cache.json", "params_shard_0.bin", "tokenizer.json", "notes.txt"):
        (tmp_path / name).write_bytes(b"{}")
    located = await local.locate(f"local:{tmp_path}", None)
    assert located.format == "mlc"
    assert [f.filename for f in located.files] == [
        *("mlc-chat-config.json", "ndarray-cache.json", "params_shard_0.bin", "tokenizer.json")
    ]


async def test_urls_are_taken_as_they_are_and_parts_by_their_names(tmp_path: Path) -> None:
    url = source_for("https://h/", build_sources(shipped_sources(), tmp_path))
    one = await url.locate("https://h/a/b%20c.gguf?token=1", None)
    assert [(f.filename, f.url, f.size) for f in one.files] == [("b-c.gguf", "https://h/a/b%20c.gguf?token=1", None)]
    assert one.size is None
    parts = await url.locate("https://h/a/m-00002-of-00002.gguf?d=1", None)
    assert [f.url for f in parts.files] == [f"https://h/a/m-0000{i}-of-00002.gguf?d=1" for i in (1, 2)]


async def test_builtin_is_shipped(tmp_path: Path) -> None:
    builtin = source_for("builtin:", build_sources(shipped_sources(), tmp_path))
    located = await builtin.locate("builtin:bee-tiny", None)
    assert located.files[0].path is not None
    assert located.files[0].path.read_bytes()[:4] == b"GGUF"
    with pytest.raises(NotFound, match="bee-tiny"):
        await builtin.locate("builtin:bee-tinny", None)
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
