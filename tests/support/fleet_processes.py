# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of real processes on this machine: a queen, hives, their workers and engines, each home in its own folder.

The engine is the mock engine as a process of its own, so that a request's body says what its stream does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from rbee.adapters import shipped
from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.paths import Paths, write_atomic
from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig, KnownHive, KnownModel, QueenConfig
from rbee.contracts.operations import wire
from rbee.contracts.operations.fleet import Status
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.records import ModelRecord
from rbee.core.spec import Ssh, WorkerOptions
from rbee.core.spec_queen import LimitsSpec
from tests.support.hive import install_engine
from tests.support.ports import free_port, free_range
from tests.support.waiting import until
from tests.support.workers import ROOT, llama_cpp

MODEL = "bee-tiny"
#: Of each worker.
SLOTS = 8
OPTIONS = WorkerOptions(parallel=SLOTS)
_asked = itertools.count(1)
PLACES = ("config", "cache", "data", "state")


def mock_engine(paths: Paths) -> None:
    """An engine of that name, installed as apply does."""
    said: dict[str, Any] = {
        "name": "mock",
        "launcher": None,
        "checks_api_key": False,
        "always_stream": False,
        "overrides": {},
        "environment": {"PYTHONPATH": str(ROOT)},
        "command": ("{python}", "-m", "tests.support.mock_engine", "{port}", "{parallel}"),
    }
    install_engine(paths, dataclasses.replace(llama_cpp(), **said))


def put_model(paths: Paths) -> None:
    """bee-tiny, where it is."""
    path = shipped.builtin_model(MODEL)
    record = ModelRecord(
        id=MODEL, name=MODEL, path=str(path), size_bytes=path.stat().st_size, status="available", format="gguf"
    )
    ModelCatalog(paths.models).put(record, "2026-11-20T00:00:00Z")


def ask(url: str, body: Any = None, timeout: float = 30.0, method: str | None = None) -> Any:
    """JSON of a good answer. Raises OSError (urllib.error.HTTPError among them) otherwise."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.loads(answer.read() or b"null")


def job(url: str, request: Any) -> dict[str, Any]:
    """The ended job of an operation, on a queen or a hive."""
    job_id = ask(f"{url}/v1/jobs", wire(request))["job_id"]
    with urllib.request.urlopen(f"{url}/v1/jobs/{job_id}/stream", timeout=90) as stream:
        told = stream.read().decode()
    found: dict[str, Any] = ask(f"{url}/v1/jobs/{job_id}")
    frames = [json.loads(x[6:]) for x in told.splitlines() if x.startswith("data: {")]
    return {**found, "events": [e for e in frames if "event" in e]}


class Home:
    """A user's home: its folders, the environment of what is started there, and all that runs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(**{name: root / name / "rbee" for name in PLACES})

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RBEE_", "XDG_", "COVERAGE"))}
        places = {f"XDG_{name.upper()}_HOME": str(self.root / name) for name in PLACES}
        return {**kept, **places, "PYTHONPATH": str(ROOT), "RBEE_SUPERVISOR": "detached"}

    def processes(self) -> list[psutil.Process]:
        """Everything with this home's environment, whoever started it."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("XDG_STATE_HOME") == self.env["XDG_STATE_HOME"]:
                    found.append(process)
        return [p for p in found if p.pid != os.getpid() and p.status() != psutil.STATUS_ZOMBIE]

    def end_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        until(lambda: not self.processes(), "the end of all", 10)


class Daemon:
    """A queen or a hive: started, killed, started again, always at the same address."""

    def __init__(self, name: str, home: Home, url: str) -> None:
        self.name, self.home, self.url = name, home, url
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.home.root / f"{self.name}.log"

    def start(self) -> None:
        """Returns once it serves."""
        argv = [sys.executable, "-m", "rbee.cli.daemons", self.name]
        self.home.root.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, env=self.home.env, stdout=log, stderr=log, cwd=ROOT)
        until(self.serves, f"the {self.name} to serve: {self.log.read_text()[-2000:]}")

    def serves(self) -> bool:
        try:
            return bool(ask(f"{self.url}/readyz", timeout=5)["status"] == "ready")
        except (OSError, ValueError):
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def ends(self, seconds: float = 40) -> int:
        assert self.process is not None
        return self.process.wait(seconds)


@dataclasses.dataclass
class Fleet:
    """Its queen at `url`; hives by their ids, each with a worker `w-HIVE` of `MODEL`."""

    root: Path
    queen: Daemon
    hives: dict[str, Daemon]
    config: QueenConfig

    @property
    def url(self) -> str:
        return self.queen.url

    def settle(self, **changes: Any) -> None:
        """The queen's settings, as apply writes them."""
        self.config = dataclasses.replace(self.config, **changes)
        write_atomic(self.queen.home.paths.queen_config, codec.encode_pretty(self.config), 0o600)

    def known(self, *names: str) -> tuple[KnownHive, ...]:
        return tuple(KnownHive(hive_id=n, url=self.hives[n].url) for n in names)

    def spawn(self, hive: str, **changes: Any) -> None:
        said = {"model": MODEL, "engine": "mock", "worker_id": f"w-{hive}", "options": OPTIONS, **changes}
        request = WorkerSpawn(**said)
        found = job(self.hives[hive].url, request)
        assert found["state"] == "completed", found["error"]

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the queen says of each: `worker`, `routable`, `reason`."""
        return {w["worker"]["worker_id"]: w for w in job(self.url, Status())["result"]["workers"]}

    def routable(self) -> set[str]:
        return {name for name, w in self.workers().items() if w["routable"]}

    def well(self) -> None:
        """Returns once every worker is routed to."""
        until(lambda: self.routable() == {f"w-{h}" for h in self.hives}, f"all workers\n{self.logs()}", 60)

    def info(self, worker_id: str) -> dict[str, Any]:
        """What the worker says of itself: its pid, its engine's, how busy it is."""
        found: dict[str, Any] = ask(f"{self.workers()[worker_id]['worker']['url']}/info")
        return found

    def logs(self) -> str:
        logs = [d.log for d in (self.queen, *self.hives.values())]
        return "\n".join(f"--- {x}\n{x.read_text()[-1500:]}" for x in logs if x.exists())


