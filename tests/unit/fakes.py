# SPDX-License-Identifier: GPL-3.0-or-later
"""Fakes at the ports that handlers act on. Each notes what was asked of it and answers what a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rbee.contracts.configs import HiveConfig, KnownHive, QueenConfig
from rbee.core.actions import Action, Kind
from rbee.core.actual import Actual
from rbee.core.errors import RbeeError
from rbee.core.facts import MachineFacts, Python, Release, Roots
from rbee.core.records import Mark
from rbee.core.spec import HiveSpec, Spec, Ssh
from rbee.fleet.observe import Survey
from rbee.fleet.ports import Bundle, Completed
from rbee.fleet.world import Tell, World
from tests.unit.strategies import FLEET, hive_actual, provider, queen_actual

ROOTS = Roots(config="/c/rbee", cache="/k/rbee", data="/d/rbee", state="/s/rbee")
TOKEN = "sesame-open-sesame-open-sesame"


@dataclass
class FakeShell:
    """Answers each command with the next of `answers`, then with `{}`."""

    name: str
    local: bool = False
    peer_address: str = "10.0.0.1"
    answers: list[dict[str, Any]] = field(default_factory=list)
    ran: list[tuple[list[str], bytes]] = field(default_factory=list)

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> Completed:
        self.ran.append((list(argv), input))
        answer = self.answers.pop(0) if self.answers else {}
        return Completed(rc=0, out=b"\nrbee: " + json.dumps(answer).encode() + b"\n")

    @property
    def services(self) -> list[list[str]]:
        """Python, verb and daemon of each service command."""
        return [[a[0], *a[3:]] for a, _ in self.ran if a[1:3] == ["-m", "rbee.adapters.service"]]

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Parameters of each script."""
        return [json.loads(written.splitlines()[-1]) for _, written in self.ran if written]


