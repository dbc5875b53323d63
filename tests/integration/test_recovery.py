# SPDX-License-Identifier: GPL-3.0-or-later
"""Deaths that a fleet survives, on real processes: queen, hives, workers, engines, each killed or stopped in turn."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rbee.contracts import codec
from rbee.contracts.operations import wire
from rbee.contracts.operations.hives import HiveList
from rbee.contracts.operations.inference import Infer
from rbee.contracts.operations.workers import WorkerLogs
from tests.support.fleet_processes import MODEL, SLOTS, Fleet, Stream, ask, fleet_in, job
from tests.support.mock_engine import event
from tests.support.queen import beat
from tests.support.waiting import until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_in(tmp_path_factory.mktemp("fleet"), "h1", "h2") as fleet:
        yield fleet


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    """Whatever the test before did, all is well again."""
    running.well()
    return running


def whole(tokens: int) -> str:
    return "".join(event(i).decode() for i in range(tokens)) + "data: [DONE]\n\n"


def asking(url: str, **mock: Any) -> tuple[threading.Thread, list[Any]]:
    """A stream that is read meanwhile; the list gets the worker and the text, or what went wrong."""
    found: list[Any] = []

    def read() -> None:
        try:
            stream = Stream(url, **mock)
            found.extend((stream.worker, stream.rest()))
        except Exception as e:
            found.append(e)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, found


def busy(fleet: Fleet) -> dict[str, Any] | None:
    """The worker that has a request now, as it says itself."""
    infos = [fleet.info(w) for w in fleet.workers()]
    return next((i for i in infos if i["slots_busy"]), None)


def crowd(fleet: Fleet) -> set[str]:
    """The workers that answer more streams at once than one of them has slots; all of these come whole."""
    asked = [asking(fleet.url, tokens=20, interval=0.01) for _ in range(SLOTS + 2)]
    for thread, _ in asked:
        thread.join(60)
    assert [found[1] for _, found in asked] == [whole(20)] * len(asked), [found[0] for _, found in asked]
    return {found[0] for _, found in asked}


def both_serve(fleet: Fleet) -> None:
    """Returns once each worker has given a whole answer."""
    until(lambda: crowd(fleet) == {"w-h1", "w-h2"}, "answers of both workers")


def test_a_worker_killed_before_its_first_byte_is_only_a_delay(fleet: Fleet) -> None:
    thread, found = asking(fleet.url, tokens=5, delay=2.0)
    victim = until(lambda: busy(fleet), "a worker that has it")
    os.kill(victim["pid"], signal.SIGKILL)
    thread.join(30)
    worker, text = found
    assert worker != victim["worker_id"]
    assert text == whole(5)


def test_a_worker_killed_midway_is_told_at_the_streams_end(fleet: Fleet) -> None:
    stream = Stream(fleet.url, tokens=100_000, interval=0.01)
    assert stream.line() == event(0).decode().splitlines()[0] + "\n"
    os.kill(fleet.info(stream.worker)["pid"], signal.SIGKILL)
    last = stream.rest().strip().split("\n\n")[-1]
    assert last.startswith("data: ")
    assert json.loads(last[6:])["error"]["code"] == "worker_died"


def test_a_client_that_leaves_is_seen_by_the_worker(fleet: Fleet) -> None:
    stream = Stream(fleet.url, tokens=100_000, interval=0.01)
    stream.line()
    assert fleet.info(stream.worker)["slots_busy"] == 1
    stream.answer.close()
    until(lambda: fleet.info(stream.worker)["slots_busy"] == 0, "the worker to be free")


def test_a_hung_engine_is_noticed_and_started_anew(fleet: Fleet) -> None:
    """Stopped in the middle of nothing: it takes requests, as the kernel does that for it, and never answers."""
    before = fleet.info("w-h1")
    os.kill(before["engine_pid"], signal.SIGSTOP)

    def next_life() -> dict[str, Any] | None:
        # Those for the hung one are answered by the other. A crowd that comes slowly may all be for the other.
        crowd(fleet)
        return _after(fleet, before)

    shown = until(next_life, "the worker's next process", 60)
    assert shown["pid"] != before["pid"]
    fleet.well()
    both_serve(fleet)
    restart = until(lambda: _restarted(fleet), "the restart to be over")
    assert restart["state"] == "completed"
    assert "sent nothing for 5 s" in restart["request"]["reason"]


def _restarted(fleet: Fleet) -> dict[str, Any] | None:
    """The one restart that there was, once it has ended: the worker serves before the job has said so."""
    jobs = ask(f"{fleet.url}/v1/jobs?limit=50")["jobs"]
    restart: dict[str, Any]
    (restart,) = [x for x in jobs if x["operation"] == "WorkerRestart"]
    return None if restart["state"] in ("queued", "running") else restart


def _after(fleet: Fleet, before: dict[str, Any]) -> dict[str, Any] | None:
    try:
        found = fleet.info("w-h1")
    except (OSError, KeyError):
        return None
    return found if found["pid"] != before["pid"] else None


def test_workers_of_a_hive_that_hangs_or_dies_serve_on(fleet: Fleet) -> None:
    before = fleet.info("w-h1")["pid"]
    hive = fleet.hives["h1"]
    hive.signal(signal.SIGSTOP)
    try:
        both_serve(fleet)
    finally:
        hive.signal(signal.SIGCONT)
    hive.kill()
    both_serve(fleet)
    hive.start()
    until(lambda: {h["status"] for h in job(fleet.url, HiveList())["result"]["hives"]} == {"online"}, "both hives")
    assert fleet.info("w-h1")["pid"] == before
    assert fleet.routable() == {"w-h1", "w-h2"}


def _settled(fleet: Fleet, job_id: str) -> dict[str, Any] | None:
    """The job, once it has ended or is followed at the hive."""
    found: dict[str, Any] = ask(f"{fleet.url}/v1/jobs/{job_id}")
    at_hive = {x["job_id"] for x in ask(f"{fleet.hives['h1'].url}/v1/jobs?state=running")["jobs"]}
    return found if found["state"] != "running" or found["child"]["job_id"] in at_hive else None


def test_a_queen_killed_under_load_comes_back_and_finds_all(fleet: Fleet) -> None:
    pids = {w: fleet.info(w)["pid"] for w in ("w-h1", "w-h2")}
    done = job(fleet.url, Infer(model=MODEL, prompt="x"))
    assert done["state"] == "completed"
    streams = [Stream(fleet.url, tokens=100_000, interval=0.01) for _ in range(6)]
    for stream in streams:
        stream.line()
    followed = wire(WorkerLogs(hive_id="h1", worker_id="w-h1", follow=True))
    running = [ask(f"{fleet.url}/v1/jobs", followed)["job_id"] for _ in range(5)]
    until(lambda: all(ask(f"{fleet.url}/v1/jobs/{x}")["state"] == "running" for x in running), "jobs that run")
    fleet.queen.kill()
    for stream in streams:
        with pytest.raises((OSError, http.client.HTTPException)):  # cut, and seen to be cut
            stream.answer.read()
    fleet.queen.start()
    fleet.well()
    assert {w: fleet.info(w)["pid"] for w in pids} == pids
    until(lambda: not any(fleet.info(w)["slots_busy"] for w in pids), "slots of clients that were cut")
    listed = [x["job_id"] for x in ask(f"{fleet.url}/v1/jobs?limit=1000")["jobs"]]
    assert len(listed) == len(set(listed))
    assert {*running, done["job_id"]} <= set(listed)
    # They are the hive's, which goes on with those that it had got by then: these are followed again. None was begun
    # twice, and none goes on that nobody knows of.
    states = {x: until(partial(_settled, fleet, x), "the job to be found again, or not") for x in running}
    assert {x["error"]["code"] for x in states.values() if x["error"]} <= {"interrupted"}
    followed_on = [x for x, found in states.items() if found["state"] == "running"]
    at_hive = ask(f"{fleet.hives['h1'].url}/v1/jobs?state=running")["jobs"]
    assert {x["job_id"] for x in at_hive} == {states[x]["child"]["job_id"] for x in followed_on}
    for job_id in followed_on:
        assert ask(f"{fleet.url}/v1/jobs/{job_id}", method="DELETE")["state"] == "cancelled"
    again = ask(f"{fleet.url}/v1/jobs/{done['job_id']}")
    assert again["result"] == done["result"]
    with sqlite3.connect(fleet.queen.home.paths.data / "queen.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_removed_hives_workers_get_nothing_and_are_told(fleet: Fleet) -> None:
    fleet.settle(hives=fleet.known("h1"))
    fleet.queen.signal(signal.SIGHUP)
    until(lambda: set(fleet.workers()) == {"w-h1"}, "h2's worker to be forgotten")
    url = f"http://127.0.0.1:{fleet.hives['h1'].url.rpartition(':')[2]}"
    late = codec.plain(beat("w-h2", 1, hive_id="h2", url=url, model=MODEL))
    told = ask(f"{fleet.url}/v1/worker-heartbeat", late)
    assert (told["status"], told["reason"]) == ("ignored", "This fleet has no such hive.")
    assert {Stream(fleet.url, tokens=3).worker for _ in range(4)} == {"w-h1"}
    fleet.settle(hives=fleet.known("h1", "h2"))
    fleet.queen.signal(signal.SIGHUP)
    fleet.well()


def test_of_two_workers_with_one_id_the_newer_wins_and_the_other_is_told(fleet: Fleet) -> None:
    """The newer one is said to be on the other hive, as after a move; when it goes, the older one is there again."""
    older = fleet.info("w-h2")
    log = fleet.hives["h2"].home.paths.state / "workers" / "w-h2"
    with socket.create_server(("127.0.0.1", 0)) as place:
        newer = beat("w-h2", place.getsockname()[1], model=MODEL, hive_id="h1", started_at="2099-01-01T00:00:00Z")
        assert ask(f"{fleet.url}/v1/worker-heartbeat", codec.plain(newer)) == {"status": "ok"}
        assert fleet.workers()["w-h2"]["worker"]["url"] == newer.url
        _works(older["url"])  # which it tells the queen
        until(lambda: "says replaced" in _text(log), "the older one to be told")
        assert fleet.workers()["w-h2"]["worker"]["url"] == newer.url
        _works(older["url"])  # it goes on, told or not
    crowd(fleet)  # the newer one is found to be gone; nobody who asks has to know
    _works(older["url"])
    until(lambda: fleet.workers()["w-h2"]["worker"]["url"] == older["url"], "the older one to be known again")
    until(lambda: "says ok" in _text(log), "the older one to be told that")
    fleet.well()


def _works(url: str) -> None:
    assert Stream(url, tokens=3).rest() == whole(3)


def _text(folder: Path) -> str:
    return "".join(x.read_text() for x in folder.glob("*.log"))