def body(stream: bool = True, **mock: Any) -> dict[str, Any]:
    """A request whose answer does what `mock` says (`tests.support.mock_engine.Script`)."""
    words = f"hello for the {next(_asked)}th time"  # the same words would go where they went before
    return {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": words}], "mock": mock}


@contextlib.contextmanager
def fleet_in(root: Path, *hives: str, ssh: dict[str, Ssh] | None = None, **config: Any) -> Iterator[Fleet]:
    """Running, each hive with its worker, and all of it routed to; nothing is left of it at the end."""
    daemons = {name: Daemon("hive", Home(root / name), f"http://127.0.0.1:{free_port()}") for name in hives}
    port = free_port()
    queen = Daemon("queen", Home(root / "queen"), f"http://127.0.0.1:{port}")
    settings = QueenConfig(
        fleet="test",
        listen=f"127.0.0.1:{port}",
        hives=tuple(KnownHive(hive_id=n, url=d.url, ssh=(ssh or {}).get(n)) for n, d in daemons.items()),
        models=(KnownModel(name=MODEL),),
        limits=LimitsSpec(first_byte_timeout=5.0),
        release="r1",
        **config,
    )
    fleet = Fleet(root, queen, daemons, settings)
    try:
        for name, daemon in daemons.items():
            prepare(daemon.home, name, daemon.url, queen.url)
            daemon.start()
            fleet.spawn(name)
        fleet.settle()
        queen.start()
        fleet.well()
        yield fleet
    finally:
        for daemon in (queen, *daemons.values()):
            daemon.home.end_all()
            if daemon.process is not None:
                daemon.process.wait()


def prepare(home: Home, hive_id: str, url: str, queen_url: str) -> HiveConfig:
    """A home with a hive's settings, the engine and the model."""
    config = HiveConfig(
        hive_id=hive_id,
        fleet="test",
        listen=url.removeprefix("http://"),
        worker_ports=free_range(4),
        queen_url=queen_url,
        release="r1",
    )
    write_atomic(home.paths.hive_config, codec.encode_pretty(config), 0o600)
    mock_engine(home.paths)
    put_model(home.paths)
    return config


class Stream:
    """A streamed answer that is read bit by bit."""

    def __init__(self, url: str, **mock: Any) -> None:
        data = json.dumps(body(**mock)).encode()
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", data=data, headers={"Content-Type": "application/json"}
        )
        self.answer = urllib.request.urlopen(request, timeout=60)
        self.worker = self.answer.headers["X-Rbee-Worker"]

    def line(self) -> str:
        return str(self.answer.readline().decode())

    def rest(self) -> str:
        with self.answer:
            return str(self.answer.read().decode())


def refused(url: str, **mock: Any) -> tuple[int, dict[str, Any], Any]:
    """Status, error and headers of an answer that is none."""
    try:
        Stream(url, **mock).rest()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.loads(e.read())["error"], e.headers
    raise AssertionError("it was answered")


def wait_gone(processes: list[psutil.Process], seconds: float = 20) -> list[psutil.Process]:
    """Those that are still there after so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        left = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return []
        time.sleep(0.05)
    return left
