# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of several files: fetched several at once, each checked, resumed by file, published all at once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.sources import Located, SourceFile
from rbee.contracts import codec
from rbee.contracts.operations.models import ModelDownload
from rbee.core.errors import Insufficient, RbeeError
from rbee.core.model_files import together
from rbee.core.records import ModelFile, ModelRecord
from rbee.daemons.hive.models.downloads import Downloads
from rbee.daemons.hive.models.unfinished import STAGE, STATE, DownloadFolder, Unfinished
from tests.support.files_server import FileServer, file_server
from tests.support.gguf_bytes import write_parts
from tests.support.mlc_folder import write_mlc
from tests.support.waiting import eventually


class Several:
    """A source whose model is all that a server has."""

    name = "several"

    def __init__(self, server: FileServer, form: Literal["gguf", "mlc"], *, digests: bool = True) -> None:
        self.server, self.form, self.digests = server, form, digests
        self.commit: str | None = "c1"

    def supports(self, source: str) -> bool:
        return source.startswith("several:")

    async def locate(self, source: str, revision: str | None) -> Located:
        def one(name: str, data: bytes) -> SourceFile:
            sha256 = hashlib.sha256(data).hexdigest() if self.digests else None
            return SourceFile(filename=name, url=f"{self.server.url}/{name}", size=len(data), sha256=sha256)

        files = tuple(one(name, data) for name, data in self.server.others.items())
        return Located(files=files, format=self.form, commit=self.commit)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def digest(files: dict[str, bytes]) -> str:
    return together([(name, hashlib.sha256(data).hexdigest()) for name, data in files.items()])


REQUEST = ModelDownload(model="several:x", model_id="m1")


class Machine:
    """Downloads into a folder, without the daemon around them."""

    def __init__(self, root: Path, source: Several) -> None:
        self.root = root
        self.catalog = ModelCatalog(root)
        self.downloads = Downloads(self.catalog, [source], lambda change: None)
        self.told: list[tuple[str, dict[str, Any]]] = []

    def narrate(self, name: str, message: str, **fields: Any) -> None:
        self.told.append((name, fields))

    async def get(self, request: ModelDownload = REQUEST) -> ModelRecord:
        return await self.downloads.get(request, self.narrate)

    def names(self) -> list[str]:
        return sorted(p.name for p in (self.root / "m1").iterdir())


async def test_all_parts_of_a_split_model(tmp_path: Path) -> None:
    parts = contents(write_parts(tmp_path / "made")[0].parent)
    async with file_server(b"", others=parts) as server:
        there = Machine(tmp_path / "models", Several(server, "gguf"))
        made = await there.get()
        assert (made.status, made.format, made.verified) == ("available", "gguf", True)
        assert Path(made.path).name == "big-00001-of-00003.gguf"
        assert made.checksum == digest(parts)
        assert [(f.name, f.size_bytes, f.sha256) for f in made.files] == [
            (name, len(data), hashlib.sha256(data).hexdigest()) for name, data in parts.items()
        ]
        assert there.catalog.get("m1") == replace(
            made, **{k: getattr(there.catalog.get("m1"), k) for k in ("added_at", "updated_at", "last_accessed")}
        )
        assert there.names() == [*sorted(parts), "metadata.json"]
        last = [f for name, f in there.told if name == "model_download_progress"][-1]
        assert last["bytes_downloaded"] == last["total_bytes"] == sum(map(len, parts.values()))
        asked = len(server.seen)
        assert (await there.get()).checksum == made.checksum
        assert len(server.seen) == asked, "what is there is not fetched again"
        with pytest.raises(RbeeError, match="since it was locked"):
            await there.get(replace(REQUEST, sha256="0" * 64))
        assert (await there.get(replace(REQUEST, sha256=made.checksum))).status == "available"


async def test_an_mlc_model_whose_shards_are_checked_by_its_own_list(tmp_path: Path) -> None:
    files = contents(write_mlc(tmp_path / "made"))
    async with file_server(b"", others=files) as server:
        there = Machine(tmp_path / "models", Several(server, "mlc", digests=False))
        made = await there.get()
        assert (made.status, made.format, Path(made.path)) == ("available", "mlc", tmp_path / "models" / "m1")
        assert made.checksum == digest(files)
        assert made.size_bytes == sum(map(len, files.values()))
        assert made.architecture == "qwen2"
        # A shard of the right length and the wrong bytes.
        server.others = files | {"params_shard_0.bin": b"\7" * len(files["params_shard_0.bin"])}
        other = Machine(tmp_path / "others", Several(server, "mlc", digests=False))
        with pytest.raises(RbeeError, match="MD5") as told:
            await other.get()
        assert told.value.code == "checksum_mismatch"
        assert other.downloads.list()[0].status == "failed"
        server.others = files
        before = len(server.paths)
        assert (await other.get()).checksum == made.checksum
        assert "/mlc-chat-config.json" not in server.paths[before:], "files that are whole are kept"
        assert "/params_shard_0.bin" in server.paths[before:]


