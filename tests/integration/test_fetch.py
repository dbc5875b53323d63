# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads against servers that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from datetime import datetime, timezone
from pathlib import Path

import aiohttp
import pytest

from rbee.adapters.fetch import Fetched, fetch
from rbee.adapters.fetch.download import Origin, Tuning
from rbee.adapters.fetch.http import retry_after
from rbee.adapters.fetch.lane import _Pace
from rbee.adapters.sources import SourceFile
from rbee.contracts import codec
from rbee.core.errors import Insufficient, NotFound, RbeeError, Unauthorized, Unreachable
from tests.support.files_server import FileServer, file_server

DATA = os.urandom(1_500_000)


async def get(
    server: FileServer, target: Path, *, sha256: str | None = None, size: int | None = None, tries: int = 6
) -> Fetched:
    headers = {"Authorization": "Bearer s3cret"}
    located = SourceFile(filename=target.name, url=f"{server.url}/model.gguf", size=size, headers=headers)
    return await fetch(located, target, sha256, lambda done, total: None, tries)


def whole(target: Path, fetched: Fetched, data: bytes = DATA) -> None:
    """There, right, and nothing beside it."""
    assert target.read_bytes() == data
    assert fetched.size == len(data)
    assert [p.name for p in target.parent.iterdir()] == [target.name]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "model.gguf"


async def test_plain_download_hashes_and_tells_progress(target: Path) -> None:
    async with file_server(DATA) as server:
        told: list[tuple[int, int | None]] = []
        fetched = await fetch(
            SourceFile(filename="model.gguf", url=f"{server.url}/model.gguf"), target, None, lambda *p: told.append(p)
        )
    whole(target, fetched)
    assert fetched.sha256 == server.sha256
    assert told[-1] == (len(DATA), len(DATA))
    assert told == sorted(told)


async def test_dropped_connections_are_resumed_where_they_broke(target: Path) -> None:
    async with file_server(DATA, drops=[300_000, 400_000]) as server:
        whole(target, await get(server, target))
        assert len(server.seen) == 3
        assert 0 == server.starts[0] < server.starts[1] <= server.starts[2]
        assert server.seen[1]["If-Range"] == '"one"'


async def test_server_without_ranges_is_begun_again(target: Path) -> None:
    async with file_server(DATA, drops=[300_000], ranges=False) as server:
        whole(target, await get(server, target))
        assert len(server.seen) == 2


async def test_a_part_is_taken_up_by_the_next_download(target: Path) -> None:
    async with file_server(DATA, hold_after=500_000) as server:
        first = asyncio.create_task(get(server, target))
        await asyncio.wait_for(server.holding.wait(), 10)
        part = target.with_name("model.gguf.part")
        while not part.exists() or part.stat().st_size < 400_000:
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert part.exists(), "the part must stay for the next time"
        assert not target.exists()
        server.hold_after = None
        server.go_on.set()
        whole(target, await get(server, target))
        assert server.starts[1] >= 400_000


async def test_file_changed_between_two_tries_is_fetched_anew(target: Path) -> None:
    other = os.urandom(len(DATA))
    async with file_server(DATA, drops=[500_000], statuses=[]) as server:
        server.drops = [500_000]
        download = asyncio.create_task(get(server, target))
        while not server.seen:
            await asyncio.sleep(0)
        server.data, server.etag = other, '"two"'
        fetched = await download
    # The first answer may have been of either; what is published is all of one.
    assert target.read_bytes() == other
    assert fetched.size == len(other)


async def test_without_any_validator_a_part_is_not_trusted(target: Path) -> None:
    async with file_server(DATA, etag=None) as server:
        target.parent.mkdir()
        target.with_name("model.gguf.part").write_bytes(b"not the beginning of it")
        whole(target, await get(server, target))
        assert server.starts == [0]


async def test_a_wrong_part_is_found_out_by_the_digest(target: Path) -> None:
    async with file_server(DATA, drops=[300_000, 300_000, 300_000, 300_000, 300_000]) as server:
        first = asyncio.create_task(get(server, target, sha256=server.sha256))
        part = target.with_name("model.gguf.part")
        while not part.exists() or part.stat().st_size < 200_000:
            await asyncio.sleep(0.005)
        first.cancel()
        await asyncio.wait({first})
        server.drops = []
        hurt = bytearray(part.read_bytes())
        hurt[1000] ^= 0xFF
        part.write_bytes(hurt)
        whole(target, await get(server, target, sha256=server.sha256))
        assert server.starts[-2] > 0
        assert server.starts[-1] == 0


