# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines of a real hive over HTTP: only read, whatever is wrong with them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rbee.adapters.paths import Paths
from rbee.contracts.operations.binaries import (
    WorkerBinaryCatalogGet,
    WorkerBinaryCatalogList,
    WorkerBinaryCatalogRefresh,
)
from rbee.core.errors import RbeeError
from rbee.daemons.hive.app import HiveDaemon
from tests.support.hive import HiveClient, client, install_engine, machine, settings
from tests.support.ports import free_range
from tests.support.workers import llama_cpp


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return machine(tmp_path)


@pytest.fixture
async def hive(paths: Paths) -> AsyncIterator[HiveClient]:
    """With one engine from its start."""
    install_engine(paths, llama_cpp())
    daemon = HiveDaemon(settings(free_range()), paths, None)
    await daemon.start()
    async with client(daemon.url) as asked:
        yield asked
    await daemon.stop()


async def test_engines_are_listed_with_what_they_read(hive: HiveClient) -> None:
    told = await hive.run(WorkerBinaryCatalogList(hive_id="h1"))
    (binary,) = told.response.binaries
    assert (binary.engine, binary.status, binary.python) == ("llama-cpp", "available", sys.executable)
    assert (binary.formats, binary.added_at) == (("gguf",), "2026-11-20T00:00:00Z")
    assert told.names == ["worker_binary_list_entry", "worker_binary_list_result", "result"]
    assert told.events[1]["count"] == 1


async def test_one_engine_and_what_is_there_instead(hive: HiveClient) -> None:
    (binary,) = (await hive.run(WorkerBinaryCatalogList())).response.binaries
    told = await hive.run(WorkerBinaryCatalogGet(binary_id=binary.id))
    assert told.response.binary == binary
    assert told.names == ["worker_binary_get_result", "result"]
    for wrong in ("nothing-like-it", "../../etc/passwd", binary.id[:-1]):
        with pytest.raises(RbeeError, match=binary.id) as refused:
            await hive.run(WorkerBinaryCatalogGet(binary_id=wrong))
        assert refused.value.code == "binary_not_found"


async def test_no_engine_at_all(paths: Paths, hive: HiveClient) -> None:
    shutil.rmtree(paths.worker_binaries)
    assert (await hive.run(WorkerBinaryCatalogList())).response.binaries == ()
    with pytest.raises(RbeeError, match="rbee apply"):
        await hive.run(WorkerBinaryCatalogGet(binary_id="any"))


async def test_a_catalog_that_cannot_be_read_is_told(paths: Paths, hive: HiveClient) -> None:
    shutil.rmtree(paths.worker_binaries)
    paths.worker_binaries.write_text("in the way")
    for request in (WorkerBinaryCatalogList(), WorkerBinaryCatalogGet(binary_id="x"), WorkerBinaryCatalogRefresh()):
        with pytest.raises(RbeeError) as refused:
            await hive.run(request)
        assert refused.value.code == "catalog_unreadable"


async def test_a_refresh_counts_against_what_was_known(paths: Paths, hive: HiveClient) -> None:
    async def refreshed() -> tuple[int, int, int]:
        found = (await hive.run(WorkerBinaryCatalogRefresh())).response
        return found.binaries_found, found.binaries_added, found.binaries_removed

    assert await refreshed() == (1, 0, 0), "the hive knew it from its start"
    second = install_engine(paths, replace(llama_cpp(), name="other"))
    third = install_engine(paths, replace(llama_cpp(), name="third"))
    # It is there at once; asking for it does not make it known to the next refresh.
    assert len((await hive.run(WorkerBinaryCatalogList())).response.binaries) == 3
    told = await hive.run(WorkerBinaryCatalogRefresh())
    assert (told.response.binaries_found, told.response.binaries_added) == (3, 2)
    entries = [e["binary_id"] for e in told.events if e["event"] == "worker_binary_refresh_entry"]
    assert sorted(entries) == sorted([second, third])
    assert told.names[0] == "worker_binary_refresh_start"
    assert told.names[-2:] == ["worker_binary_refresh_result", "result"]
    shutil.rmtree(paths.worker_binaries / second)
    told = await hive.run(WorkerBinaryCatalogRefresh())
    assert (told.response.binaries_found, told.response.binaries_removed) == (2, 1)
    assert [e["binary_id"] for e in told.events if e["event"] == "worker_binary_refresh_removed"] == [second]
    assert await refreshed() == (2, 0, 0)


async def test_a_broken_one_is_told_and_hides_no_other(paths: Paths, hive: HiveClient) -> None:
    gone = install_engine(paths, replace(llama_cpp(), name="gone"), python="/nowhere/python")
    torn = paths.worker_binaries / "torn"
    torn.mkdir()
    (torn / "metadata.json").write_text('{"artifact": {"id": "to')
    (paths.worker_binaries / "unfinished").mkdir()
    (paths.worker_binaries / "a file").write_text("no engine")
    told = await hive.run(WorkerBinaryCatalogList())
    found = {b.id: b for b in told.response.binaries}
    assert len(found) == 3
    assert (found[gone].status, found[gone].error) == (
        "failed",
        "Its Python is gone: /nowhere/python. Run `rbee apply` to install it again.",
    )
    assert found["torn"].status == "failed"
    assert "metadata.json cannot be read" in (found["torn"].error or "")
    levels = {e["binary_id"]: e["level"] for e in told.events if e["event"] == "worker_binary_list_entry"}
    assert {levels[gone], levels["torn"]} == {"warning"}
    assert (await hive.run(WorkerBinaryCatalogGet(binary_id="torn"))).response.binary.status == "failed"
    assert (await hive.run(WorkerBinaryCatalogRefresh())).response.binaries_found == 3


async def test_nothing_here_changes_what_is_installed(paths: Paths, hive: HiveClient) -> None:
    def installed() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in paths.worker_binaries.rglob("*") if p.is_file()}

    before = installed()
    for request in (WorkerBinaryCatalogList(), WorkerBinaryCatalogRefresh()):
        await hive.run(request)
    assert installed() == before
