# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemons' settings, from the file and from where the machines are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rbee.contracts.configs import KnownHive, KnownModel, QueenConfig, boot_digest
from rbee.core.actual import HiveActual, Unknown
from rbee.core.sources import SourceProvider
from rbee.core.spec import HiveSpec, ModelSpec, Spec, Ssh
from rbee.core.spec_queen import KeySpec, LimitsSpec, QueenSpec
from rbee.fleet import settings

HERE = HiveSpec(name="here")
BOX = HiveSpec(name="box", ssh=Ssh(host="box"), labels={"power": "loud"})
LOCAL = HiveActual(address="", platform="linux-x86_64")
REMOTE = HiveActual(address="10.0.0.2", platform="linux-x86_64", controller_address="10.0.0.1")


def spec(*hives: HiveSpec, **queen: Any) -> Spec:
    return Spec(version=1, fleet="home", queen=QueenSpec(**queen), hives={h.name: h for h in hives})


def queen(of: Spec, seen: dict[str, HiveActual | Unknown], before: QueenConfig | None = None) -> QueenConfig:
    return settings.queen_config(of, seen, before, token_file="/t", release="r")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:7833", ("127.0.0.1", 7833)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses_come_apart_and_together(address: str, parts: tuple[str, int]) -> None:
    assert settings.split_address(address) == parts
    assert settings.join_address(*parts) == address


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.9", True), ("::1", True), ("10.0.0.1", False), ("0.0.0.0", False), ("box", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert settings.is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:7833", "http://127.0.0.1:7833"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://127.0.0.1:80"),
        ("[::1]:80", "http://[::1]:80"),
        ("10.0.0.1:80", "http://10.0.0.1:80"),
    ],
)
def test_where_this_machine_reaches_the_queen(listen: str, url: str) -> None:
    assert settings.queen_local_url(spec(listen=listen)) == url
    assert settings.queen_url_for(spec(listen=listen), HERE, LOCAL) == url


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ({}, "http://10.0.0.1:7833"),
        ({"listen": "0.0.0.0:80"}, "http://10.0.0.1:80"),
        ({"listen": "10.7.7.7:80"}, "http://10.7.7.7:80"),
        ({"listen": "10.7.7.7:80", "advertise": "fd00::1"}, "http://[fd00::1]:80"),
        ({"advertise": "192.168.1.10"}, "http://192.168.1.10:7833"),
    ],
)
def test_where_another_machine_reaches_the_queen(said: dict[str, Any], url: str) -> None:
    assert settings.queen_url_for(spec(**said), BOX, REMOTE) == url


def test_a_hive_that_no_address_is_known_for_gets_no_queen() -> None:
    seen = HiveActual(address="10.0.0.2", platform="")
    assert settings.queen_url_for(spec(), BOX, seen) is None
    assert settings.hive_config(spec(), BOX, seen, token_file=None, release="").queen_url is None


@pytest.mark.parametrize(
    ("hive", "seen", "listen", "url"),
    [
        (HERE, LOCAL, "127.0.0.1:7835", "http://127.0.0.1:7835"),
        (BOX, REMOTE, "10.0.0.2:7835", "http://10.0.0.2:7835"),
        (BOX, HiveActual(address="fd00::2", platform=""), "[fd00::2]:7835", "http://[fd00::2]:7835"),
        (HiveSpec(ssh=Ssh(host="b"), listen="0.0.0.0:1"), REMOTE, "0.0.0.0:1", "http://10.0.0.2:1"),
        (HiveSpec(listen="[::]:1"), LOCAL, "[::]:1", "http://127.0.0.1:1"),
        (HiveSpec(ssh=Ssh(host="b"), listen="10.9.9.9:1"), REMOTE, "10.9.9.9:1", "http://10.9.9.9:1"),
    ],
)
def test_where_a_hive_listens_and_is_reached(hive: HiveSpec, seen: HiveActual, listen: str, url: str) -> None:
    assert settings.hive_config(spec(), hive, seen, token_file="/t", release="r").listen == listen
    assert settings.hive_url(spec(), hive, seen) == url


def test_a_hives_settings() -> None:
    hive = HiveSpec(name="box", ssh=Ssh(host="box"), worker_ports="9400-9410")
    found = settings.hive_config(spec(hive), hive, REMOTE, token_file="/t", release="r")
    assert (found.hive_id, found.fleet, found.token_file, found.release) == ("box", "home", "/t", "r")
    assert found.worker_ports == (9400, 9410)


