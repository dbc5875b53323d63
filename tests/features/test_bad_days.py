# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of bad_days.feature."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from rbee.adapters.shipped import builtin_model
from tests.features.conftest import Story
from tests.support.model_server import ModelServer
from tests.support.rbee_cli import ONE, RbeeHome
from tests.support.waiting import until

pytestmark = pytest.mark.engine
scenarios("bad_days.feature")


@pytest.fixture
def held() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@given("another apply holds the lock")
def _locked(story: Story, held: contextlib.ExitStack) -> None:
    lock = story.home.state / "apply.lock"
    lock.parent.mkdir(parents=True)
    file = held.enter_context(lock.open("w"))
    fcntl.flock(file, fcntl.LOCK_EX)
    told = {"pid": 1, "user": "ann", "host": "desk", "doing": "rbee apply", "since": "2026-01-01T00:00:00Z"}
    json.dump(told, file)
    file.flush()


def _with_file(home: RbeeHome, data: bytes) -> Story:
    (home.root / "hurt.gguf").write_bytes(data)
    home.write(ONE.replace("builtin:bee-tiny", "file:hurt.gguf"))
    return Story(home)


@given("a fleet whose model file is cut short", target_fixture="story")
def _short(own_home: RbeeHome) -> Story:
    return _with_file(own_home, builtin_model("bee-tiny").read_bytes()[:-200_000])


@given("a fleet whose model file is damaged inside", target_fixture="story")
def _damaged(own_home: RbeeHome) -> Story:
    """The header stays readable and the length right, but a tensor is named as nobody expects it."""
    data = builtin_model("bee-tiny").read_bytes()
    name = b"blk.0.attn_q.weight"
    assert data.count(name) == 1
    return _with_file(own_home, data.replace(name, b"blk.0.attn_X.weight"))


@given("a fleet whose worker ports are taken", target_fixture="story")
def _taken(own_home: RbeeHome, held: contextlib.ExitStack) -> Story:
    for port in range(own_home.ports[0], own_home.ports[1] + 1):
        s = held.enter_context(socket.socket())
        s.bind(("127.0.0.1", port))
        s.listen()
    return Story(own_home)


@given(parsers.parse('a fleet that wants the device "{device}"'), target_fixture="story")
def _device(own_home: RbeeHome, device: str) -> Story:
    own_home.write(ONE.replace("device: cpu", f'device: "{device}"'))
    return Story(own_home)


@given("a fleet that wants a thousand slots", target_fixture="story")
def _greedy(own_home: RbeeHome) -> Story:
    greedy = ONE.replace("{model: bee-tiny, device: cpu", "{replicas: 1000, model: bee-tiny, device: cpu")
    own_home.write(
        greedy.replace("parallel: 2", "parallel: 256").replace("worker_ports: {ports}", "worker_ports: 20000-29999")
    )
    return Story(own_home)


@given("its token file can be read by others")
def _open_token(story: Story) -> None:
    token = story.home.root / "config" / "rbee" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("x" * 40 + "\n")
    token.chmod(0o644)


@given("a fleet that listens on every address", target_fixture="story")
def _everywhere(own_home: RbeeHome) -> Story:
    own_home.write(ONE.replace("127.0.0.1:{queen}", "0.0.0.0:{queen}"))
    return Story(own_home)


@then("on an address that is not loopback a client without the token gets 401")
def _unauthorized(story: Story) -> None:
    addresses = [
        a.address for found in psutil.net_if_addrs().values() for a in found
        if a.family == socket.AF_INET and not a.address.startswith("127.")
    ]  # fmt: skip
    if not addresses:
        pytest.skip("this machine has only a loopback address")
    url = f"http://{addresses[0]}:{story.home.queen}/v1/models"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Bearer wrong"}).status_code == 401
    token = (story.home.root / "config" / "rbee" / "token").read_text().strip()
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 200


