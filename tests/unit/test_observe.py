# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeing a fleet through fakes at the ports: what answers, what is silent, what is someone else's."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from rbee.contracts import codec
from rbee.contracts.capabilities import Capabilities
from rbee.contracts.configs import KnownHive, QueenConfig
from rbee.core.actual import HiveActual, KnownTo, QueenActual, Unknown
from rbee.core.errors import RbeeError, Unauthorized, Unreachable
from rbee.core.facts import Disk, MachineFacts, Python
from rbee.core.records import Mark, SystemInfo
from rbee.core.spec import HiveSpec, Spec, Ssh
from rbee.fleet.observe import Survey, guessed_devices, machine_problems, observe_queen, survey
from rbee.fleet.ports import Completed
from tests.unit.strategies import CPU, binary, model, worker

HERE = HiveSpec(name="here")
BOX = HiveSpec(name="box", ssh=Ssh(host="box"), python="/opt/python")
PYTHON = {"path": "/usr/bin/python3", "version": [3, 11, 2], "tag": "cp311"}
MACHINE: dict[str, Any] = {
    "os": "linux", "arch": "x86_64", "platform": "linux-x86_64", "home": "/home/bee", "python": PYTHON,
    "cpu_cores": 4, "cpu_flags": ["sse", "avx2"], "memory_total": 100, "memory_available": 50,
    "client_address": "10.0.0.1", "server_address": "10.0.0.2",
}  # fmt: skip
HIVE = {"name": "hive", "pid": 42, "alive": True}


def capabilities(**kw: Any) -> dict[str, Any]:
    system = SystemInfo(
        hostname="box", os="linux", arch="x86_64", cpu_cores=4, memory_total=1, memory_available=1, disk_free=1
    )
    said = Capabilities(
        hive_id="box", fleet="home", version="1", release="r1", config_digest="c1", started_at="", url="http://x:1",
        system=system, devices=(CPU,), models=(model("told"),), workers=(worker("told-0"),),
    )  # fmt: skip
    return cast(dict[str, Any], {**codec.plain(said), **kw})


@dataclass
class FakeShell:
    """A machine that answers the probe with what a test says, or cannot be reached."""

    answer: dict[str, Any] | RbeeError
    name: str = "box"
    local: bool = False
    peer_address: str = "192.168.0.2"
    asked: list[tuple[Sequence[str], bytes]] = field(default_factory=list)

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> Completed:
        self.asked.append((argv, input))
        if isinstance(self.answer, RbeeError):
            raise self.answer
        return Completed(rc=0, out=b"Welcome!\nrbee: " + json.dumps(self.answer).encode() + b"\n")


@dataclass
class FakeQueen:
    told: dict[str, Any] | RbeeError

    def info(self) -> dict[str, Any]:
        if isinstance(self.told, RbeeError):
            raise self.told
        return self.told


@dataclass
class FakeMachines:
    shells: dict[str, FakeShell] = field(default_factory=dict)
    before: QueenConfig | None = None
    queen: FakeQueen = field(default_factory=lambda: FakeQueen(Unreachable("Connection refused.")))
    urls: list[str] = field(default_factory=list)
    opened: list[HiveSpec] = field(default_factory=list)

    def shell(self, hive: HiveSpec) -> Any:
        self.opened.append(hive)
        return self.shells[hive.name]

    def hive_api(self, hive: HiveSpec, url: str) -> Any:
        raise AssertionError("observing asks no hive directly")

    def queen_api(self, url: str) -> Any:
        self.urls.append(url)
        return self.queen

    def queen_config(self) -> QueenConfig | None:
        return self.before

    def close(self) -> None: ...


def spec(*hives: HiveSpec) -> Spec:
    return Spec(version=1, fleet="home", hives={h.name: h for h in hives})


def look(answer: dict[str, Any] | RbeeError, hive: HiveSpec = BOX, **kw: Any) -> tuple[HiveActual | Unknown, Survey]:
    found = survey(spec(hive), FakeMachines({hive.name: FakeShell(answer)}), **kw)
    return found.actual.hives[hive.name], found


def seen(answer: dict[str, Any], hive: HiveSpec = BOX) -> HiveActual:
    found, _ = look(answer, hive)
    assert isinstance(found, HiveActual), found
    return found