async def test_wrong_digest_is_refused_and_thrown_away(target: Path) -> None:
    async with file_server(DATA) as server:
        with pytest.raises(RbeeError, match="SHA-256") as told:
            await get(server, target, sha256="0" * 64)
    assert told.value.code == "checksum_mismatch"
    assert list(target.parent.iterdir()) == []


async def test_a_server_that_promises_more_than_it_sends_is_given_up(target: Path) -> None:
    async with file_server(DATA, claims_more=10, ranges=False) as server:
        with pytest.raises(Unreachable, match="failed 2 times in a row"):
            await get(server, target, tries=2)
    assert not target.exists()


async def test_length_that_contradicts_the_index_is_refused(target: Path) -> None:
    async with file_server(DATA) as server:
        with pytest.raises(RbeeError, match="index says") as told:
            await get(server, target, size=len(DATA) + 1)
    assert told.value.code == "wrong_length"


async def test_redirect_to_another_origin_is_not_shown_the_token(target: Path) -> None:
    async with file_server(DATA) as store, file_server(b"", redirect_to=f"{store.url}/model.gguf") as hub:
        whole(target, await get(hub, target))
        assert hub.seen[0]["Authorization"] == "Bearer s3cret"
        assert "Authorization" not in store.seen[0]


async def test_busy_servers_are_asked_again(target: Path) -> None:
    async with file_server(DATA, statuses=[503, 429, 500]) as server:
        whole(target, await get(server, target))
        assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (401, Unauthorized), (403, Unauthorized), (418, RbeeError)]
)
async def test_what_asking_again_will_not_mend_is_told_at_once(
    target: Path, status: int, kind: type[RbeeError]
) -> None:
    async with file_server(DATA, statuses=[status]) as server:
        with pytest.raises(kind) as told:
            await get(server, target)
        assert len(server.seen) == 1
        assert "s3cret" not in str(told.value)


async def test_disk_that_cannot_hold_it_is_told_before_the_first_byte(target: Path) -> None:
    async with file_server(DATA) as server:
        with pytest.raises(Insufficient, match="MB free"):
            await get(server, target, size=10**18)
        assert server.seen == []


async def test_finished_part_needs_no_more_bytes(target: Path) -> None:
    async with file_server(DATA, claims_more=0) as server:
        fetched = await get(server, target)
        target.rename(target.with_name("model.gguf.part"))
        note = Origin(url=f"{server.url}/model.gguf", validator='"one"', size=len(DATA))
        target.with_name("model.gguf.part.json").write_bytes(codec.encode(note))
        again = await get(server, target)
    assert again == fetched
    whole(target, again)


QUICK = Tuning(silence=0.15, floor=50_000, backoff=0.01)


async def quick(server: FileServer, target: Path, *, md5: str | None = None, tries: int = 3) -> Fetched:
    file = SourceFile(filename=target.name, url=f"{server.url}/model.gguf", md5=md5)
    return await fetch(file, target, None, lambda done, total: None, tries, tuning=QUICK)


async def test_a_silent_connection_is_dropped_and_taken_up_again(target: Path) -> None:
    async with file_server(DATA, hold_after=400_000) as server:
        whole(target, await quick(server, target))
        assert server.starts[:2] == [0, 458_752], "what came before the silence is kept"
    async with file_server(DATA, hold_after=0) as server:
        with pytest.raises(Unreachable, match="failed 3 times in a row: no answer in time"):
            await quick(server, target)


async def test_a_trickle_is_no_progress(target: Path) -> None:
    async with file_server(DATA, pause=0.01, piece=10) as server:
        with pytest.raises(Unreachable, match=r"it brought \d+ bytes in 0 s"):
            await quick(server, target)
        assert len(server.seen) == 3
        server.pause, server.piece = 0.0, 65536
        whole(target, await quick(server, target))
        assert server.starts[-1] > 0


async def test_a_server_says_when_to_come_again(target: Path) -> None:
    async with file_server(DATA, statuses=[429], retry_after="0") as server:
        slow = Tuning(backoff=1e9)
        file = SourceFile(filename=target.name, url=f"{server.url}/model.gguf")
        whole(target, await fetch(file, target, None, lambda done, total: None, tuning=slow))
        assert len(server.seen) == 2