async def test_four_files_at_once(tmp_path: Path) -> None:
    parts = contents(write_parts(tmp_path / "made", 9)[0].parent)
    async with file_server(b"", others=parts, pause=0.02, piece=100) as server:
        await Machine(tmp_path / "models", Several(server, "gguf")).get()
        assert server.peak == 4


@pytest.mark.parametrize("commit", ["c1", "c2"])
async def test_after_a_break_only_what_is_missing_is_fetched(tmp_path: Path, commit: str) -> None:
    parts = contents(write_parts(tmp_path / "made")[0].parent)
    async with file_server(b"", others=parts, statuses=[404]) as server:
        source = Several(server, "gguf", digests=False)
        first = Machine(tmp_path / "models", source)
        with pytest.raises(RbeeError, match="no such file"):
            await first.get()
        left = DownloadFolder(tmp_path / "models" / "m1").load()
        assert left is not None
        assert left.status == "failed"
        whole = {f"/{f.name}" for f in left.finished}
        # Another hive, as after a restart; the same commit or another one.
        source.commit = commit
        again = Machine(tmp_path / "models", source)
        await asyncio.to_thread(again.downloads.recover, tmp_path / "models")
        asked = len(server.paths)
        assert (await again.get()).status == "available"
        fetched = set(server.paths[asked:])
        assert fetched == ({f"/{n}" for n in parts} - whole if commit == "c1" else {f"/{n}" for n in parts})
        assert again.names() == [*sorted(parts), "metadata.json"]


async def test_no_room_for_all_of_them_is_told_before_the_first_byte(tmp_path: Path) -> None:
    parts = contents(write_parts(tmp_path / "made")[0].parent)
    async with file_server(b"", others=parts) as server:

        class Large(Several):
            async def locate(self, source: str, revision: str | None) -> Located:
                found = await super().locate(source, revision)
                return replace(found, files=tuple(replace(f, size=4 * 10**17) for f in found.files))

        there = Machine(tmp_path / "models", Large(server, "gguf"))
        with pytest.raises(Insufficient, match=r"1200000000000\.0 MB more"):
            await there.get()
        assert server.seen == []


async def test_a_hive_that_ended_while_it_published_leaves_that_to_the_next(tmp_path: Path) -> None:
    parts = contents(write_parts(tmp_path / "made")[0].parent)
    folder = DownloadFolder(tmp_path / "models" / "m1")
    folder.stage.mkdir(parents=True)
    names = list(parts)
    # The first has its place already, the others wait; an older model is still the one that the catalog tells.
    (folder.path / names[0]).write_bytes(parts[names[0]])
    for name in names[1:]:
        (folder.stage / name).write_bytes(parts[name])
    (folder.path / "old.gguf").write_bytes(b"old")
    made = ModelRecord(
        id="m1",
        name="m1",
        path=str(folder.path / names[0]),
        size_bytes=sum(map(len, parts.values())),
        status="available",
        files=tuple(ModelFile(name=n, size_bytes=len(d)) for n, d in parts.items()),
    )
    state = Unfinished(model_id="m1", request=REQUEST, status="downloading", started_at="T", publishing=made)
    folder.save(state)
    async with file_server(b"") as server:
        there = Machine(tmp_path / "models", Several(server, "gguf"))
        await asyncio.to_thread(there.downloads.recover, tmp_path / "models")
        assert there.downloads.list() == ()
    found = there.catalog.get("m1")
    assert found is not None
    assert found.status == "available"
    assert there.names() == [*sorted(names), "metadata.json"]


async def test_cancelling_throws_all_files_away(tmp_path: Path) -> None:
    parts = contents(write_parts(tmp_path / "made")[0].parent)
    async with file_server(b"", others=parts, hold_after=100, piece=50) as server:
        there = Machine(tmp_path / "models", Several(server, "gguf"))
        waiting = asyncio.create_task(there.get())
        await eventually(lambda: there.downloads.progress("m1") and list((tmp_path / "models" / "m1").glob("*.part")))
        assert codec.decode(Unfinished, (tmp_path / "models" / "m1" / STATE).read_bytes()).status == "downloading"
        await there.downloads.cancel("m1")
        with pytest.raises(RbeeError) as told:
            await waiting
        assert told.value.code == "download_cancelled"
        assert not (tmp_path / "models" / "m1").exists()
        with contextlib.suppress(RbeeError):
            await there.downloads.stop()


async def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    parts = contents(write_parts(tmp_path / "made")[0].parent)
    async with file_server(b"", others=parts) as server:

        class Twice(Several):
            async def locate(self, source: str, revision: str | None) -> Located:
                found = await super().locate(source, revision)
                return replace(found, files=(*found.files, found.files[0]))

        with pytest.raises(RbeeError, match="two files of one name"):
            await Machine(tmp_path / "models", Twice(server, "gguf")).get()
    assert not (tmp_path / "models" / "m1" / STAGE).exists()
