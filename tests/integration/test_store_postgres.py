# SPDX-License-Identifier: GPL-3.0-or-later
"""The store on a real PostgreSQL: what several share, and what becomes of it when the database goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee.adapters.paths import Paths
from rbee.adapters.store import SqliteJobStore
from rbee.adapters.store.choose import load_password, name_of_queen, store_of
from rbee.adapters.store.migrations import POSTGRES, Step
from rbee.adapters.store.pg_link import Link
from rbee.adapters.store.pg_rows import Append, Bounds, Note, Rows
from rbee.adapters.store.pg_writer import Writer
from rbee.adapters.store.postgres import PostgresStore
from rbee.contracts.configs import QueenConfig
from rbee.contracts.jobs import Job
from rbee.core.errors import RbeeError, Unavailable
from tests.support.postgres import PASSWORD, Cluster, cluster
from tests.support.stores import Stores, job, listed
from tests.support.waiting import eventually

#: A lease that is over soon: nothing here needs it to hold.
SOON = 0.4
#: One that holds, however slow the machine is.
HELD = 3600.0


@pytest.fixture
async def stores(postgres: Cluster, tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(tmp_path, postgres, await postgres.make())
    yield made
    await made.close()


async def opened(stores: Stores, holder: str, **settings: float) -> PostgresStore:
    store = await stores.open(holder, **settings)
    assert isinstance(store, PostgresStore)
    return store


async def asked(stores: Stores, text: str, *values: object) -> list[tuple[object, ...]]:
    assert stores.cluster is not None
    return [tuple(row) for row in await stores.cluster.ask(stores.database, text, *values)]


# The schema.


async def test_many_who_start_at_once_make_the_schema_once(stores: Stores) -> None:
    await asyncio.gather(*(stores.open(f"queen-{i}") for i in range(5)))
    assert await asked(stores, "SELECT version FROM rbee.schema_version") == [(POSTGRES[-1].version,)]


async def test_an_older_schema_is_brought_up_to_date_and_a_newer_one_is_refused_untouched(stores: Stores) -> None:
    store = await opened(stores, "a")
    store.put(job(1))
    await store.close()
    later = (*POSTGRES, Step(version=2, statements=("ALTER TABLE rbee.jobs ADD COLUMN more text DEFAULT 'x'",)))
    newer = stores.make("a", steps=later)
    await newer.open()
    assert await listed(newer) == ["job-1"]
    await newer.close()
    assert await asked(stores, "SELECT version FROM rbee.schema_version") == [(2,)]
    before = await asked(stores, "SELECT * FROM rbee.jobs")
    with pytest.raises(RbeeError, match=r"made by a newer rbee \(schema 2, known 1\)") as caught:
        await stores.open("a")
    assert caught.value.code == "store_unusable"
    assert await asked(stores, "SELECT * FROM rbee.jobs") == before
    assert await asked(stores, "SELECT version FROM rbee.schema_version") == [(2,)]


async def test_a_step_that_fails_leaves_all_as_it_was(stores: Stores) -> None:
    store = await opened(stores, "a")
    store.put(job(1))
    await store.close()
    bad = (*POSTGRES, Step(version=2, statements=("DROP TABLE rbee.events", "INSERT INTO rbee.nowhere VALUES (1)")))
    with pytest.raises(RbeeError, match="nowhere"):
        await stores.open("a", steps=bad)
    again = await opened(stores, "a")
    again.append("job-1", 1, b"x")
    assert await again.events("job-1", 0, 1) == [(1, b"x")]


# Who may use it.


async def test_a_database_that_cannot_be_used_is_named_without_secrets(stores: Stores, postgres: Cluster) -> None:
    url = stores.cluster.url(stores.database) if stores.cluster else ""
    with pytest.raises(RbeeError) as wrong:
        await PostgresStore(url, "a", password="not-the-right-one").open()
    with pytest.raises(RbeeError) as missing:
        await PostgresStore(postgres.url("nowhere"), "a", password=PASSWORD).open()
    with pytest.raises(RbeeError) as absent:
        await PostgresStore("postgresql://rbee@127.0.0.1:1/x", "a", password=PASSWORD).open()
    for caught, why in ((wrong, "password authentication failed"), (missing, '"nowhere" does not exist'), (absent, "")):
        assert caught.value.code == "store_unusable"
        assert why in str(caught.value)
        assert "postgresql://127.0.0.1:" in str(caught.value)
        assert "not-the-right-one" not in str(caught.value)
        assert PASSWORD not in str(caught.value)
    for bad in ("postgresql://rbee:hunter2-secret@h/db", "postgresql://h/db?password=hunter2-secret"):
        with pytest.raises(RbeeError) as refused:
            PostgresStore(bad, "a")
        assert refused.value.code == "bad_config"
        assert "hunter2" not in str(refused.value)


async def test_settings_say_which_store_and_the_password_is_in_a_file(stores: Stores, tmp_path: Path) -> None:
    paths = Paths(config=tmp_path, cache=tmp_path, data=tmp_path / "data", state=tmp_path)
    assert isinstance(store_of(QueenConfig(fleet="f"), paths), SqliteJobStore)
    file = tmp_path / "password"
    assert stores.cluster is not None
    config = QueenConfig(fleet="f", store=stores.cluster.url(stores.database), store_password_file=str(file))
    with pytest.raises(RbeeError, match="No such file"):
        store_of(config, paths)
    file.write_text(PASSWORD + "\n")
    file.chmod(0o640)
    with pytest.raises(RbeeError, match=r"can be read by others \(mode 0640\).*chmod 600"):
        store_of(config, paths)
    file.chmod(0o600)
    store = store_of(config, paths)
    await store.open()
    assert store.shared
    assert store.holder == name_of_queen(paths.data), "the same after a restart"
    await store.close()
    (paths.data / "queen.id").write_text("another-machine-0123456789ab\n")
    assert name_of_queen(paths.data) != "another-machine-0123456789ab"
    file.write_text("")
    with pytest.raises(RbeeError, match="holds no password"):
        load_password(file)


# What queens share.


async def test_a_lease_is_one_queens_until_it_is_over_or_given_back(stores: Stores) -> None:
    a, b = await opened(stores, "a"), await opened(stores, "b")
    assert await a.lease("scaler", HELD)
    assert not await b.lease("scaler", HELD)
    assert await b.lease("another", HELD)
    assert await a.lease("scaler", SOON), "renewed, for less"
    await eventually(lambda: b.lease("scaler", HELD))
    assert not await a.lease("scaler", HELD)
    await a.release("scaler")
    assert not await a.lease("scaler", HELD), "she can give back only what is hers"
    await b.release("scaler")
    assert await a.lease("scaler", HELD)
    await a.close()
    assert await b.lease("scaler", HELD), "who stops gives all back"


async def test_of_many_who_want_a_lease_one_gets_it(stores: Stores) -> None:
    queens = [await opened(stores, f"queen-{i}") for i in range(4)]
    for n in range(10):
        got = await asyncio.gather(*(q.lease(f"lease-{n}", HELD) for q in queens for _ in range(2)))
        winners = {i // 2 for i, mine in enumerate(got) if mine}
        assert len(winners) == 1


async def test_a_bucket_is_shared(stores: Stores) -> None:
    queens = [await opened(stores, f"queen-{i}") for i in range(3)]
    got = await asyncio.gather(*(q.take("key", 1, 0.001, 20) for q in queens for _ in range(20)))
    assert sum(got) == 20


async def test_what_one_publishes_the_others_hear_in_order_whatever_its_length(stores: Stores) -> None:
    a, b, c = [await opened(stores, name) for name in "abc"]
    heard: dict[str, list[bytes]] = {"a": [], "b": [], "c": []}
    for store in (a, b, c):
        store.subscribe("worker", heard[store.holder].append)
    await eventually(lambda: _true(all(x[:1] == [b""] for x in heard.values()) or _greeted(a, b, c)))
    said = [b"%d:" % i + "\u00e9\n".encode() * (9_000 if i % 3 == 0 else 5) for i in range(30)]
    for text in said:
        a.publish("worker", text)
    a.publish("nobody", b"hears this")
    b.publish("worker", b"from b")
    a.publish("worker", b"x" * (2**20 + 1))
    a.publish("worker", b"last")
    await eventually(lambda: _true(b"last" in heard["b"] and b"last" in heard["c"] and b"from b" in heard["a"]))
    assert [x for x in heard["b"] if x] == [*said, b"last"]
    assert [x for x in heard["c"] if x and x != b"from b"] == [*said, b"last"]
    assert [x for x in heard["a"] if x] == [b"from b"], "nobody hears herself"


async def _true(value: bool) -> bool:
    return value


def _greeted(*stores: PostgresStore) -> bool:
    """All listen already."""
    return all(store.trouble is None for store in stores)


# Whose a job is.


async def test_jobs_of_a_living_queen_are_never_taken_those_of_a_dead_one_are_taken_once(stores: Stores) -> None:
    living = await opened(stores, "living", owner_ttl=HELD)
    dead = await opened(stores, "dead", owner_ttl=SOON)
    # They take the dead one for dead soon, and each other never.
    others = [await opened(stores, name, owner_ttl=SOON) for name in ("b", "c")]
    for other in others:
        assert await other.lease(f"queen/{other.holder}", HELD)
    living.put(job(1, "running"))
    for n in range(2, 12):
        dead.put(job(n, "running"))
    await living.settled()
    await dead.settled()
    claimed: list[list[Job]] = [[], []]

    async def all_claimed() -> bool:
        found = await asyncio.gather(*(other.claim(starting=False) for other in others))
        for mine, more in zip(claimed, found, strict=True):
            mine.extend(more)
        return sum(map(len, claimed)) >= 10

    await eventually(all_claimed)
    ids = sorted(j.job_id for mine in claimed for j in mine)
    assert ids == sorted(f"job-{n}" for n in range(2, 12)), "each of them once, and no other"
    # The one who was taken for dead is back: what she says of them now is not theirs any more.
    dead.put(job(2))
    dead.append("job-2", 1, b"too late")
    dead.put(job(99, "running"))
    assert await dead.orders(["job-2", "job-99"]) == ([], ["job-2"])
    found = await dead.get("job-2")
    assert found is not None
    assert found.state == "running"
    assert await dead.events("job-2", 0, 9) == []
    again = await opened(stores, "living", owner_ttl=HELD)
    assert [j.job_id for j in await again.claim(starting=True)] == ["job-1"], "her own, from before her restart"


async def test_nobody_is_taken_for_dead_by_who_has_just_come(stores: Stores) -> None:
    dead = await opened(stores, "dead", owner_ttl=0.001)
    dead.put(job(1, "running"))
    await dead.settled()
    new = await opened(stores, "new", owner_ttl=HELD)
    assert await new.claim(starting=False) == []
    assert await new.claim(starting=True) == []


async def test_a_cancel_reaches_the_queen_who_runs_the_job(stores: Stores) -> None:
    a, b = await opened(stores, "a"), await opened(stores, "b")
    heard: list[bytes] = []
    a.subscribe("cancel", heard.append)
    a.put(job(1, "running"))
    await a.settled()
    await b.request_cancel("job-1")
    await eventually(lambda: _true(b"job-1" in heard))
    assert await a.orders(["job-1"]) == (["job-1"], []), "also when she did not hear it"
    assert await b.orders([]) == ([], [])


async def test_only_one_throws_old_jobs_away_and_another_when_she_is_gone(stores: Stores) -> None:
    first = await opened(stores, "first", jobs_kept=2, owner_ttl=HELD)
    second = await opened(stores, "second", jobs_kept=2, owner_ttl=HELD)
    for n in range(1, 8):
        second.put(job(n, "queued"))
        second.put(job(n))
    assert len(await listed(second)) == 7
    first.put(job(8, "queued"))
    assert await listed(first) == ["job-8", "job-7"]
    await first.close()
    await second.orders([])
    for n in range(11, 20):
        second.put(job(n, "queued"))
        second.put(job(n))
    assert await listed(second) == ["job-19", "job-18", "job-8"], "what has not ended stays"


# A database that goes away.


async def test_what_is_written_while_it_is_away_is_there_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with cluster() as own:
        stores = Stores(tmp_path, own, await own.make())
        store = await opened(stores, "a")
        heard: list[bytes] = []
        store.subscribe("job", heard.append)
        store.put(job(1, "running"))
        store.append("job-1", 1, b"before")
        await store.settled()
        await asyncio.to_thread(own.stop)
        for n in range(2, 1002):
            store.append("job-1", n, b"%d" % n)
        store.put(job(1))
        store.publish("worker", b"nobody hears it")
        settled = asyncio.ensure_future(store.settled())
        await eventually(lambda: _true(store.trouble is not None))
        for question in (store.get("job-1"), store.take("x", 1, 1, 1), store.orders([]), store.request_cancel("job-1")):
            with pytest.raises(Unavailable) as caught:
                await asyncio.wait_for(question, 60)
            assert caught.value.code == "store_away"
        assert not await store.lease("scaler", HELD)
        assert not settled.done()
        heard.clear()
        await asyncio.to_thread(own.start)
        await asyncio.wait_for(settled, 60)
        assert store.trouble is None
        found = await store.get("job-1")
        assert found is not None
        assert found.state == "completed"
        events = await store.events("job-1", 0, 2000)
        assert [seq for seq, _ in events] == list(range(1, 1002))
        await eventually(lambda: _true(b"" in heard))
        other = await opened(stores, "b")
        other.put(job(2))
        await eventually(lambda: _true(b"job-2" in heard))
        assert PASSWORD not in caplog.text
        await stores.close()


async def test_what_waits_for_a_database_is_bounded_and_jobs_outlast_events(tmp_path: Path) -> None:
    bounds = Bounds(jobs=10, events=10_000, event_bytes=2**20, total_bytes=2**20, result_bytes=2**20)
    with cluster() as own:
        database = await own.make()
        link = Link(own.url(database), PASSWORD)
        await link.prepare()
        own.stop()
        writer = Writer(link, Rows("a", bounds), most=200, most_bytes=10_000_000)
        writer.start()
        stores = Stores(tmp_path, own, database)
        first = stores.make("a")
        assert isinstance(first, PostgresStore)
        first._writer = writer  # only `put` is used: what it makes of a job
        first.put(job(1, "running"))
        await eventually(lambda: _true(writer.trouble is not None))
        for n in range(1, 1001):
            writer.add(Append("job-1", n, b"x"))
            writer.add(Note("worker", "old by then"))
        first.put(job(1))
        own.start()
        await asyncio.wait_for(writer.settled(), 60)
        rows = await asked(stores, "SELECT seq FROM rbee.events ORDER BY seq")
        seqs = [row[0] for row in rows]
        assert 100 <= len(seqs) <= 200
        assert seqs == list(range(1001 - len(seqs), 1001)), "the newest"
        assert await asked(stores, "SELECT state FROM rbee.jobs") == [("completed",)]
        await writer.close()


async def test_a_write_that_is_refused_loses_itself_only(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    store = await opened(stores, "a")
    store.append("job-1", 1, b"one")
    store.append("job-1", 2**70, b"no such number")
    store.append("job-1", 3, b"three")
    assert [seq for seq, _ in await store.events("job-1", 0, 9)] == [1, 3]
    assert "1 writes were lost" in caplog.text


async def test_a_store_that_closes_while_the_database_is_away_ends_in_time(tmp_path: Path) -> None:
    with cluster() as own:
        stores = Stores(tmp_path, own, await own.make())
        store = await opened(stores, "a")
        await asyncio.to_thread(own.stop)
        store.put(job(1))
        waiting = asyncio.ensure_future(store.settled())
        await eventually(lambda: _true(store.trouble is not None))
        await asyncio.wait_for(store.close(), 60)
        with pytest.raises(RbeeError):
            await waiting
