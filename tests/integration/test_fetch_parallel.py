# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads by several connections: where servers allow it, where they do not, and killed in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.fetch import Fetched, fetch
from rbee.adapters.fetch.download import Origin, Tuning
from rbee.adapters.fetch.part import kept
from rbee.adapters.sources import SourceFile
from rbee.contracts import codec
from rbee.core.errors import RbeeError
from tests.support.files_server import FileServer, file_server

DATA = os.urandom(3_000_000)
#: Every connection is too slow for this, from its first byte on; files are large from 1 MB on.
EAGER = Tuning(parallel_from=1_000_000, fast=1e15, block=200_000, probe=0.0, backoff=0.01)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


async def get(server: FileServer, target: Path, sha256: str | None = None, tuning: Tuning = EAGER) -> Fetched:
    file = SourceFile(filename=target.name, url=f"{server.url}/model.gguf", headers={"Authorization": "Bearer s3cret"})
    return await fetch(file, target, sha256, lambda done, total: None, 4, tuning=tuning)


def whole(target: Path, fetched: Fetched, server: FileServer) -> None:
    assert target.read_bytes() == server.data
    assert (fetched.size, fetched.sha256) == (len(server.data), server.sha256)
    assert [p.name for p in target.parent.iterdir()] == [target.name]


async def test_a_slow_server_is_asked_by_four_connections(target: Path) -> None:
    async with file_server(DATA, accept_ranges=True, pause=0.002) as server:
        whole(target, await get(server, target), server)
        # The first answer, open to the end of the file, may be closed a moment after the next is asked for.
        assert server.peak in (4, 5)
        assert all(h.get("If-Range") == '"one"' for h in server.seen[1:])
        assert len(set(server.starts)) == len(server.starts), "no range is fetched twice"


async def test_a_fast_connection_stays_alone(target: Path) -> None:
    alone = Tuning(parallel_from=1_000_000, fast=0.0, block=200_000, probe=0.0)
    async with file_server(DATA, accept_ranges=True) as server:
        whole(target, await get(server, target, tuning=alone), server)
        assert server.starts == [0]


@pytest.mark.parametrize(
    "faults",
    [
        {"accept_ranges": False},
        {"accept_ranges": True, "etag": None},
        {"accept_ranges": True, "etag": 'W/"weak"'},
    ],
    ids=["no ranges said", "no validator", "weak validator"],
)
async def test_one_connection_where_parts_could_be_of_two_files(target: Path, faults: dict[str, Any]) -> None:
    async with file_server(DATA, pause=0.001, **faults) as server:
        whole(target, await get(server, target), server)
        assert server.peak == 1


async def test_a_server_that_says_ranges_and_sends_all_is_read_by_one(target: Path) -> None:
    async with file_server(DATA, accept_ranges=True, ranges=False, pause=0.002) as server:
        whole(target, await get(server, target), server)


async def test_a_server_that_limits_connections_is_read_by_as_many_as_it_likes(target: Path) -> None:
    async with file_server(DATA, accept_ranges=True, pause=0.002, at_once=1) as server:
        whole(target, await get(server, target), server)
        assert server.peak == 1
    async with file_server(DATA, accept_ranges=True, pause=0.002, at_once=2) as server:
        target.unlink()
        whole(target, await get(server, target), server)
        assert server.peak == 2


async def test_every_connection_may_break_again_and_again(target: Path) -> None:
    async with file_server(DATA, accept_ranges=True, pause=0.001, drops=[150_000, 70_000, 70_000] * 2) as server:
        whole(target, await get(server, target, server.sha256), server)
        assert server.drops == []


async def test_a_file_that_changes_meanwhile_is_all_of_one(target: Path) -> None:
    other = os.urandom(len(DATA))
    async with file_server(DATA, accept_ranges=True, pause=0.002) as server:
        download = asyncio.create_task(get(server, target))
        while len(server.seen) < 5:
            await asyncio.sleep(0)
        server.data, server.etag = other, '"two"'
        fetched = await download
    # The first answer may have gone on with the old one to its end; never a mixture.
    assert target.read_bytes() in (DATA, other)
    assert fetched.size == len(DATA)


async def test_a_wrong_digest_is_thrown_away(target: Path) -> None:
    async with file_server(DATA, accept_ranges=True, pause=0.001) as server:
        with pytest.raises(RbeeError, match="SHA-256") as told:
            await get(server, target, "0" * 64)
    assert told.value.code == "checksum_mismatch"
    assert list(target.parent.iterdir()) == []


FETCHER = """
import asyncio, sys
from pathlib import Path
from rbee.adapters.fetch import fetch
from rbee.adapters.sources import SourceFile
from rbee.adapters.fetch.download import Tuning

file = SourceFile(filename="model.gguf", url=sys.argv[1])
tuning = Tuning(parallel_from=1_000_000, fast=1e15, block=200_000, probe=0.0, note_every=0.01)
asyncio.run(fetch(file, Path(sys.argv[2]), None, lambda done, total: print(done, flush=True), tuning=tuning))
"""


@pytest.mark.parametrize("after", [300_000, 1_000_000, 2_000_000])
async def test_killed_in_the_middle_it_goes_on_right(target: Path, after: int) -> None:
    part = target.with_name("model.gguf.part")
    async with file_server(DATA, accept_ranges=True, pause=0.02) as server:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FETCHER, f"{server.url}/model.gguf", str(target), stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        while int(await child.stdout.readline()) < after or not kept(part):
            pass
        child.send_signal(signal.SIGKILL)
        await child.communicate()
        assert codec.decode(Origin, part.with_name("model.gguf.part.json").read_bytes()).done is not None
        asked, here = len(server.seen), kept(part)
        told: list[int] = []
        file = SourceFile(filename="model.gguf", url=f"{server.url}/model.gguf")
        fetched = await fetch(file, target, None, lambda done, total: told.append(done), tuning=EAGER)
        whole(target, fetched, server)
        assert told[0] > here > 0
        assert server.starts[asked] > 0, "what is here is not fetched again"


async def test_ranges_of_an_earlier_boot_are_believed_only_where_a_digest_tells(target: Path) -> None:
    part = target.with_name("model.gguf.part")
    async with file_server(DATA, accept_ranges=True) as server:

        def left(sha256: str | None) -> None:
            # A machine that lost its power: the note came to the disk, the bytes of one range did not.
            part.write_bytes(DATA[:1_000_000] + bytes(500_000) + DATA[1_500_000:2_000_000])
            note = Origin(
                url=f"{server.url}/model.gguf",
                validator='"one"',
                size=len(DATA),
                sha256=sha256,
                done=((0, 2_000_000),),
                boot="before",
            )
            part.with_name("model.gguf.part.json").write_bytes(codec.encode(note))

        left(None)
        whole(target, await get(server, target), server)
        assert server.starts[0] == 0
        left(server.sha256)
        whole(target, await get(server, target, server.sha256), server)
