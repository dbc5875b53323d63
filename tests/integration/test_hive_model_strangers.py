# SPDX-License-Identifier: GPL-3.0-or-later
"""What a stranger gives a hive to download: ids, files and addresses that are not as one thinks."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee.adapters import shipped
from rbee.adapters.paths import Paths
from rbee.contracts.operations.downloads import DownloadCancel, DownloadList, DownloadPause, DownloadResume
from rbee.contracts.operations.models import ModelDownload, ModelGet, ModelList, ModelVerify
from rbee.core.errors import RbeeError
from rbee.core.slug import slug
from rbee.daemons.hive.app import HiveDaemon
from tests.support.files_server import file_server
from tests.support.gguf_bytes import write_parts
from tests.support.hive import HiveClient, client, machine, settings
from tests.support.ports import free_range
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.waiting import eventually

BEE = shipped.builtin_model("bee-tiny").read_bytes()
BUILTIN = "builtin:bee-tiny"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path / "machine")


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    daemon = HiveDaemon(settings(free_range()), paths, None)
    await daemon.start()
    try:
        async with client(daemon.url) as asked:
            yield asked
    finally:
        await daemon.stop()


async def refused(hive: HiveClient, request: object) -> RbeeError:
    with pytest.raises(RbeeError) as told:
        await hive.run(request)
    return told.value


async def ids(hive: HiveClient) -> list[str]:
    return [m.id for m in (await hive.run(ModelList())).response.models]


def holding(root: Path, secret: str) -> list[str]:
    return [p.name for p in root.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


@pytest.mark.parametrize("model_id", ["../../x", "a/b:c", "/etc/passwd", "..", "-rf", "Größe 7"])
async def test_an_id_never_leaves_the_models(hive: HiveClient, paths: Paths, model_id: str) -> None:
    await hive.run(ModelDownload(model=BUILTIN, model_id=model_id))
    found = (await hive.run(ModelGet(model_id=model_id))).response.model
    assert Path(found.path).resolve().parents[1] == paths.models.resolve()
    assert await ids(hive) == [model_id]


@pytest.mark.parametrize("model_id", ["a\0b", "a\nb", "\x1b[31mred", " ", "a ", "x" * 201, "a\u202eb"])
async def test_an_id_that_cannot_be_said_is_refused(hive: HiveClient, paths: Paths, model_id: str) -> None:
    told = await refused(hive, ModelDownload(model=BUILTIN, model_id=model_id))
    assert told.code == "invalid_request"
    assert not paths.models.exists() or not list(paths.models.iterdir())


async def test_two_ids_of_one_folder_are_not_one_model(hive: HiveClient, paths: Paths) -> None:
    await hive.run(ModelDownload(model=BUILTIN, model_id="a/b"))
    told = await refused(hive, ModelDownload(model=BUILTIN, model_id=slug("a/b")))
    assert told.code == "conflict"
    assert "'a/b'" in told.message
    assert await ids(hive) == ["a/b"]
    # What cannot be read is nobody's.
    (paths.models / slug("a/b") / "metadata.json").write_text("{")
    await hive.run(ModelDownload(model=BUILTIN, model_id="a/b"))
    assert await ids(hive) == ["a/b"]


async def test_two_downloads_never_share_a_folder(hive: HiveClient) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        job = await hive.submit(ModelDownload(model=f"{server.url}/model.gguf", model_id="a/b"))
        await server.holding.wait()
        told = await refused(hive, ModelDownload(model=BUILTIN, model_id=slug("a/b")))
        assert told.code == "conflict"
        server.hold_after = None
        server.go_on.set()
        assert [e async for e in hive.events(job)][-1]["event"] == "result"


@pytest.mark.parametrize("query", ["?token=s3cretvalue", "?sv=1&sig=s3cretvalue", "?X-Amz-Signature=s3cretvalue"])
async def test_a_signed_address_is_written_nowhere(hive: HiveClient, paths: Paths, query: str) -> None:
    root = paths.models.parents[1]
    async with file_server(BEE, hold_after=1_200_000) as server:
        request = ModelDownload(model=f"{server.url}/model.gguf{query}", model_id="m1")
        job = await hive.submit(request)
        await server.holding.wait()
        assert holding(root, "s3cretvalue") == []
        server.hold_after = None
        server.go_on.set()
        told = json.dumps([e async for e in hive.events(job)])
        assert "s3cretvalue" not in told
        assert '"model_download_complete"' in told
        assert holding(root, "s3cretvalue") == []
        assert "[redacted]" in (await hive.run(ModelGet(model_id="m1"))).response.model.source
        # The same again, and a look at it, need no secret.
        assert "model_download_exists" in (await hive.run(request)).names
        assert (await hive.run(ModelVerify(model_id="m1"))).response.against == "recorded"


async def test_a_file_of_the_same_size_is_another_model(hive: HiveClient, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    write_tiny_gguf(mine)
    first = (await hive.run(ModelDownload(model=f"file:{mine}"))).response.checksum
    assert "model_download_exists" in (await hive.run(ModelDownload(model=f"file:{mine}"))).names
    size = mine.stat().st_size
    changed = bytearray(mine.read_bytes())
    changed[-1] ^= 1
    mine.write_bytes(changed)
    assert mine.stat().st_size == size
    assert (await hive.run(ModelDownload(model=f"file:{mine}"))).response.checksum != first


@pytest.mark.parametrize("kind", ["pipe", "empty", "proc", "folder", "loop", "closed"])
async def test_what_is_no_file_is_told_at_once(hive: HiveClient, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.gguf"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    elif kind == "proc":
        path = Path("/proc/kmsg")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path = tmp_path / ("y" * 300)
    told = await refused(hive, ModelDownload(model=f"file:{path}"))
    assert told.code in ("invalid_request", "not_found", "disk_error")
    assert await ids(hive) == []


async def test_a_download_that_the_disk_takes_no_note_of_can_be_given_up(hive: HiveClient, paths: Paths) -> None:
    async with file_server(BEE, hold_after=1_200_000) as server:
        job = await hive.submit(ModelDownload(model=f"{server.url}/model.gguf", model_id="m1"))
        await server.holding.wait()
        state = paths.models / "m1" / ".download.json"
        state.unlink()
        (state / "in-its-way").mkdir(parents=True)
        server.hold_after = None
        server.go_on.set()
        assert [e async for e in hive.events(job)][-1]["code"] == "disk_error"

    async def failed() -> bool:
        (one,) = (await hive.run(DownloadList())).response.downloads
        return (one.model_id, one.status) == ("m1", "failed")

    assert await failed()
    await hive.run(DownloadResume(download_id="m1"))
    await eventually(failed)
    await hive.run(DownloadCancel(download_id="m1"))
    assert (await hive.run(DownloadList())).response.downloads == ()
    assert not list(paths.models.iterdir())


async def test_a_missing_part_is_told_before_the_first_byte(hive: HiveClient, tmp_path: Path) -> None:
    parts = {f"m-{n:05d}-of-00100.gguf": BEE for n in range(1, 101) if n != 73}
    async with file_server(BEE, others=parts) as server:
        told = await refused(hive, ModelDownload(model=f"{server.url}/m-00001-of-00100.gguf"))
        assert told.code == "not_found"
        assert "99 of the 100 parts" in told.message
        assert "m-00073-of-00100.gguf is missing" in told.message
        assert server.seen == []


async def test_a_server_that_is_asked_no_such_thing_is_believed_nothing(hive: HiveClient, tmp_path: Path) -> None:
    parts = {p.name: p.read_bytes() for p in write_parts(tmp_path / "made")[0].parent.iterdir()}
    for status in (404, 405, 500):
        async with file_server(BEE, others=parts, heads=status) as server:
            request = ModelDownload(model=f"{server.url}/{min(parts)}", model_id=f"m{status}")
            assert (await hive.run(request)).response.size_bytes == sum(map(len, parts.values()))


async def test_what_was_let_go_on_goes_on_whoever_joins_and_leaves(hive: HiveClient) -> None:
    async with file_server(BEE, hold_after=600_000) as server:
        request = ModelDownload(model=f"{server.url}/model.gguf", model_id="m1")
        first = await hive.submit(request)
        await server.holding.wait()
        await hive.run(DownloadPause(download_id="m1"))
        await hive.cancel(first)
        assert [e async for e in hive.events(first)][-1]["event"] == "cancelled"
        await hive.run(DownloadResume(download_id="m1"))
        joined = await hive.submit(request)
        async for event in hive.events(joined):
            if event["event"] == "model_download_joined":
                await hive.cancel(joined)
        (one,) = (await hive.run(DownloadList())).response.downloads
        assert one.status == "downloading"
        server.hold_after = None
        server.go_on.set()
        assert (await hive.run(request)).response.status == "available"


async def test_a_model_is_not_replaced_by_one_that_happens_to_be_called_so(hive: HiveClient, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "bee-tiny.gguf")
    first = (await hive.run(ModelDownload(model=BUILTIN))).response
    told = await refused(hive, ModelDownload(model=f"file:{other}"))
    assert told.code == "model_exists"
    assert "from builtin:bee-tiny" in told.message
    assert (await hive.run(ModelGet(model_id="bee-tiny"))).response.model.checksum == first.checksum
    # Who says the id means it.
    second = (await hive.run(ModelDownload(model=f"file:{other}", model_id="bee-tiny"))).response
    assert second.checksum != first.checksum


async def test_the_same_bytes_of_another_place_are_not_fetched_again(hive: HiveClient) -> None:
    digest = hashlib.sha256(BEE).hexdigest()
    async with file_server(BEE) as first, file_server(BEE) as mirror:
        for server in (first, mirror):
            url = f"{server.url}/model.gguf"
            told = await hive.run(ModelDownload(model=url, model_id="m1", sha256=digest))
            assert (await hive.run(ModelGet(model_id="m1"))).response.model.source == url
        assert "model_download_exists" in told.names
        assert (len(first.seen), len(mirror.seen)) == (1, 0)