# ------------------------------------------------------------ machines


def test_a_bare_machine() -> None:
    found = seen({**MACHINE, "gpus": {"cuda": 2, "rocm": 1}, "libraries": {"b": False, "a": False, "c": True}})
    assert (found.address, found.controller_address, found.platform) == ("10.0.0.2", "10.0.0.1", "linux-x86_64")
    assert found.live is None
    assert found.problems == ()
    assert [d.id for d in found.devices] == ["cpu", "cuda:0", "cuda:1", "rocm:0"]
    assert found.cpu_flags == ("avx2", "sse")
    assert found.missing_libraries == ("a", "b")
    assert (found.memory_available, found.memory_total) == (50, 100)
    assert (found.releases, found.token_digest, found.models, found.workers) == ((), None, (), ())


def test_this_machine_has_no_address() -> None:
    found = seen(MACHINE, HERE)
    assert (found.address, found.controller_address) == ("", None)


def test_without_an_ssh_connection_told_the_shells_own_address_is_taken() -> None:
    assert seen({**MACHINE, "server_address": None}).address == "192.168.0.2"


def test_a_hive_that_answers_tells_more_than_its_disk() -> None:
    told = {
        **MACHINE,
        "hive": HIVE,
        "capabilities": capabilities(),
        "models": [{"artifact": codec.plain(model("disk"))}],
        "engines": [{"artifact": codec.plain(binary())}],
        "workers": [{"worker_id": "disk-0", "pid": 1, "alive": True, "fleet": "home"}],
        "token": {"digest": "t1", "mode": 0o600},
        "releases": [
            {"id": "r1", "path": "/r1", "python": "/p", "mark": {"fleet": "home"}, "usable": True},
            {"id": "r0", "path": "/r0", "python": "/p", "usable": True},
        ],
    }
    found = seen(told)
    assert found.live is not None
    assert (found.live.fleet, found.live.release, found.live.config_digest, found.live.url) == (
        "home", "r1", "c1", "http://x:1",
    )  # fmt: skip
    assert [m.id for m in found.models] == ["told"]
    assert [w.worker_id for w in found.workers] == ["told-0"]
    assert found.devices == (CPU,)
    assert [b.id for b in found.binaries] == [binary().id]
    assert found.releases == ("r1", "r0")
    assert found.release_fleets == {"r1": "home"}
    assert found.token_digest == "t1"


def test_a_hive_that_ended_leaves_its_disk_to_tell() -> None:
    told = {
        **MACHINE,
        "hive": {**HIVE, "alive": False},
        "models": [{"artifact": codec.plain(model("disk"))}],
        "workers": [
            {"worker_id": "a-0", "pid": 7, "alive": True, "fleet": "home", "model": "m", "engine": "e",
             "spec_digest": "d", "idle_timeout": 300},
            {"worker_id": "b-0", "pid": 8, "alive": False, "fleet": "other"},
            {"worker_id": "by-hand", "pid": 9, "alive": True},
            {"worker_id": "c-0", "pid": 0, "alive": False, "status": "unloaded", "fleet": "home"},
        ],
    }  # fmt: skip
    found = seen(told)
    assert found.live is None
    assert [m.id for m in found.models] == ["disk"]
    a, b, by_hand, unloaded = found.workers
    assert (unloaded.worker_id, unloaded.status, unloaded.pid) == ("c-0", "unloaded", 0)
    assert (a.worker_id, a.pid, a.status, a.model, a.engine, a.mark) == (
        "a-0", 7, "ready", "m", "e", Mark(fleet="home", spec_digest="d"),
    )  # fmt: skip
    assert (a.idle_timeout, b.idle_timeout) == (300.0, None)
    assert (b.status, b.mark) == ("dead", Mark(fleet="other"))
    assert (by_hand.worker_id, by_hand.status, by_hand.mark) == ("by-hand", "ready", None)


def test_a_hive_that_runs_and_is_silent_is_unknown() -> None:
    found, whole = look({**MACHINE, "hive": HIVE, "capabilities_error": "timed out"})
    assert isinstance(found, Unknown)
    assert found.why == "Its hive runs (pid 42) but does not answer: timed out"
    assert "log" in found.mend
    assert whole.facts["box"].platform == "linux-x86_64"
    quiet, _ = look({**MACHINE, "hive": HIVE})
    assert isinstance(quiet, Unknown)
    assert quiet.why.endswith(": silence")


