# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles made here and installed over SSH: whole or not at all, and only what is missing is sent."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee.adapters.bundles import PipBundler
from rbee.adapters.installer import RealInstaller
from rbee.adapters.local_shell import LocalShell
from rbee.adapters.paths import Paths
from rbee.adapters.wheels import WheelStore
from rbee.core.errors import Insufficient, RbeeError
from rbee.core.providers import EngineProvider, Install
from rbee.core.records import Mark
from rbee.fleet.facts import observe
from rbee.fleet.ports import Bundle, Target
from tests.support.machine import Machine
from tests.support.sshd import Sshd

MARK = Mark(fleet="test")


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    made = Sshd.make(tmp_path / "ssh")
    yield made
    made.stop()


@pytest.fixture
def machine(sshd: Sshd, tmp_path: Path) -> Iterator[Machine]:
    made = Machine.make(sshd, "one", tmp_path / "one")
    yield made
    made.shell.close()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(*(tmp_path / "controller" / name for name in ("config", "cache", "data", "state")))


def wheel(files: dict[str, bytes], *, wrong: str = "", unlisted: str = "") -> bytes:
    """A wheel; `wrong` has another hash in RECORD than its own, `unlisted` has none."""
    record = []
    for name, data in files.items():
        told = b"" if name == wrong else data
        if name != unlisted:
            hashed = base64.urlsafe_b64encode(hashlib.sha256(told).digest()).decode().rstrip("=")
            record.append(f"{name},sha256={hashed},{len(data)}")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("toy-1.dist-info/RECORD", "\n".join([*record, "toy-1.dist-info/RECORD,,"]) + "\n")
    return out.getvalue()


def bundle(paths: Paths, *wheels: bytes, name: str = "toy-1") -> Bundle:
    store = WheelStore(paths.cache / "wheels")
    made = tuple(store.put(f"toy{i}-1-py3-none-any.whl", data) for i, data in enumerate(wheels))
    return Bundle(
        kind="engine", id=name, wheels=made, metadata={"where": "{path}", "with": ["{python}"], "n": "{size}"}
    )


def names(place: Path) -> list[str]:
    return sorted(p.name for p in place.iterdir()) if place.is_dir() else []


