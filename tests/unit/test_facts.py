# SPDX-License-Identifier: GPL-3.0-or-later
"""What a probe prints, read: recorded output, noise, half answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.gpu import amd_sysfs
from rbee.contracts.codec import encode_pretty, plain
from rbee.contracts.configs import HiveConfig, config_digest
from rbee.core.errors import RbeeError
from rbee.core.facts import Python
from rbee.fleet.facts import answer, parse
from rbee.fleet.ports import Completed, Target
from rbee.fleet.remote import probe
from tests.support.stand_ins import amd_card, host

RECORDED: dict[str, Any] = {
    "os": "linux",
    "arch": "x86_64",
    "platform": "linux-x86_64",
    "home": "/home/bee",
    "user": "bee",
    "hostname": "workstation",
    "python": {"path": "/usr/bin/python3", "version": [3, 11, 2], "tag": "cp311"},
    "missing_modules": [],
    "libc": "glibc",
    "libc_version": [2, 36],
    "cpu_cores": 8,
    "cpu_flags": ["avx2", "fma"],
    "memory_total": 33_000_000_000,
    "memory_available": 20_000_000_000,
    "supervisor": "systemd-user",
    "linger": True,
    "client_address": "192.168.1.2",
    "server_address": "192.168.1.10",
    "roots": {k: f"/home/bee/{k}/rbee" for k in ("config", "cache", "data", "state")},
    "disks": {"home": {"path": "/home/bee", "free": 7_000_000, "writable": True}},
    "libraries": {"libgomp.so.1": False},
    "gpus": {"cuda": 2, "rocm": 1},
    "releases": [
        {"id": "abc", "path": "/r/abc", "python": "/r/abc/bin/python", "mark": {"fleet": "home"}, "usable": True},
        {"id": "old", "path": "/r/old", "python": "/r/old/bin/python", "usable": False},
        {"usable": True},
    ],
    "engines": [{"artifact": {"id": "e", "engine": "x"}}, {"nonsense": 1}],
    "models": [{"artifact": {"id": "m", "name": "m", "path": "/m", "size_bytes": 5, "status": "available"}}],
    "workers": [{"worker_id": "chat-0", "pid": 9, "alive": True, "model": "m", "fleet": "home"}],
    "token": {"digest": "0123456789abcdef", "mode": 384},
    "hive_config": {"digest": "d", "fleet": "home"},
    "queen_config": None,
    "hive": {"name": "hive", "pid": 7, "alive": True, "url": "http://192.168.1.10:7835", "start_time": 5},
    "queen": {"pid": "not a number"},
}


def test_a_recorded_answer() -> None:
    facts = parse(RECORDED).facts
    assert facts.python == Python(path="/usr/bin/python3", version=(3, 11, 2), tag="cp311")
    assert facts.cpu_flags == {"avx2", "fma"} and facts.libraries == {"libgomp.so.1": False}
    assert facts.hive is not None and facts.hive.alive and facts.hive.pid == 7
    assert facts.token is not None and facts.token.mode == 0o600
    assert facts.supervisor == "systemd-user" and facts.linger and facts.gpus == {"cuda": 2, "rocm": 1}
    assert Target.of(facts) == Target(platform="linux-x86_64", python=(3, 11), libc="glibc", libc_version=(2, 36))


def test_broken_records_hide_nothing_else() -> None:
    facts = parse(RECORDED).facts
    assert [r.id for r in facts.releases] == ["abc"]
    assert facts.engines == () and [m.id for m in facts.models] == ["m"]
    assert facts.queen is None


@pytest.mark.parametrize("missing", sorted(set(RECORDED) - {"os", "arch"}))
def test_any_part_may_be_missing(missing: str) -> None:
    facts = parse({k: v for k, v in RECORDED.items() if k != missing}).facts
    assert facts.os == "linux"


def test_what_a_newer_hive_says_is_told_and_not_fatal() -> None:
    seen = parse({**RECORDED, "capabilities": {"something": "else"}})
    assert seen.capabilities is None and "another version" in seen.capabilities_error
    seen = parse({**RECORDED, "capabilities_error": "http://h answered 401"})
    assert seen.capabilities is None and seen.capabilities_error == "http://h answered 401"


def test_an_answer_that_is_none() -> None:
    with pytest.raises(RbeeError) as e:
        parse({**RECORDED, "python": "3.11"})
    assert e.value.code == "probe_failed"


def test_noise_around_the_answer_is_passed_over() -> None:
    noisy = b"Welcome to workstation!\nrbee: not json\n\nrbee: " + json.dumps(RECORDED).encode() + b"\nbye\n"
    assert answer(Completed(0, noisy, b"motd")) == RECORDED


def test_a_machine_without_a_python() -> None:
    told = b"hello\n\nrbee-nopython: Linux aarch64 3.8.10=/usr/bin/python3 2.7.18=/usr/bin/python odd\n"
    facts = parse(answer(Completed(0, told))).facts
    assert (facts.os, facts.arch, facts.python) == ("linux", "arm64", None)
    assert [(p.shown, p.path) for p in facts.old_pythons] == [
        ("3.8.10", "/usr/bin/python3"),
        ("2.7.18", "/usr/bin/python"),
    ]
    with pytest.raises(RbeeError, match="no Python"):
        Target.of(facts)


def test_a_script_that_broke_is_no_lack_of_a_python() -> None:
    with pytest.raises(RbeeError, match="ZeroDivisionError"):
        answer(
            Completed(0, b"\nrbee-nopython: Linux x86_64\n", b"Traceback (most recent call last):\nZeroDivisionError\n")
        )


@pytest.mark.parametrize("out", [b"", b"This account is currently not available.\n", b"rbee: {\n", b"rbee: []\n"])
def test_nonsense_is_told_in_the_machines_own_words(out: bytes) -> None:
    with pytest.raises(RbeeError) as e:
        answer(Completed(1, out, b"sh: not found\n"))
    assert e.value.code == "probe_failed" and "sh: not found" in e.value.message


def test_the_probes_digest_of_settings_is_the_daemons() -> None:
    config = HiveConfig(hive_id="h", fleet="ünï", listen="10.0.0.1:7835", queen_url="http://x")
    assert probe.digest(json.loads(encode_pretty(config))) == config_digest(config)
    assert plain(config)["fleet"] == "ünï"


def test_the_probe_finds_the_cards_that_the_hive_finds(tmp_path: Path) -> None:
    assert probe.gpus(tmp_path) == {}
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    amd_card(tmp_path, 0, "0000:83:00.0")
    amd_card(tmp_path, 1, "0000:03:00.0")
    amd_card(tmp_path, 2, "0000:04:00.0", vendor="0x10de")
    amd_card(tmp_path, 3, "0000:05:00.0", mem_info_vram_total="")
    outputs = tmp_path / "sys/class/drm/card0-DP-1"
    outputs.mkdir()
    (outputs / "device").symlink_to("../card0/device")
    # A partitioned card is shown several times; it is one.
    again = tmp_path / "sys/class/drm/card4"
    again.mkdir()
    (again / "device").symlink_to(tmp_path / "sys/devices/pci0000:00/0000:03:00.0")
    assert probe.gpus(tmp_path) == {"cuda": 2, "rocm": 2}
    assert len(amd_sysfs.read(host(tmp_path))) == 2