def test_a_hive_that_answers_in_other_words_is_known_well_enough_to_be_replaced() -> None:
    hive = {**HIVE, "url": "http://x:1", "fleet": "home", "release": "r9"}
    found = seen(
        {
            **MACHINE,
            "hive": hive,
            "capabilities": {"who": "knows"},
            "models": [{"artifact": codec.plain(model("disk"))}],
        }
    )
    assert found.live is not None
    assert (found.live.fleet, found.live.release, found.live.config_digest, found.live.url) == (
        "home", "r9", "", "http://x:1",
    )  # fmt: skip
    assert [m.id for m in found.models] == ["disk"]


def test_a_machine_that_cannot_be_reached_is_unknown_and_the_others_are_seen() -> None:
    machines = FakeMachines(
        {"box": FakeShell(Unreachable("No route to host.", mend="Is it on?")), "here": FakeShell(MACHINE)}
    )
    told: list[str] = []
    found = survey(spec(BOX, HERE), machines, told=told.append, parallelism=0)
    assert found.actual.hives["box"] == Unknown(why="No route to host.", mend="Is it on?")
    assert isinstance(found.actual.hives["here"], HiveActual)
    assert list(found.facts) == ["here"]
    assert sorted(told) == ["box", "here"]


def test_machines_are_looked_at_at_once() -> None:
    """Each shell waits until all have been asked: one after the other would never end."""
    together = threading.Barrier(3)

    class Waiting(FakeShell):
        def run(self, argv: Sequence[str], **kw: Any) -> Completed:
            together.wait(20)
            return super().run(argv, **kw)

    hives = [HiveSpec(name=n, ssh=Ssh(host=n)) for n in "abc"]
    found = survey(spec(*hives), FakeMachines({h.name: Waiting(MACHINE) for h in hives}), parallelism=3)
    assert all(isinstance(h, HiveActual) for h in found.actual.hives.values())


def test_the_probe_is_asked_for_the_libraries_and_the_named_python() -> None:
    shell = FakeShell(MACHINE)
    survey(spec(BOX), FakeMachines({"box": shell}), libraries=["libz", "liba", "libz"])
    ((argv, written),) = shell.asked
    assert any("/opt/python" in word for word in argv)
    assert b'["liba", "libz"]' in written or b'["liba","libz"]' in written


# ------------------------------------------------------------ what keeps a machine from being a hive


def facts(**kw: Any) -> MachineFacts:
    said = {"os": "linux", "arch": "x86_64", "home": "/h", "python": Python(path="/p", version=(3, 11, 0))}
    return MachineFacts(**{**said, **kw})


def problems(**kw: Any) -> list[tuple[str, str]]:
    found = list(machine_problems("box", facts(**kw)))
    assert all(p.subject == "hives.box" for p in found)
    assert all(p.mend for p in found)
    return [(p.summary, p.detail) for p in found]


def test_a_machine_without_python() -> None:
    none = "Hive 'box' has no Python 3.10 or newer"
    assert problems(python=None, os="freebsd") == [(none, "No python3 was found there.")]
    old = Python(path="/usr/bin/python3", version=(3, 8, 10))
    assert problems(python=None, old_pythons=(old,)) == [(none, "Found: /usr/bin/python3 is 3.8.10.")]
    without, _ = look({"os": "linux", "arch": "x86_64", "old": []})
    assert isinstance(without, HiveActual)
    assert without.platform == ""  # could not be looked into
    assert [p.summary for p in without.problems] == [none]


@pytest.mark.parametrize("system", ["linux", "macos"])
def test_a_machine_that_will_do(system: str) -> None:
    assert problems(os=system, disks={"data": Disk(path="/h", free=2**40)}) == []


def test_a_machine_of_another_kind() -> None:
    assert problems(os="freebsd") == [("Hive 'box' runs freebsd, which rbee does not know", "")]