@dataclass
class FakeApi:
    """A hive's or the queen's API; `does` may answer or raise for a request."""

    does: Callable[[Any], Any] = lambda request: None
    infos: list[dict[str, Any]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    reloads: int = 0
    refuses: RbeeError | None = None

    def run(self, request: Any, on_event: Callable[[dict[str, Any]], None] | None = None) -> Any:
        self.requests.append(request)
        if on_event:
            on_event({"message": "told by a job"})
        return self.does(request)

    def reload(self) -> None:
        self.reloads += 1
        if self.refuses:
            raise self.refuses

    def info(self) -> dict[str, Any]:
        return self.infos.pop(0) if len(self.infos) > 1 else self.infos[0]


@dataclass
class FakeMachines:
    shells: dict[str, FakeShell]
    hives: dict[str, FakeApi]
    queen: FakeApi = field(default_factory=FakeApi)
    urls: list[str] = field(default_factory=list)

    def shell(self, hive: HiveSpec) -> Any:
        return self.shells[hive.name]

    def hive_api(self, hive: HiveSpec, url: str) -> Any:
        self.urls.append(url)
        return self.hives[hive.name]

    def queen_api(self, url: str) -> Any:
        self.urls.append(url)
        return self.queen


@dataclass
class FakeHome:
    config: QueenConfig | None = None
    done: list[str] = field(default_factory=list)
    token_file: str = "/c/rbee/token"

    def token(self) -> str:
        self.done.append("token")
        return TOKEN

    def queen_config(self) -> QueenConfig | None:
        return self.config

    def write_queen_config(self, config: QueenConfig) -> None:
        self.done.append("write")
        self.config = config

    def forget(self) -> None:
        self.done.append("forget")


@dataclass
class FakeBundler:
    release_id: str = "r1"
    made: list[Any] = field(default_factory=list)

    def release(self, target: Any, mark: Mark) -> Bundle:
        self.made.append((target.platform, mark))
        return Bundle(kind="release", id="r1", wheels=())

    def engine(self, of: Any, target: Any, mark: Mark) -> Bundle:
        self.made.append((of.name, target.platform, mark))
        return Bundle(kind="engine", id="e", wheels=())


@dataclass
class FakeInstaller:
    here: bool = False
    installed: list[tuple[str, str]] = field(default_factory=list)
    pushed: list[tuple[str, Path, str]] = field(default_factory=list)

    def install(self, shell: Any, facts: Any, bundle: Bundle, on_progress: Any = None) -> None:
        on_progress(1, 2)
        self.installed.append((shell.name, bundle.kind))

    def push(self, shell: Any, facts: Any, source: Path, destination: str, on_progress: Any = None) -> str:
        on_progress(1, 2)
        self.pushed.append((shell.name, source, destination))
        return "0" * 64

    def engine_here(self, of: Any, mark: Mark) -> bool:
        return self.here


class FakeClock:
    """Time passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> str:
        return "2026-01-01T00:00:00Z"

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class Stage:
    """A world of one hive on this machine (`here`), one over SSH (`box`) and one that the file dropped (`old`)."""

    world: World
    box: FakeShell
    here: FakeShell
    machines: FakeMachines
    home: FakeHome
    installer: FakeInstaller
    bundler: FakeBundler
    told: list[dict[str, Any]]

    def do(self, handler: Callable[[World, Action, Tell], None], on: Action) -> None:
        handler(self.world, on, Tell(self.told.append))

    @property
    def notes(self) -> list[str]:
        return [e["message"] for e in self.told if e["type"] == "action_note"]


def machine(**kw: Any) -> MachineFacts:
    said = {
        "os": "linux", "arch": "x86_64", "platform": "linux-x86_64", "home": "/h", "roots": ROOTS,
        "python": Python(path="/usr/bin/python3", version=(3, 11, 0)),
        "releases": (Release(id="r1", path="/d/rbee/releases/r1", python="/r1/python", mark=Mark(fleet=FLEET)),),
    }  # fmt: skip
    return MachineFacts(**{**said, **kw})


def stage(facts: MachineFacts | None = None) -> Stage:
    spec = Spec(
        version=1, fleet=FLEET, hives={"here": HiveSpec(name="here"), "box": HiveSpec(name="box", ssh=Ssh(host="box"))}
    )
    known = KnownHive(hive_id="old", url="http://10.0.0.9:9000", ssh=Ssh(host="old"))
    before = QueenConfig(fleet=FLEET, hives=(known, KnownHive(hive_id="box", url="http://10.0.0.1:7835")))
    survey = Survey(
        actual=Actual(
            queen=queen_actual(),
            hives={"here": hive_actual(address=""), "box": hive_actual(), "old": hive_actual(live=None)},
        ),
        facts={n: facts or machine() for n in ("here", "box", "old")},
        queen_config=before,
        dropped={"old": HiveSpec(name="old", ssh=Ssh(host="old"))},
    )  # fmt: skip
    box, here = FakeShell("box"), FakeShell("here", local=True)
    machines = FakeMachines({"box": box, "old": FakeShell("old")}, {n: FakeApi() for n in ("here", "box", "old")})
    home, installer, bundler = FakeHome(before), FakeInstaller(), FakeBundler()
    world = World(
        spec=spec, providers=(provider(),), survey=survey, machines=cast(Any, machines), local=cast(Any, here),
        python="/own/python", bundler=bundler, installer=installer, home=home, clock=FakeClock(),
        queen_config=QueenConfig(fleet=FLEET, hives=before.hives[1:]),
        hive_configs={"box": HiveConfig(hive_id="box", fleet=FLEET, queen_url="http://10.0.0.2:7833")},
    )  # fmt: skip
    return Stage(world, box, here, machines, home, installer, bundler, [])


def action(kind: Kind, name: str = "box", hive: str | None = "box", **params: Any) -> Action:
    return Action(
        id=f"{kind} {name}", kind=kind, change="add", subject="", name=name, hive=hive, reason="", params=params
    )
