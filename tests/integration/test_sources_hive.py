# SPDX-License-Identifier: GPL-3.0-or-later
"""Models brought into a real hive's catalog from each protocol, over HTTP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import shipped
from rbee.adapters.paths import Paths
from rbee.contracts.operations.models import ModelDownload, ModelGet, ModelList
from rbee.core.errors import RbeeError
from rbee.core.model_files import together
from rbee.core.records import ModelRecord
from rbee.core.sources import SourceProvider
from rbee.daemons.hive.app import HiveDaemon
from rbee.fleet.local_models import parts
from tests.support import github_server, hub_server, ollama_server
from tests.support.gguf_bytes import write_parts
from tests.support.hive import HiveClient, client, machine, settings
from tests.support.mlc_folder import write_mlc
from tests.support.ollama_server import MODEL
from tests.support.ports import free_range
from tests.support.sources import give_token, pointed

BEE = shipped.builtin_model("bee-tiny").read_bytes()
BEE_SHA256 = hashlib.sha256(BEE).hexdigest()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path / "machine")


@asynccontextmanager
async def hive_with(paths: Paths, *sources: SourceProvider) -> AsyncIterator[HiveClient]:
    daemon = HiveDaemon(settings(free_range(), sources=sources), paths, None)
    await daemon.start()
    try:
        async with client(daemon.url) as asked:
            yield asked
    finally:
        await daemon.stop()


def corp(name: str, url: str, **changes: Any) -> SourceProvider:
    """A company's own source: what comes with rbee under another prefix, at another place."""
    return pointed(name, url, name=f"corp-{name}", title="Corp", prefixes=(f"corp-{name}:",), bare=False, **changes)


async def record(hive: HiveClient, model_id: str) -> ModelRecord:
    found: ModelRecord = (await hive.run(ModelGet(model_id=model_id))).response.model
    return found


async def test_a_quantization_of_a_hub_that_only_this_fleet_has(paths: Paths) -> None:
    files = {"x-Q8_0.gguf": BEE, "x-Q2_K.gguf": b"small", "README.md": b"#"}
    async with (
        hub_server.hub_server(BEE, **{"x-GGUF": files}) as hub,
        hive_with(paths, corp("huggingface", hub.url)) as hive,
    ):
        told = await hive.run(ModelDownload(model="corp-huggingface:org/x-GGUF:Q8_0"))
        found = await record(hive, "x-Q8_0")
        assert told.response.model_id == "x-Q8_0"
        assert (found.checksum, found.verified, found.commit) == (BEE_SHA256, True, hub_server.COMMIT)
        assert found.source == "corp-huggingface:org/x-GGUF:Q8_0"
        assert Path(found.path).name == "x-Q8_0.gguf"
        with pytest.raises(RbeeError, match=r"has no Q8_1; it has Q2_K, Q8_0\. Did you mean 'Q8_0'") as refused:
            await hive.run(ModelDownload(model="corp-huggingface:org/x-GGUF:Q8_1"))
        assert refused.value.code == "not_found"
        assert [m.id for m in (await hive.run(ModelList())).response.models] == ["x-Q8_0"]


async def test_a_model_of_ollamas_registry(paths: Paths) -> None:
    models = {"library/bee:1b": [(MODEL, BEE), ("application/vnd.ollama.image.license", b"free")]}
    async with (
        ollama_server.ollama_server(models) as registry,
        hive_with(paths, corp("ollama", registry.url, token_file="secret")) as hive,
    ):
        give_token(paths.config, "secret", "tok-1234567890")
        job = await hive.submit(ModelDownload(model="corp-ollama:bee:1b"))
        events = [e async for e in hive.events(job)]
        found = await record(hive, "bee:1b")
        assert (found.checksum, found.verified, found.architecture) == (BEE_SHA256, True, "llama")
        assert "Corp" in json.dumps(events)
        assert "tok-1234567890" not in json.dumps(events)
        # The storage behind the registry is another host: no token for it.
        assert registry.cdn_headers
        assert all("Authorization" not in headers for headers in registry.cdn_headers)