@then("the token is in no log, no output and no command line")
def _hidden(story: Story) -> None:
    token = (story.home.root / "config" / "rbee" / "token").read_text().strip()
    ran = story.last()
    lines = [" ".join(p.cmdline()) for p in story.home.processes()]
    logs = [p.read_text(errors="replace") for p in story.home.state.rglob("*") if p.is_file()]
    assert len(lines) >= 3 and logs
    assert not [text for text in (ran.out, ran.err, *lines, *logs) if token in text]


@then("the queen still answers")
def _answers(story: Story) -> None:
    assert httpx.get(f"{story.home.url}/health").status_code == 200


@then(parsers.parse('the status names "{worker}" as failed, with a reason'))
def _failed(story: Story, worker: str) -> None:
    def told() -> bool:
        ran = story.home.run("status")
        return any(line.startswith(f"worker {worker}: ") for line in ran.out.splitlines()) and ran.rc == 1

    until(told, "a status with the reason", 15)
    ran = story.home.run("status")
    row = next(line for line in ran.out.splitlines() if line.startswith(f"{worker} "))
    assert "failed" in row
    assert "attn_q" in ran.out or "tensor" in ran.out, ran.out


@given("a fleet whose model comes from a server that never ends", target_fixture="story")
def _endless(own_home: RbeeHome, held: contextlib.ExitStack) -> Story:
    server = ModelServer(builtin_model("bee-tiny"), stalling=True)
    held.callback(server.close)
    own_home.write(ONE.replace("builtin:bee-tiny", server.url))
    return Story(own_home, notes={"server": server})


@when(parsers.parse("apply gets {name} while it fetches the model"))
def _interrupt(story: Story, name: str) -> None:
    server: ModelServer = story.notes["server"]
    process = story.home.start("apply", "--auto-approve")
    assert server.half_sent.wait(60), story.home.logs()
    os.kill(process.pid, signal.Signals[name])
    out, err = process.communicate(timeout=30)
    story.notes["interrupted"] = (process.returncode, out.decode() + err.decode())


@then("it ends with 130 and says what was done and what was not")
def _told(story: Story) -> None:
    rc, said = story.notes["interrupted"]
    assert rc == 130, said
    assert "queen.start queen: ok" in said
    assert "worker.spawn chat-0 on here: skipped" in said
    assert "Interrupted: " in said


@then("no download goes on")
def _quiet(story: Story) -> None:
    until(lambda: story.notes["server"].open == 0, "the download to be cancelled", 10)


@when("the model's server is mended")
def _mend(story: Story) -> None:
    story.notes["server"].mend()


def _folder_for(file: Path) -> None:
    file.unlink()
    file.mkdir()


WRITE: dict[str, Callable[[Path], object]] = {
    "empty": lambda f: f.write_bytes(b""),
    "a directory": _folder_for,
    "not UTF-8": lambda f: f.write_bytes(b"version: 1\nfleet: \xff\xfe\n"),
    "a YAML bomb": lambda f: f.write_text(_bomb()),
    "misspelt": lambda f: f.write_text("version: 1\nfleet: t\nhive:\n  a: {}\n"),
    "twice the same hive": lambda f: f.write_text("version: 1\nfleet: t\nhives:\n  localhost: {}\n  localhost: {}\n"),
    "naming no such model": lambda f: f.write_text(
        "version: 1\nfleet: t\nhives: {here: {}}\nmodels: {}\nworkers: {chat: {model: nope}}\n"
    ),
}


def _bomb() -> str:
    lines = ["version: 1", "fleet: t", "x0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"x{i}: &x{i} [" + ", ".join([f"*x{i - 1}"] * 9) + "]" for i in range(1, 10)]
    return "\n".join(lines)


@given(parsers.parse("an rbee.yaml that is {what}"), target_fixture="story")
def _no_fleet(own_home: RbeeHome, what: str) -> Story:
    WRITE[what](own_home.yaml)
    return Story(own_home)
