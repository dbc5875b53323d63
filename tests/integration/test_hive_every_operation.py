# SPDX-License-Identifier: GPL-3.0-or-later
"""Every operation of a hive in every way that it can be asked for: what goes in, what is told, what comes out.

The ways are HTTP, the queen's HTTP with `hive_id`, `rbee`, `rbee-hive`, and `rbee-hive` where no daemon runs; all of
them go through the same table.
"""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rbee.adapters import shipped
from rbee.cli.hive_cmds import _TOP as TOP
from rbee.contracts.openapi import example
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.schemas import SCHEMAS
from rbee.daemons.hive.app import HiveDaemon
from rbee.daemons.hive.machine.hive_ops import only_for
from tests.support.files_server import FileServer, file_server
from tests.support.hive import machine as places
from tests.support.hive import settings
from tests.support.hive_tool import HiveMachine, Typed
from tests.support.operation_table import BINARY, DOWNLOADS, PID, TABLE, Step
from tests.support.ports import free_range

pytestmark = pytest.mark.engine
OF_A_HIVE = {name for name, kind in OPERATIONS.items() if "hive" in kind.served_by}
SCHEMA = SCHEMAS["operations"]()


@dataclass(slots=True)
class Said:
    """What came of one: `code` is empty where it ended well."""

    code: str
    answer: Any
    events: list[dict[str, Any]] = field(default_factory=list)


class Http:
    """A daemon asked as any program would. `hive_id` goes with every request where it is said."""

    def __init__(self, url: str, hive_id: str = "") -> None:
        self.url = url
        self.fields = {"hive_id": hive_id} if hive_id else {}

    def submit(self, name: str, fields: dict[str, Any]) -> str:
        body = {"operation": {name: {**fields, **self.fields}}}
        return str(json.loads(self._http("POST", "/v1/jobs", body))["job_id"])

    def ask(self, name: str, fields: dict[str, Any]) -> Said:
        job_id = self.submit(name, fields)
        told = self._http("GET", f"/v1/jobs/{job_id}/stream").decode().splitlines()
        data = [line[6:] for line in told if line.startswith("data: ")]
        assert data.pop() == "[DONE]"
        *events, last = (json.loads(line) for line in data)
        job = json.loads(self._http("GET", f"/v1/jobs/{job_id}"))
        assert job["operation"] == name
        assert {event["job_id"] for event in events} <= {job_id}
        if job["state"] == "completed":
            assert (last["event"], last["result"]) == ("result", job["result"])
        return Said((job.get("error") or {}).get("code", ""), job["result"], events)

    def _http(self, method: str, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.url}{path}", data, method=method)
        with urllib.request.urlopen(asked, timeout=90) as answer:
            return bytes(answer.read())


class Shell:
    """A person who types; `tool` are the words of `rbee`, else it is `rbee-hive`."""

    def __init__(self, machine: HiveMachine, *, rbee: bool = False) -> None:
        self.machine = machine
        self.rbee = rbee

    def ask(self, name: str, fields: dict[str, Any]) -> Said:
        words = [*self._command(name), *self._options(fields), "-o", "json"]
        typed: Typed = self.machine.rbee(*words) if self.rbee else self.machine.type(*words)
        assert "Traceback" not in typed.err, typed
        *events, last = typed.lines
        if last.get("type") == "problem":
            assert typed.code == 1
            return Said(last["code"], None, events)
        # Of a batch a part may have failed: it is answered all the same.
        assert typed.code == int(bool(last.get("failed"))), typed
        return Said("", last, events)

    def _command(self, name: str) -> list[str]:
        top = next((word for word, of in TOP.items() if of == name), None)
        kind = OPERATIONS[name]
        return [top] if top and not self.rbee else [kind.family, kind.command]

    def _options(self, fields: dict[str, Any]) -> Iterator[str]:
        for name, value in fields.items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, dict):
                yield from self._options(value)
            elif name == "workers":
                (self.machine.root / "batch.json").write_text(json.dumps(value))
                yield from ("--file", str(self.machine.root / "batch.json"))
            elif isinstance(value, list):
                yield from (word for item in value for word in (flag.removesuffix("s"), str(item)))
            else:
                yield from ([flag] if value is True else [flag, str(value)])


def at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value[int(step)] if step.isdecimal() else value[step]
    return value