def test_a_bundle_is_installed_and_runs(machine: Machine, paths: Paths) -> None:
    files = {
        "toy/__init__.py": b"VALUE = 41\n",
        "toy-1.data/purelib/toy/more.py": b"VALUE = 1\n",
        "toy-1.data/scripts/toy": b"#!python\n",
        "toy-1.dist-info/METADATA": b"Name: toy\nVersion: 1\n",
    }
    facts, made = machine.facts, bundle(paths, wheel(files))
    told: list[tuple[int, int]] = []
    RealInstaller(paths).install(machine.shell, facts, made, lambda done, total: told.append((done, total)))
    place = Path(facts.roots.engines) / "toy-1"
    metadata = json.loads((place / "metadata.json").read_text())
    assert metadata["where"] == str(place) and metadata["n"] > 0
    run = [metadata["with"][0], "-c", "import toy, toy.more; print(toy.VALUE + toy.more.VALUE, toy.__file__)"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == ["42", f"{place}/lib/python3.{sys.version_info[1]}/site-packages/toy/__init__.py"]
    assert list(place.rglob("toy/__pycache__/*.pyc")), "compiled on the machine"
    assert told[-1] == (made.size, made.size)
    assert names(Path(facts.roots.engines)) == [".install.lock", "toy-1"]


def test_only_what_is_missing_is_sent(machine: Machine, paths: Paths) -> None:
    first, second = wheel({"a.py": b"A = 1\n"}), wheel({"b.py": b"B = 1\n" * 5000})
    facts, installer = machine.facts, RealInstaller(paths)
    installer.install(machine.shell, facts, bundle(paths, first))
    told: list[tuple[int, int]] = []
    installer.install(machine.shell, facts, bundle(paths, first, second, name="two"), lambda d, t: told.append((d, t)))
    assert told[-1] == (len(second), len(second))
    told.clear()
    installer.install(machine.shell, facts, bundle(paths, second, name="three"), lambda d, t: told.append((d, t)))
    assert told == [] and (Path(facts.roots.engines) / "three" / "metadata.json").is_file()


@pytest.mark.parametrize(
    "bad",
    [
        wheel({"toy/x.py": b"x = 1\n"}, wrong="toy/x.py"),
        wheel({"toy/x.py": b"x = 1\n", "toy/y.py": b""}, unlisted="toy/y.py"),
        wheel({"../../escaped.py": b"x = 1\n"}),
        wheel({"/tmp/escaped.py": b"x = 1\n"}),
        b"no zip",
    ],
    ids=["wrong hash", "not in RECORD", "goes up", "absolute", "no zip"],
)
def test_a_bad_wheel_leaves_nothing(machine: Machine, paths: Paths, bad: bytes) -> None:
    facts = machine.facts
    with pytest.raises(RbeeError) as e:
        RealInstaller(paths).install(machine.shell, facts, bundle(paths, wheel({"ok.py": b""}), bad))
    assert e.value.code == "bad_bundle"
    assert names(Path(facts.roots.engines)) == [".install.lock"]
    assert not list(machine.home.rglob("escaped.py"))


def test_what_changed_on_the_way_is_refused(machine: Machine, paths: Paths) -> None:
    facts, made = machine.facts, bundle(paths, wheel({"a.py": b"A = 1\n"}))
    data = bytearray(made.wheels[0].path.read_bytes())
    data[-1] ^= 1
    made.wheels[0].path.write_bytes(data)
    with pytest.raises(RbeeError, match="another SHA-256"):
        RealInstaller(paths).install(machine.shell, facts, made)
    assert names(Path(facts.roots.wheels)) == []


def test_what_was_left_half_done_is_collected(machine: Machine, paths: Paths) -> None:
    facts = machine.facts
    left = Path(facts.roots.engines) / ".toy-0.making" / "bin"
    left.mkdir(parents=True)
    assert machine.facts.engines == ()
    RealInstaller(paths).install(machine.shell, facts, bundle(paths, wheel({"a.py": b""})))
    assert names(Path(facts.roots.engines)) == [".install.lock", "toy-1"]


def test_older_releases_of_the_fleet_go_but_for_those_in_use(machine: Machine, paths: Paths) -> None:
    facts, installer = machine.facts, RealInstaller(paths)

    def release(name: str, fleet: str) -> Bundle:
        metadata = {"id": name, "path": "{path}", "python": "{python}", "mark": {"fleet": fleet, "spec_digest": ""}}
        made = bundle(paths, wheel({"a.py": b""}), name=name)
        return dataclasses.replace(made, kind="release", metadata=metadata)

    for name, fleet in (("old", "test"), ("used", "test"), ("others", "home")):
        installer.install(machine.shell, facts, release(name, fleet))
        assert name in {r.id for r in machine.facts.releases}
    python = next(r.python for r in machine.facts.releases if r.id == "used")
    with subprocess.Popen([python, "-c", "input()"], stdin=subprocess.PIPE) as user:
        assert "old" not in names(Path(facts.roots.releases)), "gone when `used` came"
        installer.install(machine.shell, facts, release("new", "test"))
        assert {r.id for r in machine.facts.releases} == {"used", "others", "new"}
        user.communicate(b"\n")
    installer.install(machine.shell, facts, release("newer", "test"))
    assert {r.id for r in machine.facts.releases} == {"others", "newer"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_told_with_the_figures_and_leaves_nothing(machine: Machine, paths: Paths) -> None:
    machine.home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(machine.home)], capture_output=True)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        facts = machine.facts
        big = bundle(paths, wheel({"big.py": os.urandom(3 * 2**20)}))
        with pytest.raises(Insufficient) as e:
            RealInstaller(paths).install(machine.shell, facts, big)
        assert e.value.code == "disk_full" and "MB are needed and" in e.value.message and "Free some" in e.value.mend
        # It looked as if it fitted, and did not: the zip hides what it holds.
        zeros = bundle(paths, wheel({"zeros.py": b"0" * 9 * 2**20}))
        with pytest.raises(Insufficient):
            RealInstaller(paths).install(machine.shell, facts, zeros)
        assert names(Path(facts.roots.engines)) == [".install.lock"]
    finally:
        subprocess.run(["umount", str(machine.home)], check=True)


def test_an_engine_of_the_controllers_own_environment_is_only_noted(paths: Paths) -> None:
    provider = EngineProvider(
        kind="engine", name="toy", version="0", summary="", worker_types=("cpu",), formats=("gguf",), module="pytest",
        distribution="pytest", command=(),
    )  # fmt: skip
    installer = RealInstaller(paths)
    assert not installer.engine_here(provider, MARK)
    assert not installer.engine_here(dataclasses.replace(provider, distribution="no-such-thing"), MARK)
    provider = dataclasses.replace(provider, version=pytest.__version__)
    assert installer.engine_here(provider, MARK)
    facts = dataclasses.replace(observe(LocalShell()).facts)
    (told,) = paths.worker_binaries.glob("*/metadata.json")
    artifact = json.loads(told.read_text())["artifact"]
    assert artifact["python"] == sys.executable and artifact["platform"] == facts.platform
    assert artifact["mark"] == {"fleet": "test", "spec_digest": ""}


def test_a_wheel_that_cannot_be_had_is_told(paths: Paths) -> None:
    provider = EngineProvider(
        kind="engine", name="toy", version="0", summary="", worker_types=("cpu",), formats=("gguf",), module="toy",
        distribution="toy", command=(),
        install=(Install(platform="linux-x86_64", requirements=("toy==0 --hash=sha256:" + "0" * 64,),
                         index="http://127.0.0.1:9/simple"),),
    )  # fmt: skip
    target = Target(platform="linux-x86_64", python=(3, 11))
    with pytest.raises(RbeeError) as e:
        PipBundler(paths).engine(provider, target, MARK)
    assert e.value.code == "fetch_failed" and "linux-x86_64" in e.value.message
    with pytest.raises(RbeeError, match="cannot be installed on macos-arm64"):
        PipBundler(paths).engine(provider, dataclasses.replace(target, platform="macos-arm64"), MARK)