def test_every_hive_is_told_of_the_fleets_own_sources() -> None:
    own = SourceProvider(kind="source", name="corp", title="C", summary="", protocol="huggingface", prefixes=("corp:",))
    found = settings.hive_config(spec(), BOX, REMOTE, token_file="/t", release="r", sources=(own,))
    assert found.sources == (own,)
    here = spec(HERE)
    queen = settings.queen_config(here, {HERE.name: LOCAL}, None, token_file="/t", release="r", sources=(own,))
    assert queen.local_hive is not None
    assert queen.local_hive.sources == (own,)
    without = settings.queen_config(here, {HERE.name: LOCAL}, None, token_file="/t", release="r")
    assert boot_digest(queen) != boot_digest(without)


def test_a_queen_on_one_machine_listens_on_loopback_only() -> None:
    of = Spec(
        version=1,
        fleet="home",
        hives={"here": HERE},
        models={"tiny": ModelSpec(name="tiny", source="builtin:bee-tiny")},
        aliases={"gpt": ("tiny",)},
    )
    found = queen(of, {"here": LOCAL})
    assert found.fleet_listen == ()
    assert found.local_hive is not None
    assert found.local_hive.listen == "127.0.0.1:7835"
    assert found.models == (KnownModel(name="tiny", source="builtin:bee-tiny"),)
    assert found.aliases == {"gpt": ("tiny",)}
    assert [h.url for h in found.hives] == ["http://127.0.0.1:7835"]


def test_she_has_a_listener_for_each_network_of_hives() -> None:
    far = HiveSpec(name="far", ssh=Ssh(host="far"))
    there = HiveActual(address="10.1.0.2", platform="", controller_address="10.1.0.1")
    seen: dict[str, HiveActual | Unknown] = {"box": REMOTE, "far": there}
    assert queen(spec(BOX, far), seen).fleet_listen == ("10.0.0.1:7833", "10.1.0.1:7833")
    assert queen(spec(BOX, far, advertise="10.5.5.5"), seen).fleet_listen == ("10.5.5.5:7833",)
    assert (
        queen(spec(BOX, far), {"box": HiveActual(address="1", platform=""), "far": Unknown(why="")}).fleet_listen == ()
    )


def test_a_queen_that_listens_to_the_world_needs_no_second_listener() -> None:
    assert queen(spec(BOX, listen="0.0.0.0:7833"), {"box": REMOTE}).fleet_listen == ()


BEFORE = queen(spec(HERE, BOX), {"here": LOCAL, "box": REMOTE})


def test_what_is_known_of_an_unseen_hive_stays() -> None:
    after = queen(spec(HERE, BOX), {"here": LOCAL, "box": Unknown(why="down")}, BEFORE)
    assert after == BEFORE


def test_the_local_hive_stays_in_the_queen_while_it_cannot_be_seen() -> None:
    assert queen(spec(HERE, BOX), {"here": Unknown(why="silent"), "box": REMOTE}, BEFORE) == BEFORE


def test_a_hive_that_was_never_seen_is_not_known() -> None:
    assert queen(spec(BOX), {}, None).hives == ()
    assert queen(spec(BOX), {"box": Unknown(why="")}, queen(spec(), {})).hives == ()


def test_a_dropped_hive_is_kept_until_it_is_unregistered() -> None:
    after = queen(spec(HERE), {"here": LOCAL}, BEFORE)
    assert [h.hive_id for h in after.hives] == ["here", "box"]
    assert after.hives[1] == KnownHive(
        hive_id="box", url="http://10.0.0.2:7835", labels={"power": "loud"}, ssh=Ssh(host="box")
    )
    assert after.fleet_listen == ()


def test_a_dropped_local_hive_leaves_the_queens_process() -> None:
    assert queen(spec(BOX), {"box": REMOTE, "here": LOCAL}, BEFORE).local_hive is None


def test_the_queen_is_told_all_that_the_file_says_of_her() -> None:
    said = QueenSpec(
        keys={"alice": KeySpec(name="alice", key_file="/k/alice", weight=2)},
        limits=LimitsSpec(queue=3, cold_wait=5.0),
        store="postgresql://rbee@db/rbee",
        store_password_file="/k/db",
        traces="http://127.0.0.1:4318",
        access_log=False,
    )
    found = queen(replace(spec(), queen=said), {})
    assert (found.keys, found.limits, found.access_log) == (said.keys, said.limits, False)
    assert (found.store, found.store_password_file, found.traces) == (
        said.store,
        said.store_password_file,
        said.traces,
    )
    # Keys and limits are read again while she runs; another store asks for a restart.
    assert boot_digest(replace(found, keys={}, limits=LimitsSpec())) == boot_digest(found)
    assert boot_digest(replace(found, store=None)) != boot_digest(found)
