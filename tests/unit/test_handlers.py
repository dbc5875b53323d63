# SPDX-License-Identifier: GPL-3.0-or-later
"""What the handlers of actions ask of machines, hives and the queen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from rbee.contracts.configs import HiveConfig
from rbee.contracts.operations.fleet import Status
from rbee.contracts.operations.models import ModelDelete, ModelDownload
from rbee.contracts.operations.workers import (
    WorkerProcessDelete,
    WorkerProcessList,
    WorkerProcessListResponse,
    WorkerSpawn,
)
from rbee.core.actions import Action, Kind
from rbee.core.errors import RbeeError, Unreachable
from rbee.core.facts import Release
from rbee.core.records import Mark, WorkerRecord
from rbee.core.spec import WorkerOptions
from rbee.fleet.handlers import HANDLERS, hives, models, queen, workers
from rbee.fleet.handlers.hives import release_python
from tests.unit.fakes import TOKEN, FakeShell, Stage, action, machine, stage
from tests.unit.strategies import FLEET, hive_actual

OURS = Mark(fleet=FLEET)


@pytest.fixture
def on() -> Stage:
    return stage()


def test_every_kind_of_action_has_its_handler() -> None:
    assert set(HANDLERS) == set(get_args(Kind))


# ------------------------------------------------------------ hives


def test_installing_a_release(on: Stage) -> None:
    on.do(hives.install, action("hive.install", release="r1"))
    assert on.bundler.made == [("linux-x86_64", OURS)]
    assert on.installer.installed == [("box", "release")]
    assert {"type": "action_progress", "done": 1, "total": 2} in on.told


@pytest.mark.parametrize(("handler", "verb"), [(hives.start, "start"), (hives.restart, "restart")])
def test_a_hive_is_configured_and_then_started(on: Stage, handler: Any, verb: str) -> None:
    on.box.answers = [{"written": 2}, {"notes": ["It will not outlive your login."]}]
    on.do(handler, action("hive.start", release="r2"))
    (asked,) = on.box.asked
    token, config = asked["write"]
    assert token == {"path": "/c/rbee/token", "text": TOKEN + "\n", "mode": 0o600}
    assert (config["path"], config["mode"]) == ("/c/rbee/hive.json", 0o600)
    assert json.loads(config["text"])["hive_id"] == "box"
    assert on.box.services == [["/d/rbee/releases/r2/bin/python", verb, "hive"]]
    assert on.notes == ["It will not outlive your login."]
    assert not any(TOKEN in word for argv, _ in on.box.ran for word in argv)


def test_a_hive_that_is_to_go_is_started_with_the_settings_that_it_has(on: Stage) -> None:
    on.do(hives.start, action("hive.start", "old", "old", release="r1", as_it_was=True))
    shell = on.machines.shells["old"]
    assert shell.asked == []
    assert shell.services == [["/d/rbee/releases/r1/bin/python", "start", "hive"]]


def test_what_keeps_a_daemon_from_starting_is_told_in_its_words(on: Stage) -> None:
    on.box.answers = [{}, {"error": "The port is taken.", "code": "address_in_use", "mend": "Free it."}]
    with pytest.raises(RbeeError) as e:
        on.do(hives.start, action("hive.start", release="r1"))
    assert (e.value.message, e.value.code, e.value.mend) == ("The port is taken.", "address_in_use", "Free it.")
    on.box.answers = [{}, {"error": "It did not come up."}]
    with pytest.raises(RbeeError) as e:
        on.do(hives.start, action("hive.start", release="r1"))
    assert e.value.code == "service"


@pytest.mark.parametrize(("errno", "mend"), [(28, "Free some space there and apply again."), (13, "")])
def test_what_keeps_settings_from_being_written_is_told(on: Stage, errno: int, mend: str) -> None:
    on.box.answers = [{"error": "the machine's words", "errno": errno}]
    with pytest.raises(RbeeError) as e:
        on.do(hives.restart, action("hive.restart", release="r1"))
    assert (e.value.message, e.value.code, e.value.mend) == ("the machine's words", "remote_files", mend)
    assert on.box.services == []  # it is not restarted with half its settings


def test_stopping_a_hive(on: Stage) -> None:
    on.do(hives.stop, action("hive.stop"))
    assert on.box.services == [["/r1/python", "stop", "hive"]]


def test_a_hive_of_a_machine_without_a_release_cannot_be_stopped() -> None:
    with pytest.raises(RbeeError, match="No release of this fleet"):
        stage(machine(releases=())).do(hives.stop, action("hive.stop"))


def test_uninstalling_removes_releases_settings_token_and_records(on: Stage) -> None:
    on.do(hives.uninstall, action("hive.uninstall"))
    (asked,) = on.box.asked
    removed = set(asked["remove"])
    assert {
        "/d/rbee/releases/r1",
        "/c/rbee/token",
        "/c/rbee/hive.json",
        "/s/rbee/workers",
        "/d/rbee/hive.db",
        "/d/rbee/memory.json",
        "/s/rbee/hive.log.1",
    } <= removed
    assert asked["roots"] == ["/c/rbee", "/k/rbee", "/d/rbee", "/s/rbee"]
    assert all(any(p.startswith(f"{r}/") for r in asked["roots"]) for p in removed)
    assert "/k/rbee/models" in asked["tidy"]
    assert "/k/rbee/models" not in removed


def test_uninstalling_leaves_other_fleets_releases_and_all_that_these_need() -> None:
    theirs = Release(id="r0", path="/d/rbee/releases/r0", python="/r0/python", mark=Mark(fleet="other"))
    by_hand = replace(theirs, id="x", path="/d/rbee/releases/x", mark=None)
    on = stage(machine(releases=(*machine().releases, theirs, by_hand)))
    on.do(hives.uninstall, action("hive.uninstall"))
    assert on.box.asked[0]["remove"] == ["/d/rbee/releases/r1"]


def test_a_machine_without_python_says_so() -> None:
    with pytest.raises(RbeeError) as e:
        stage(machine(python=None)).do(hives.uninstall, action("hive.uninstall"))
    assert e.value.code == "no_python"


def test_a_releases_python(on: Stage) -> None:
    assert release_python(on.world, "box", "r7") == "/d/rbee/releases/r7/bin/python"


# ------------------------------------------------------------ where a hive is reached


def test_a_hive_is_reached_where_its_settings_say_and_once(on: Stage) -> None:
    assert on.world.api("box") is on.world.api("box")
    on.world.api("here")
    assert on.machines.urls == ["http://10.0.0.1:7835", "http://127.0.0.1:7835"]


def test_a_dropped_hive_is_reached_where_the_queen_knew_it(on: Stage) -> None:
    on.world.api("old")
    assert on.machines.urls == ["http://10.0.0.9:9000"]


def test_a_dropped_hive_that_lives_tells_itself_where(on: Stage) -> None:
    on.world.survey.actual.hives["old"] = hive_actual()
    on.world.api("old")
    assert on.machines.urls == ["http://10.0.0.1:7835"]


def test_a_dropped_hive_that_nobody_told_of_is_tried_at_the_usual_port(on: Stage) -> None:
    on.world.survey = replace(on.world.survey, queen_config=None)
    on.world.api("old")
    assert on.machines.urls == ["http://10.0.0.1:7835"]


# ------------------------------------------------------------ the queen


@pytest.mark.parametrize(("handler", "verb"), [(queen.start, "start"), (queen.restart, "restart")])
def test_the_queen_is_configured_and_then_started(on: Stage, handler: Any, verb: str) -> None:
    on.here.answers = [{"notes": ["a note"]}]
    on.do(handler, action("queen.start", "queen", None))
    assert on.home.done == ["token", "write"]
    assert on.home.config == on.world.queen_config
    assert on.here.services == [["/own/python", verb, "queen"]]
    assert on.notes == ["a note"]


def test_a_queen_that_is_to_go_is_started_with_the_settings_that_she_has(on: Stage) -> None:
    before = on.home.config
    on.do(queen.start, action("queen.start", "queen", None, as_it_was=True))
    assert (on.home.config, on.home.done) == (before, [])
    assert on.here.services == [["/own/python", "start", "queen"]]


def test_configuring_the_queen_restarts_nothing(on: Stage) -> None:
    on.do(queen.configure, action("queen.configure", "queen", None))
    assert (on.home.done, on.machines.queen.reloads, on.here.ran) == (["token", "write"], 1, [])


def test_a_queen_that_refuses_new_settings_keeps_the_old_ones_for_her_next_start(on: Stage) -> None:
    before = on.home.config
    on.machines.queen.refuses = RbeeError("There is no such file.", code="bad_key_file")
    with pytest.raises(RbeeError, match="no such file"):
        on.do(queen.configure, action("queen.configure", "queen", None))
    assert on.home.config == before
    on.machines.queen.refuses = Unreachable("Nobody is there.")
    with pytest.raises(Unreachable):
        on.do(queen.configure, action("queen.configure", "queen", None))
    assert on.home.config == on.world.queen_config, "nobody has refused them"


def test_a_queen_that_cannot_start_with_new_settings_gets_her_old_ones_back(on: Stage) -> None:
    before = on.home.config
    on.world.queen_config = replace(on.world.queen_config, store="postgresql://db/rbee", release="r2")
    log = "Its log is /s/rbee/queen.log."
    said = "The queen did not start: The database postgresql://db/rbee cannot be used: refused."
    on.here.answers = [{"error": said, "code": "start_failed", "mend": log}, {"notes": ["a note"]}]
    with pytest.raises(RbeeError) as e:
        on.do(queen.restart, action("queen.restart", "queen", None))
    assert on.here.services == [["/own/python", "restart", "queen"]] * 2
    assert before is not None and on.home.config == replace(before, release="r2"), "that is what runs"
    assert (e.value.code, e.value.mend) == ("start_failed", log)
    assert "old ones back and runs with them" in e.value.message and e.value.message.endswith(said)
    assert on.notes == ["a note"]


def test_a_queen_that_starts_with_no_settings_at_all_is_told_with_both_reasons(on: Stage) -> None:
    before = on.home.config
    on.world.queen_config = replace(on.world.queen_config, listen="127.0.0.1:1")
    on.here.answers = [
        {"error": "No right.", "code": "start_failed", "mend": "Its log."},
        {"error": "The disk is full."},
    ]
    with pytest.raises(RbeeError) as e:
        on.do(queen.restart, action("queen.restart", "queen", None))
    assert on.home.config == before
    assert "neither" in e.value.message
    assert "New: No right." in e.value.message and "Old: The disk is full." in e.value.message
    assert (e.value.code, e.value.mend) == ("start_failed", "Its log.")


@pytest.mark.parametrize("none", [True, False])
def test_where_there_are_no_other_settings_to_go_back_to_she_is_not_tried_again(on: Stage, none: bool) -> None:
    on.home.config = None if none else replace(on.world.queen_config, release="r0")
    on.here.answers = [{"error": "The port is taken.", "code": "start_failed"}]
    with pytest.raises(RbeeError) as e:
        on.do(queen.restart, action("queen.restart", "queen", None))
    assert e.value.message == "The port is taken."
    assert len(on.here.services) == 1 and on.home.config == on.world.queen_config


def test_stopping_the_queen_forgets_her(on: Stage) -> None:
    on.do(queen.stop, action("queen.stop", "queen", None))
    assert on.here.services == [["/own/python", "stop", "queen"]]
    assert on.home.done == ["forget"]


def test_a_queen_that_does_not_end_is_not_forgotten(on: Stage) -> None:
    on.here.answers = [{"error": "It did not end."}]
    with pytest.raises(RbeeError):
        on.do(queen.stop, action("queen.stop", "queen", None))
    assert on.home.done == []


def hive_info(status: str, **kw: str) -> dict[str, Any]:
    return {"hives": [{"hive_id": "other", "status": "online"}, {"hive_id": "box", "status": status, **kw}]}


def test_registering_waits_until_she_has_reached_the_hive(on: Stage) -> None:
    on.machines.queen.infos = [{}, hive_info("unknown"), hive_info("online")]
    on.do(queen.register, action("hive.register"))
    assert on.machines.queen.reloads == 1
    assert on.world.clock.monotonic() > 0


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (hive_info("unreachable", error="No route to host."), "No route to host."),
        (hive_info("stale"), "stale"),
        ({}, "she has not answered yet"),
    ],
)
def test_a_hive_that_she_cannot_reach_is_told_with_her_reason(on: Stage, info: dict[str, Any], reason: str) -> None:
    on.machines.queen.infos = [info]
    with pytest.raises(RbeeError) as e:
        on.do(queen.register, action("hive.register"))
    assert e.value.code == "not_registered"
    assert e.value.message == f"The queen cannot reach hive 'box' at http://10.0.0.1:7835: {reason}"


def test_registering_ends_when_all_is_to_end(on: Stage) -> None:
    on.machines.queen.infos = [hive_info("unknown")]
    on.world.stop.set()
    with pytest.raises(RbeeError):
        on.do(queen.register, action("hive.register"))
    assert on.world.clock.monotonic() == 0


def test_unregistering_keeps_all_other_settings(on: Stage) -> None:
    on.do(queen.unregister, action("hive.unregister", "old", "old"))
    assert on.home.config is not None
    assert [h.hive_id for h in on.home.config.hives] == ["box"]
    assert on.machines.queen.reloads == 1


def test_unregistering_from_a_queen_that_is_down_or_gone_is_done(on: Stage) -> None:
    on.machines.queen.refuses = Unreachable("Connection refused.")
    on.do(queen.unregister, action("hive.unregister", "old", "old"))
    assert on.home.done == ["write"]
    on.home.config = None
    on.do(queen.unregister, action("hive.unregister"))
    assert on.home.done == ["write"]
    on.home.config = on.world.queen_config
    on.machines.queen.refuses = RbeeError("No.", code="unauthorized")
    with pytest.raises(RbeeError):
        on.do(queen.unregister, action("hive.unregister"))


# ------------------------------------------------------------ engines and models


def test_an_engine_is_installed_as_a_bundle(on: Stage) -> None:
    on.do(models.install_engine, action("engine.install", "e", engine="llama-cpp"))
    assert on.bundler.made == [("llama-cpp", "linux-x86_64", OURS)]
    assert on.installer.installed == [("box", "engine")]


@pytest.mark.parametrize(("here", "installed"), [(True, []), (False, [("here", "engine")])])
def test_on_this_machine_the_engine_of_our_own_environment_will_do(on: Stage, here: bool, installed: Any) -> None:
    on.installer.here = here
    on.do(models.install_engine, action("engine.install", "e", "here", engine="llama-cpp"))
    assert on.installer.installed == installed
    assert bool(on.notes) is here


def test_an_engine_that_nobody_provides(on: Stage) -> None:
    with pytest.raises(RbeeError) as e:
        on.do(models.install_engine, action("engine.install", "e", engine="nothing"))
    assert e.value.code == "unknown_engine"


def test_an_engine_is_removed_from_below_its_own_directory_only(on: Stage) -> None:
    on.do(models.remove_engine, action("engine.remove", "e-1"))
    assert on.box.asked == [{"remove": ["/k/rbee/workers/e-1"], "roots": ["/k/rbee/workers"]}]


def answers_download(request: Any) -> Any:
    return SimpleNamespace(commit="c0ffee", checksum="a" * 64)


SOURCE = {"source": "hf:org/tiny.gguf", "revision": "v1", "commit": "c0ffee", "sha256": None}


def test_a_model_is_fetched_by_its_hive_and_remembered_for_the_lock(on: Stage) -> None:
    on.machines.hives["box"].does = answers_download
    on.do(models.fetch, action("model.fetch", "tiny", push_from=None, **SOURCE))
    assert on.machines.hives["box"].requests == [
        ModelDownload(
            hive_id="box", model="hf:org/tiny.gguf", model_id="tiny", revision="v1", commit="c0ffee", mark=OURS
        )
    ]
    told = {"source": "hf:org/tiny.gguf", "revision": "v1", "commit": "c0ffee", "sha256": "a" * 64}
    assert on.world.fetched == {"tiny": told}
    assert on.notes == ["told by a job"]


def test_a_file_is_sent_and_then_taken_in_under_the_source_that_was_declared(on: Stage, tmp_path: Path) -> None:
    path = tmp_path / "my model;.gguf"
    path.write_bytes(b"x")
    on.machines.hives["box"].does = answers_download
    source = f"file:{path}"
    on.do(models.push, action("model.push", "../tiny", source=source, push_from=str(path), sha256="a" * 64))
    ((shell, sent, destination),) = on.installer.pushed
    assert (shell, sent) == ("box", path)
    folder, _, name = destination.rpartition("/")
    assert folder == "/k/rbee/models/.incoming"
    assert name.endswith("-my_model_.gguf")
    (request,) = on.machines.hives["box"].requests
    assert (request.model, request.declared_source, request.sha256) == (f"file:{destination}", source, "a" * 64)
    assert on.world.fetched["../tiny"]["source"] == source


@pytest.mark.parametrize("mlc", [True, False])
def test_all_files_of_a_model_are_sent_under_their_own_names(on: Stage, tmp_path: Path, mlc: bool) -> None:
    names = ["mlc-chat-config.json", "params_shard_0.bin", "tensor-cache.json", "tokenizer.json"]
    if not mlc:
        names = ["my-m-00001-of-00002.gguf", "my-m-00002-of-00002.gguf"]
    for name in [*names, "notes.txt"]:
        (tmp_path / name.replace("my-m", "my m")).write_bytes(b"x")
    path = tmp_path if mlc else tmp_path / "my m-00002-of-00002.gguf"
    on.machines.hives["box"].does = answers_download
    on.do(models.push, action("model.push", "big", source=f"file:{path}", push_from=str(path), sha256="a" * 64))
    folders = {destination.rpartition("/")[0] for _, _, destination in on.installer.pushed}
    assert [destination.rpartition("/")[2] for _, _, destination in on.installer.pushed] == names
    (folder,) = folders
    assert folder.startswith("/k/rbee/models/.incoming/")
    (request,) = on.machines.hives["box"].requests
    assert (request.model, request.declared_source) == (
        f"file:{folder}" if mlc else f"file:{folder}/{names[0]}",
        f"file:{path}",
    )


def test_a_model_is_removed_by_its_hive(on: Stage) -> None:
    on.do(models.remove, action("model.remove", "tiny"))
    assert on.machines.hives["box"].requests == [ModelDelete(hive_id="box", model_id="tiny")]


# ------------------------------------------------------------ workers


def spawn(device: str = "cuda:1", **kw: Any) -> Action:
    options = {"context_length": 512, "parallel": None, "batch_size": None, "threads": None}
    said = {"model": "tiny", "engine": "llama-cpp", "device": device, "options": options, "digest": "d0", **kw}
    return action("worker.spawn", "chat-0", **said)


def fleet(*routable: bool) -> Any:
    """Answers of the queen, one after the other: whether she sends requests to chat-0."""
    left = list(routable)

    def status(request: Any) -> Any:
        worker = SimpleNamespace(worker=SimpleNamespace(worker_id="chat-0"), routable=left.pop(0))
        return SimpleNamespace(workers=[worker])

    return status


@pytest.mark.parametrize(("device", "kind", "index"), [("cuda:1", "cuda", 1), ("cpu", "cpu", 0)])
def test_a_worker_is_spawned_with_its_mark(on: Stage, device: str, kind: str, index: int) -> None:
    on.machines.queen.does = fleet(True)
    on.do(workers.spawn, spawn(device))
    assert on.machines.hives["box"].requests == [
        WorkerSpawn(
            hive_id="box",
            model="tiny",
            worker=kind,
            device=index,
            engine="llama-cpp",
            worker_id="chat-0",
            options=WorkerOptions(context_length=512),
            queen_url="http://10.0.0.2:7833",
            mark=Mark(fleet=FLEET, spec_digest="d0"),
        )
    ]


def test_spawning_ends_when_the_queen_sends_requests_there(on: Stage) -> None:
    on.machines.queen.does = fleet(False, False, True)
    on.do(workers.spawn, spawn())
    assert on.machines.queen.requests == [Status()] * 3
    assert on.notes == ["told by a job"]


def test_a_queen_that_does_not_hear_of_a_worker_is_a_note_and_no_failure(on: Stage) -> None:
    on.machines.queen.does = fleet(*[False] * 1000)
    on.do(workers.spawn, spawn())
    assert on.notes[-1] == "ready, but the queen has not heard of it yet"


def test_a_queen_that_is_not_there_is_not_the_workers_failure(on: Stage) -> None:
    def gone(request: Any) -> Any:
        raise Unreachable("Connection refused.")

    on.machines.queen.does = gone
    on.do(workers.spawn, spawn())
    assert len(on.machines.queen.requests) == 1


def test_a_worker_that_does_not_start_is_a_failure(on: Stage) -> None:
    def fails(request: Any) -> Any:
        raise RbeeError("The model is damaged.", code="engine_failed")

    on.machines.hives["box"].does = fails
    with pytest.raises(RbeeError, match="damaged"):
        on.do(workers.spawn, spawn())
    assert on.machines.queen.requests == []


def has(worker_id: str, pid: int, digest: str = "d0", status: Any = "ready") -> WorkerRecord:
    return WorkerRecord(
        worker_id=worker_id, model="tiny", engine="llama-cpp", worker_type="cpu", device="cpu", port=1, url="",
        pid=pid, status=status, mark=Mark(fleet=FLEET, spec_digest=digest),
    )  # fmt: skip


def a_hive_with(*processes: WorkerRecord, code: str = "worker_not_found") -> Any:
    """Answers as a hive that has these processes."""

    def does(request: Any) -> Any:
        if isinstance(request, WorkerProcessList):
            return WorkerProcessListResponse(workers=processes)
        if isinstance(request, WorkerProcessDelete) and request.pid not in [None, *(p.pid for p in processes)]:
            raise RbeeError("No worker of this hive has that pid.", code=code)
        return None

    return does


def deleted(on: Stage) -> list[int | str | None]:
    return [r.pid or r.worker_id for r in on.machines.hives["box"].requests if isinstance(r, WorkerProcessDelete)]


@pytest.mark.parametrize("code", ["worker_not_found", "not_found"])
def test_stopping_a_worker_that_ended_by_itself_is_done(on: Stage, code: str) -> None:
    on.machines.hives["box"].does = a_hive_with(has("other-0", 9), code=code)
    on.do(workers.stop, action("worker.stop", "chat-0", pid=7))
    assert deleted(on) == [7]


def test_stopping_a_worker_stops_what_its_hive_has_started_in_its_place(on: Stage) -> None:
    on.machines.hives["box"].does = a_hive_with(has("chat-0", 8), has("other-0", 9))
    on.do(workers.stop, action("worker.stop", "chat-0", pid=7))
    assert deleted(on) == [7, 8]


@pytest.mark.parametrize(
    ("process", "stopped"),
    [
        (has("chat-0", 8), [7]),  # as wanted: spawning finds it and waits for it
        (has("chat-0", 8, "old"), [7, 8]),
        (has("chat-0", 8, status="failed"), [7, 8]),
    ],
)
def test_after_a_reboot_a_worker_is_replaced_only_where_its_hive_did_not_mend_it(
    on: Stage, process: WorkerRecord, stopped: list[int]
) -> None:
    on.machines.queen.does = fleet(True)
    on.machines.hives["box"].does = a_hive_with(process)
    on.do(workers.replace, spawn(pid=7))
    assert deleted(on) == stopped
    assert isinstance(on.machines.hives["box"].requests[-1], WorkerSpawn)


@pytest.mark.parametrize(
    ("process", "stopped"),
    [
        (has("chat-0", 0, status="unloaded"), ["chat-0"]),
        (has("chat-0", 0, status="failed"), ["chat-0"]),
        (has("chat-0", 8), [8]),  # it was started again meanwhile
        (has("other-0", 0, status="unloaded"), []),
    ],
)
def test_a_worker_without_a_process_is_removed_by_its_name(
    on: Stage, process: WorkerRecord, stopped: list[int | str]
) -> None:
    on.machines.hives["box"].does = a_hive_with(process)
    on.do(workers.stop, action("worker.stop", "chat-0", pid=0))
    assert deleted(on) == stopped


@pytest.mark.parametrize(("digest", "stopped"), [("new", []), ("old", [8])])
def test_what_the_queen_started_as_it_shall_be_is_not_stopped(on: Stage, digest: str, stopped: list[int]) -> None:
    """Of a worker on demand whose settings changed: there was none running, and now there is."""
    on.machines.hives["box"].does = a_hive_with(has("chat-0", 8, digest))
    on.do(workers.stop, action("worker.stop", "chat-0", pid=0, digest="new"))
    assert deleted(on) == stopped


def test_a_limit_of_memory_and_an_idle_timeout_reach_the_hive(on: Stage) -> None:
    on.machines.queen.does = fleet(True)
    made = spawn(idle_timeout=300.0)
    params = {**made.params, "options": {**made.params["options"], "memory_limit_mb": 900}}
    on.do(workers.spawn, replace(made, params=params))
    (request,) = on.machines.hives["box"].requests
    assert (request.idle_timeout, request.options.memory_limit_mb) == (300.0, 900)


def test_a_worker_that_cannot_be_stopped_is_a_failure_and_no_second_one_is_started(on: Stage) -> None:
    def refuses(request: Any) -> Any:
        raise RbeeError("Not permitted.", code="os_error")

    on.machines.hives["box"].does = refuses
    with pytest.raises(RbeeError, match="Not permitted"):
        on.do(workers.replace, replace(spawn(pid=7), kind="worker.replace"))
    assert len(on.machines.hives["box"].requests) == 1


def test_replacing_stops_first(on: Stage) -> None:
    on.machines.queen.does = fleet(True)
    on.do(workers.replace, spawn(pid=7))
    assert [type(r) for r in on.machines.hives["box"].requests] == [WorkerProcessDelete, WorkerSpawn]


def test_the_config_written_is_the_hives_own() -> None:
    on = stage()
    on.world.hive_configs = {"box": HiveConfig(hive_id="box", fleet=FLEET, release="r9")}
    on.do(hives.restart, action("hive.restart", release="r9"))
    assert json.loads(on.box.asked[0]["write"][1]["text"])["release"] == "r9"
    assert isinstance(on.box, FakeShell)
