# SPDX-License-Identifier: GPL-3.0-or-later
"""Big files over SSH: resumed where they were cut off, verified, renamed into place."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee.adapters.installer import RealInstaller
from rbee.adapters.local_shell import LocalShell
from rbee.adapters.paths import Paths
from rbee.core.errors import Insufficient, RbeeError
from tests.support.machine import Machine
from tests.support.sshd import Sshd


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
def installer(tmp_path: Path) -> RealInstaller:
    return RealInstaller(Paths(*(tmp_path / "controller" / name for name in ("config", "cache", "data", "state"))))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(6 * 2**20 + 7))
    return path


def part_of(destination: Path, source: Path) -> Path:
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    return destination.parent / f".{destination.name}.{sha256[:16]}.part"


def test_a_file_arrives_and_is_not_sent_twice(machine: Machine, installer: RealInstaller, source: Path) -> None:
    destination = machine.home / "models" / "it's a model.gguf"
    told: list[tuple[int, int]] = []
    facts = machine.facts
    sha256 = installer.push(machine.shell, facts, source, str(destination), lambda d, t: told.append((d, t)))
    assert sha256 == hashlib.sha256(destination.read_bytes()).hexdigest()
    assert told[-1] == (source.stat().st_size, source.stat().st_size)
    assert [p.name for p in destination.parent.iterdir()] == [destination.name]
    told.clear()
    assert installer.push(machine.shell, facts, source, str(destination), lambda d, t: told.append((d, t))) == sha256
    assert told == []


def test_what_has_arrived_is_not_sent_again(machine: Machine, installer: RealInstaller, source: Path) -> None:
    destination = machine.home / "model.gguf"
    machine.home.mkdir()
    half = source.read_bytes()[: 4 * 2**20]
    part_of(destination, source).write_bytes(half)
    told: list[tuple[int, int]] = []
    installer.push(machine.shell, machine.facts, source, str(destination), lambda d, t: told.append((d, t)))
    assert told[0][0] > len(half) and told[-1][0] == source.stat().st_size
    assert destination.read_bytes() == source.read_bytes()


def test_a_lost_connection_is_gone_on_with(machine: Machine, installer: RealInstaller, source: Path) -> None:
    """The sshd of the connection is killed in the middle; the next try starts where that one ended."""
    destination = machine.home / "model.gguf"
    shell, facts = machine.shell, machine.facts
    parent = int(shell.run(["sh", "-c", "echo $PPID"]).out)
    told: list[int] = []

    def cut(done: int, total: int) -> None:
        if not told:
            subprocess.run(["kill", "-9", str(parent)], check=True)
        told.append(done)

    installer.push(shell, facts, source, str(destination), cut)
    assert destination.read_bytes() == source.read_bytes()
    assert told[-1] == source.stat().st_size


def test_a_part_of_something_else_is_found_out(machine: Machine, installer: RealInstaller, source: Path) -> None:
    destination = machine.home / "model.gguf"
    machine.home.mkdir()
    part_of(destination, source).write_bytes(b"x" * 1000)
    with pytest.raises(RbeeError, match="another SHA-256"):
        installer.push(machine.shell, machine.facts, source, str(destination))
    assert not destination.exists() and not part_of(destination, source).exists()
    installer.push(machine.shell, machine.facts, source, str(destination))
    assert destination.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_told_before_anything_is_sent(machine: Machine, installer: RealInstaller, source: Path) -> None:
    machine.home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(machine.home)], capture_output=True)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with pytest.raises(Insufficient, match="MB are needed and"):
            installer.push(machine.shell, machine.facts, source, str(machine.home / "model.gguf"))
        assert list(machine.home.iterdir()) == []
    finally:
        subprocess.run(["umount", str(machine.home)], check=True)


def test_on_this_machine_too(installer: RealInstaller, machine: Machine, source: Path, tmp_path: Path) -> None:
    destination = tmp_path / "here.gguf"
    installer.push(LocalShell(), machine.facts, source, str(destination))
    assert destination.read_bytes() == source.read_bytes()
