# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of the hive's features: a real hive of an own machine, asked over HTTP as a program would."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from rbee.adapters import shipped
from rbee.contracts.schemas import SCHEMAS
from tests.support.files_server import FileServer, file_server
from tests.support.hive_tool import HiveMachine
from tests.support.waiting import until

pytestmark = pytest.mark.engine
scenarios("hive_models.feature", "hive_workers.feature", "hive_downloads.feature", "hive_machine.feature")

OPERATIONS = SCHEMAS["operations"]()
BEE = shipped.builtin_model("bee-tiny")


def as_declared(name: str, result: Any) -> None:
    """Fails for an answer that is not as its schema says."""
    answer = OPERATIONS["x-operations"][name]["response"]
    jsonschema.validate(result, {**answer, "$defs": OPERATIONS["$defs"]}, cls=jsonschema.Draft202012Validator)


class Server(threading.Thread):
    """A web server of one model, on a loop of its own, that stops half way until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._over = asyncio.Event()
        self.file = FileServer(b"")

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with file_server(BEE.read_bytes(), hold_after=500_000) as self.file:
            self._ready.set()
            await self._over.wait()
            self.go_on()

    def begin(self) -> None:
        self.start()
        assert self._ready.wait(20)

    def go_on(self) -> None:
        self.file.hold_after = None
        self.file.go_on.set()

    def send_again(self) -> None:
        self._loop.call_soon_threadsafe(self.go_on)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(20)


@dataclass
class Story:
    """What a scenario has asked of its hive, and what that told."""

    machine: HiveMachine
    server: Server | None = None
    job: dict[str, Any] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)
    download: str = ""

    def http(self, method: str, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://{self.machine.config.listen}{path}", data, method=method)
        with urllib.request.urlopen(asked, timeout=90) as answer:
            return bytes(answer.read())

    def submit(self, name: str, fields: Any) -> str:
        return str(json.loads(self.http("POST", "/v1/jobs", {"operation": {name: fields}}))["job_id"])

    def ask(self, name: str, fields: Any) -> Any:
        """The operation's result, at its end; `job` and `told` are of it."""
        job_id = self.submit(name, fields)
        frames = self.http("GET", f"/v1/jobs/{job_id}/stream").decode().split("\n\n")
        data = [line[6:] for frame in frames for line in frame.splitlines() if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        self.told = [json.loads(line) for line in data[:-1]]
        self.job = json.loads(self.http("GET", f"/v1/jobs/{job_id}"))
        if self.job["state"] == "completed":
            as_declared(name, self.job["result"])
        return self.job["result"]

    @property
    def worker(self) -> Any:
        (found,) = self.ask("WorkerProcessList", {})["workers"]
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[HiveMachine]:
    made = HiveMachine(tmp_path)
    try:
        with made.daemon():
            yield made
    finally:
        made.clear()


@given("a hive", target_fixture="story")
def _hive(machine: HiveMachine) -> Story:
    return Story(machine)


@given("a hive with the model bee-tiny", target_fixture="story")
def _with_model(machine: HiveMachine) -> Story:
    story = Story(machine)
    assert story.ask("ModelDownload", {"model": "builtin:bee-tiny"})["status"] == "available"
    return story


@given(parsers.parse('a worker "{worker_id}" of that model'))
def _worker(story: Story, worker_id: str) -> None:
    options = {"context_length": 512, "parallel": 1}
    spawned = story.ask("WorkerSpawn", {"model": "bee-tiny", "worker_id": worker_id, "options": options})
    assert spawned["status"] == "ready", story.job


@given("one byte of the model's file was changed")
def _changed(story: Story) -> None:
    path = Path(story.ask("ModelGet", {"model_id": "bee-tiny"})["model"]["path"])
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.begin()
    yield made
    made.end()


@given("a download that has stopped half way")
def _half_way(story: Story, server: Server) -> None:
    story.server = server
    story.download = story.submit("ModelDownload", {"model": f"{server.file.url}/model.gguf", "model_id": "m1"})
    until(server.file.holding.is_set, "the download")

    def some_has_come() -> bool:
        """The hive has read of it what the server has sent, or a part of that."""
        return any(found["bytes_downloaded"] for found in story.ask("DownloadList", {})["downloads"])

    until(some_has_come, "its first bytes")


@when("the server sends again")
def _again(server: Server) -> None:
    server.send_again()


@when(parsers.parse("{name} is asked for with {fields}"))
def _ask(story: Story, name: str, fields: str) -> None:
    story.ask(name, json.loads(fields))


@when("the worker's process is deleted")
def _delete(story: Story) -> None:
    story.ask("WorkerProcessDelete", {"pid": story.worker["pid"]})
    assert story.job["state"] == "completed", story.job


def at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value[int(step)] if step.isdecimal() else value[step]
    return value


@then("it completes")
def _completes(story: Story) -> None:
    assert story.job["state"] == "completed", story.job
    assert (story.told[-1]["event"], story.told[-1]["result"]) == ("result", story.job["result"])


@then(parsers.parse('it completes with "{path}" = {said}'))
def _completes_with(story: Story, path: str, said: str) -> None:
    _completes(story)
    assert at(story.job["result"], path) == json.loads(said)


@then(parsers.parse('it fails as "{code}" and says "{words}"'))
def _fails(story: Story, code: str, words: str) -> None:
    assert story.job["state"] == "failed", story.job
    assert story.job["error"]["code"] == code, story.job
    assert words in story.job["error"]["error"]
    assert (story.told[-1]["code"], story.told[-1]["error"]) == (code, story.job["error"]["error"])


@then("it does not say that all is well")
def _not_well(story: Story) -> None:
    assert story.job["state"] == "failed" or story.job["result"]["verified"] is False, story.job


@then(parsers.re(r"it tells (?P<names>[a-z_, ]+)$"))
def _tells(story: Story, names: str) -> None:
    """These, in this order; others may stand between them."""
    told = iter(event.get("event") for event in story.told)
    missing = [name for name in names.split(", ") if name not in told]
    assert not missing, [event.get("event") for event in story.told]
    for event in story.told[:-1]:
        assert event["message"]
        assert event["job_id"] == story.job["job_id"]
        assert event["action"] == event["event"]


@then(parsers.parse('its answer\'s "{path}" is {said}'))
def _answer(story: Story, path: str, said: str) -> None:
    found = at(story.job["result"], path)
    if said.startswith("more than "):
        assert found > float(said.removeprefix("more than "))
    else:
        assert found == json.loads(said)


@then(parsers.re(r'(?P<name>[A-Z]\w+) answers "(?P<path>[\w.]+)" = (?P<said>.+)'))
def _answers(story: Story, name: str, path: str, said: str) -> None:
    assert at(story.ask(name, {}), path) == json.loads(said)


@then(parsers.re(r'(?P<name>[A-Z]\w+) of (?P<fields>\{.*\}) answers "(?P<path>[\w.]+)" = (?P<said>.+)'))
def _answers_of(story: Story, name: str, fields: str, path: str, said: str) -> None:
    assert at(story.ask(name, json.loads(fields)), path) == json.loads(said)


@then(parsers.re(r'in the end (?P<name>\w+) of (?P<fields>\{.*\}) answers "(?P<path>[\w.]+)" = (?P<said>.+)'))
def _in_the_end(story: Story, name: str, fields: str, path: str, said: str) -> None:
    until(lambda: at(story.ask(name, json.loads(fields)), path) == json.loads(said), f"{path} = {said}")


@then("the worker answers a request")
def _answers_request(story: Story) -> None:
    body = json.dumps({"prompt": "What is rbee?", "max_tokens": 8}).encode()
    asked = urllib.request.Request(f"{story.worker['url']}/v1/infer", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.status == 200
        assert answer.read().strip()


@then("the server was not asked for all of it twice")
def _resumed(server: Server) -> None:
    whole = [start for start in server.file.starts if start == 0]
    assert len(whole) <= 1 + (len(server.file.starts) > 2), server.file.seen


@then("the download's own job has not completed")
def _own_job(story: Story) -> None:
    until(lambda: _state(story) in ("failed", "cancelled"), "the end of the download's job")


def _state(story: Story) -> str:
    return str(json.loads(story.http("GET", f"/v1/jobs/{story.download}"))["state"])