def test_disks() -> None:
    small, locked = Disk(path="/h", free=2**20), Disk(path="/c", free=2**40, writable=False)
    assert problems(disks={"data": small, "models": locked}) == [
        ("Hive 'box' has too little disk", "/h has 1 MB free; rbee needs 200 MB."),
        ("Hive 'box': /c cannot be written", "rbee keeps its models there."),
    ]
    release: Any = ({"id": "r"},)
    assert problems(disks={"data": small}, releases=release) == []  # what is installed needs no more


def test_devices_of_a_machine_without_a_hive_are_guessed() -> None:
    (cpu,) = guessed_devices(facts(cpu_cores=4))
    assert (cpu.id, cpu.device_type, cpu.cores) == ("cpu", "cpu", 4)


# ------------------------------------------------------------ the queen

KNOWN = KnownHive(hive_id="old", url="http://10.0.0.9:7835", labels={"a": "b"}, ssh=Ssh(host="old"))
BEFORE = QueenConfig(fleet="home", hives=(KNOWN, KnownHive(hive_id="box", url="http://b")))


def test_without_settings_there_is_no_queen_and_nobody_is_asked() -> None:
    machines = FakeMachines()
    assert observe_queen(spec(), machines, None) == QueenActual(running=False)
    assert machines.urls == []


def test_a_queen_that_answers() -> None:
    told = {
        "fleet": "home", "release": "r1", "config_digest": "c1", "boot_digest": "b1", "token_digest": "t1",
        "hives": [{"hive_id": "old", "status": "online"}, {"hive_id": "box", "status": "offline"}],
    }  # fmt: skip
    machines = FakeMachines(queen=FakeQueen(told))
    assert observe_queen(spec(), machines, BEFORE) == QueenActual(
        running=True,
        fleet="home",
        release="r1",
        config_digest="c1",
        boot_digest="b1",
        token_digest="t1",
        hives=(
            KnownTo(hive_id="old", url="http://10.0.0.9:7835", online=True, ssh=Ssh(host="old")),
            KnownTo(hive_id="box", url="http://b", online=False),
        ),
    )
    assert machines.urls == ["http://127.0.0.1:7833"]


def test_a_queen_that_listens_everywhere_is_asked_on_loopback() -> None:
    machines = FakeMachines(queen=FakeQueen({}))
    found = observe_queen(spec(), machines, QueenConfig(fleet="home", listen="0.0.0.0:80"))
    assert machines.urls == ["http://127.0.0.1:80"]
    assert isinstance(found, QueenActual)
    assert (found.fleet, found.release, found.token_digest) == ("", "", None)


@pytest.mark.parametrize("error", [Unreachable("no"), RbeeError("no", code="refused")])
def test_a_queen_that_is_down_is_not_unknown_and_what_she_knew_is(error: RbeeError) -> None:
    found = observe_queen(spec(), FakeMachines(queen=FakeQueen(error)), BEFORE)
    assert isinstance(found, QueenActual)
    assert (found.running, found.fleet) == (False, "home")
    assert [(h.hive_id, h.online) for h in found.hives] == [("old", False), ("box", False)]


def test_something_else_on_her_port_is_unknown() -> None:
    found = observe_queen(spec(), FakeMachines(queen=FakeQueen(Unauthorized("No.", mend="Look."))), BEFORE)
    assert found == Unknown(why="The queen at 127.0.0.1:7833 does not answer as one: No.", mend="Look.")


def test_another_fleets_queen_is_unknown_and_her_hives_are_not_looked_at() -> None:
    machines = FakeMachines(before=QueenConfig(fleet="office", hives=(KNOWN,)))
    found = survey(spec(), machines)
    assert isinstance(found.actual.queen, Unknown)
    assert "'office'" in found.actual.queen.why
    assert (found.actual.hives, found.dropped, found.queen_config) == ({}, {}, None)
    assert machines.urls == []


def test_hives_that_the_queen_knows_and_the_file_does_not_are_looked_at_too() -> None:
    machines = FakeMachines({"box": FakeShell(MACHINE), "old": FakeShell(MACHINE)}, before=BEFORE)
    found = survey(spec(BOX), machines)
    assert set(found.actual.hives) == {"box", "old"}
    assert found.dropped == {"old": HiveSpec(name="old", ssh=Ssh(host="old"), labels={"a": "b"})}
    assert found.queen_config == BEFORE
    assert sorted(h.name for h in machines.opened) == ["box", "old"]