def test_retry_after_is_a_number_or_a_date_and_never_long() -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
    said = {
        "7": 7.0,
        "86400": 60.0,
        "Sat, 21 Nov 2026 12:00:30 GMT": 30.0,
        "Sat, 21 Nov 2026 11:00:00 GMT": 0.0,
        "soon": None,
        "-1": None,
        "": None,
    }
    assert {text: retry_after({"Retry-After": text}, noon) for text in said} == said


async def test_a_compressed_answer_is_refused(target: Path) -> None:
    async with file_server(DATA, encoding="gzip") as server:
        with pytest.raises(RbeeError, match="compressed, though asked not to"):
            await get(server, target)
        assert server.seen[0]["Accept-Encoding"] == "identity"
    assert not target.exists()


async def test_more_bytes_than_were_promised_are_never_published(target: Path) -> None:
    async with file_server(DATA, extra=1000) as server:
        with pytest.raises(Unreachable, match="more than 1500000 bytes"):
            await get(server, target, size=len(DATA), tries=2)
    assert not target.exists()


async def test_fewer_bytes_than_are_here_are_another_file(target: Path) -> None:
    async with file_server(DATA, drops=[1_000_000], etag=None) as server:
        download = asyncio.create_task(get(server, target))
        while not server.seen or server.drops:
            await asyncio.sleep(0)
        server.data = DATA[:200_000]
        whole(target, await download, server.data)
        assert server.starts[1] > 200_000


async def test_an_md5_is_checked_where_the_source_says_no_more(target: Path) -> None:
    async with file_server(DATA) as server:
        whole(target, await quick(server, target, md5=hashlib.md5(DATA).hexdigest()))
        target.unlink()
        with pytest.raises(RbeeError, match="MD5") as told:
            await quick(server, target, md5="0" * 32)
    assert told.value.code == "checksum_mismatch"
    assert list(target.parent.iterdir()) == []


async def test_a_part_of_an_earlier_address_is_gone_on_with_when_the_digest_is_known(target: Path) -> None:
    async with file_server(DATA, hold_after=600_000) as first, file_server(DATA, etag='"other"') as mirror:
        with pytest.raises(Unreachable):
            file = SourceFile(filename="m", url=f"{first.url}/model.gguf", sha256=first.sha256)
            await fetch(file, target, None, lambda done, total: None, 1, tuning=QUICK)
        whole(target, await get(mirror, target, sha256=mirror.sha256))
        assert mirror.starts[0] > 0
        assert "If-Range" not in mirror.seen[0]


FULL = """
import asyncio, resource, sys
from pathlib import Path
from rbee.adapters.fetch import fetch
from rbee.adapters.sources import SourceFile
from rbee.core.errors import RbeeError

# As a full disk or a quota would, the system refuses the next byte.
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
file = SourceFile(filename="model.gguf", url=sys.argv[1])
try:
    asyncio.run(fetch(file, Path(sys.argv[2]), None, lambda done, total: None))
except RbeeError as e:
    print(e.code, e)
"""


async def test_a_disk_that_takes_no_more_keeps_what_it_has(target: Path) -> None:
    async with file_server(DATA) as server:
        url = f"{server.url}/model.gguf"
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FULL, url, str(target), "1000000", stdout=asyncio.subprocess.PIPE
        )
        told, _ = await child.communicate()
        assert told.startswith(b"insufficient_resources"), told
        assert b"they are kept" in told
        assert target.with_name("model.gguf.part").stat().st_size == 1_000_000
        whole(target, await get(server, target))
        assert server.starts == [0, 1_000_000]


async def test_what_came_before_a_break_is_read_though_the_break_was_heard_of_first() -> None:
    """A connection may bring something and break while its reader waits for the disk: each time, on a bad day."""

    async def cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + DATA[:70_000])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(cut_off, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    came, pace = b"", _Pace(silence=30.0, floor=0.0)
    async with server, aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
        while answer.content.exception() is None:
            await asyncio.sleep(0)
        with pytest.raises(aiohttp.ClientPayloadError):
            while True:
                came += await pace.read(answer.content)
    assert came == DATA[:70_000]