class Story:
    """One hive, asked in one way; what one step answers the next may need."""

    def __init__(self, way: Http | Shell, known: dict[str, Any]) -> None:
        self.way = way
        self.known = known

    def meant(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self.meant(item) for name, item in value.items()}
        return self.known[value] if isinstance(value, str) and value.startswith("<") else value

    def tell(self, step: Step) -> None:
        said = self.way.ask(step.name, self.meant(step.fields))
        assert said.code == "", (step.name, said)
        kind = SCHEMA["x-operations"][step.name]["response"]
        jsonschema.validate(said.answer, {**kind, "$defs": SCHEMA["$defs"]}, cls=jsonschema.Draft202012Validator)
        for path, wanted in step.answers.items():
            self._fits(at(said.answer, path), wanted, f"{step.name} answers {path}")
        names = iter([event.get("event") for event in said.events])
        missing = [name for name in step.tells if name not in names]
        assert not missing, (step.name, missing, said.events)
        for event in said.events:
            if "event" in event:
                assert event["message"] and event["action"] == event["event"] and event["actor"], event
        for name, wanted_fields in step.fields_of.items():
            event = [event for event in said.events if event.get("event") == name][-1]
            for key, wanted in wanted_fields.items():
                self._fits(event.get(key), wanted, f"{step.name} tells {name} with {key}")
        if step.name in ("WorkerSpawn", "WorkerRestart"):
            self.known[PID] = said.answer["pid"]

    def refused(self, step: Step) -> None:
        assert self.way.ask(step.name, self.meant(step.fields)).code == step.alone

    def _fits(self, found: Any, wanted: Any, what: str) -> None:
        if wanted is ...:
            assert found not in (None, "", [], {}), what
        else:
            assert found == self.meant(wanted), what


def test_no_operation_of_a_hive_is_forgotten() -> None:
    assert {step.name for step in TABLE} == OF_A_HIVE
    assert all(step.tells and step.answers for step in TABLE)


async def test_exactly_one_handler_for_every_operation(tmp_path: Path) -> None:
    """And what was meant for another hive is refused by each of them before it does anything."""
    daemon = HiveDaemon(settings(free_range()), places(tmp_path), None)
    assert set(daemon.hive.handlers()) == OF_A_HIVE
    await daemon.start()
    try:
        for name in sorted(OF_A_HIVE):
            said = await asyncio.to_thread(Http(daemon.url, "another").ask, name, example(OPERATIONS[name].request))
            assert (name, said.code) == (name, "invalid_request")
    finally:
        await daemon.stop()
    with pytest.raises(ValueError, match="ModelGet has two handlers"):
        only_for("h1", daemon.hive.handlers(), {"ModelGet": daemon.hive.handlers()["ModelGet"]})


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[HiveMachine]:
    made = HiveMachine(tmp_path)
    try:
        yield made
    finally:
        made.clear()


@contextmanager
def asked(machine: HiveMachine, way: str) -> Iterator[Http | Shell]:
    with machine.daemon():
        if way in ("rbee", "the queen"):
            with machine.queen() as url:
                yield Shell(machine, rbee=True) if way == "rbee" else Http(url, machine.config.hive_id)
        else:
            yield Shell(machine) if way == "rbee-hive" else Http(f"http://{machine.config.listen}")


@asynccontextmanager
async def half_a_model() -> AsyncIterator[FileServer]:
    async with file_server(shipped.builtin_model("bee-tiny").read_bytes(), hold_after=500_000) as server:
        yield server
        server.hold_after = None
        server.go_on.set()


def story(machine: HiveMachine, way: Http | Shell) -> Story:
    (engine,) = machine.paths.worker_binaries.iterdir()
    return Story(way, {BINARY: engine.name})


@pytest.mark.parametrize("way", ["HTTP", "the queen", "rbee", "rbee-hive"])
async def test_each_is_asked_told_and_answered(machine: HiveMachine, way: str) -> None:
    def all_but_downloads() -> None:
        for step in TABLE:
            if step not in DOWNLOADS:
                told.tell(step)

    async with half_a_model() as server:
        with asked(machine, way) as found:
            told = story(machine, found)
            await asyncio.to_thread(all_but_downloads)
            fields = {"model": f"{server.url}/model.gguf", "model_id": "m1"}
            hive = Http(f"http://{machine.config.listen}")
            await asyncio.to_thread(hive.submit, "ModelDownload", fields)
            await asyncio.wait_for(server.holding.wait(), 30)
            for step in DOWNLOADS:
                await asyncio.to_thread(told.tell, step)


async def test_each_is_done_where_no_daemon_runs(machine: HiveMachine) -> None:
    """By the same code; what lives in a daemon's memory is refused."""
    alone = Shell(machine)
    told = story(machine, alone)

    def each(*steps: Step) -> None:
        for step in steps:
            if step.alone:
                told.refused(step)
            else:
                told.tell(replace(step, answers=step.answers_alone or step.answers))

    await asyncio.to_thread(each, *(step for step in TABLE if step not in DOWNLOADS))
    async with half_a_model() as server:
        begun = machine.begin("model", "download", f"{server.url}/model.gguf", "--model-id", "m1")
        await asyncio.wait_for(server.holding.wait(), 30)
        begun.send_signal(signal.SIGINT)
        await asyncio.to_thread(machine.end, begun)
        await asyncio.to_thread(each, *DOWNLOADS)