@pytest.mark.parametrize("private", [True, False])
async def test_an_asset_of_a_release(paths: Paths, private: bool) -> None:
    repo = "me/private" if private else "me/bees"
    async with (
        github_server.github_server({repo: {"v1": {"bee-Q8_0.gguf": BEE, "notes.txt": b""}}}) as github,
        hive_with(paths, corp("github", github.url)) as hive,
    ):
        if private:
            give_token(paths.config, "github-token", github_server.TOKEN)
        await hive.run(ModelDownload(model=f"corp-github:{repo}@v1/bee*"))
        found = await record(hive, repo.partition("/")[2])
        assert (found.checksum, found.verified) == (BEE_SHA256, True)
        assert len(github.cdn_headers) >= 1
        assert all("Authorization" not in headers for headers in github.cdn_headers)


async def test_the_parts_of_a_split_model_come_together(paths: Paths) -> None:
    """Each is looked for, and a missing one is said before anything is fetched."""
    async with (
        hub_server.hub_server(BEE, cut={"m-00001-of-00002.gguf": BEE}) as hub,
        hive_with(paths, corp("huggingface", hub.url)) as hive,
    ):
        with pytest.raises(RbeeError, match=r"m-00002-of-00002\.gguf is missing") as refused:
            await hive.run(ModelDownload(model="corp-huggingface:org/cut"))
        assert refused.value.code == "not_found"
        assert hub.cdn_headers == []


async def test_what_comes_with_rbee_is_pointed_elsewhere_by_the_environment(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The environment is how a user points at a mirror.
    async with (
        ollama_server.ollama_server({"library/bee:latest": [(MODEL, BEE)]}) as registry,
        hive_with(paths) as hive,
    ):
        monkeypatch.setenv("OLLAMA_REGISTRY", registry.url)
        await hive.run(ModelDownload(model="ollama:bee"))
        assert (await record(hive, "bee")).checksum == BEE_SHA256
        with pytest.raises(RbeeError, match="The model bee has no tag '2b'"):
            await hive.run(ModelDownload(model="ollama:bee:2b"))


@pytest.mark.parametrize("part", [0, 2])
async def test_all_parts_of_a_split_model_come_by_the_name_of_any(paths: Paths, tmp_path: Path, part: int) -> None:
    made = write_parts(tmp_path)
    repo = {f"sub/{p.name}": p.read_bytes() for p in made}
    async with (
        hub_server.hub_server(BEE, parts=repo) as hub,
        hive_with(paths, corp("huggingface", hub.url)) as hive,
    ):
        await hive.run(ModelDownload(model=f"corp-huggingface:org/parts/sub/{made[part].name}"))
        found = await record(hive, "big")
        assert [f.name for f in found.files] == [p.name for p in made]
        assert (found.path.rpartition("/")[2], found.layers, found.verified) == (made[0].name, 7, True)
        assert found.size_bytes == sum(p.stat().st_size for p in made)


async def test_an_mlc_repository_comes_whole(paths: Paths, tmp_path: Path) -> None:
    made = write_mlc(tmp_path / "m")
    repo = {p.name: p.read_bytes() for p in made.iterdir()} | {"README.md": b"#", "logs.txt": b"x"}
    async with (
        hub_server.hub_server(BEE, **{"x-MLC": repo}) as hub,
        hive_with(paths, corp("huggingface", hub.url)) as hive,
    ):
        await hive.run(ModelDownload(model="corp-huggingface:org/x-MLC"))
        found = await record(hive, "x-MLC")
        assert (found.format, found.status) == ("mlc", "available")
        assert {f.name for f in found.files} == {p.name for p in made.iterdir()}


@pytest.mark.parametrize("kind", ["parts", "mlc"])
async def test_a_folder_that_apply_pushed_is_taken_in_and_gone_afterwards(paths: Paths, kind: str) -> None:
    """What apply sends of a model of several files: a folder of them, and the digest of them all together."""
    folder = paths.models / ".incoming" / "abc"
    if kind == "mlc":
        write_mlc(folder)
    else:
        write_parts(folder)
    source = folder if kind == "mlc" else folder / "big-00001-of-00003.gguf"
    files = parts(source)
    digest = together([(f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files])
    async with hive_with(paths) as hive:
        request = ModelDownload(model=f"file:{source}", model_id="big", sha256=digest, declared_source="file:/home/x")
        assert (await hive.run(request)).response.checksum == digest
        found = await record(hive, "big")
        assert (found.source, [f.name for f in found.files]) == ("file:/home/x", [f.name for f in files])
        assert found.verified
        with pytest.raises(RbeeError) as refused:
            await hive.run(ModelDownload(model="builtin:bee-tiny", model_id="other", sha256="0" * 64))
        assert refused.value.code == "checksum_mismatch"
    assert not folder.exists()
