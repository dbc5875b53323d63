# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is taken for whom, and what of it is remembered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee.adapters.secrets import Token
from rbee.contracts.configs import QueenConfig
from rbee.core.errors import TooMany, Unauthorized
from rbee.core.rate import Left
from rbee.core.spec_queen import KeySpec, LimitsSpec
from rbee.daemons.queen.admission.clients import Client, Clients
from rbee.daemons.queen.admission.limits import Limits, LocalRates, headers_of

FLEET = Token("the-fleets-token-0123456789")
ALICE = "alices-key-0123456789"


def config(folder: Path, **limits: int) -> QueenConfig:
    file = folder / "alice.key"
    file.write_text(ALICE)
    file.chmod(0o600)
    keys = {"alice": KeySpec(name="alice", key_file=str(file), priority="batch", weight=7, concurrent=3)}
    return QueenConfig(fleet="t", keys=keys, limits=LimitsSpec(**limits))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_has_its_own_limits_and_the_common_ones_where_it_has_none(tmp_path: Path) -> None:
    clients = Clients(config(tmp_path, requests_per_minute=60, concurrent=9), FLEET)
    expected = Client(name="alice", priority="batch", weight=7, requests_per_minute=60, concurrent=3)
    assert clients.identify(bearer(ALICE), FLEET) == expected
    assert clients.identify({"x-api-key": ALICE}, None) == expected
    fleet = clients.identify(bearer(FLEET.reveal()), None)
    assert fleet == Client(name="fleet", requests_per_minute=60, concurrent=9)
    assert clients.identify({}, None) == Client(requests_per_minute=60, concurrent=9)


def test_strangers_have_names_that_tell_nothing(tmp_path: Path) -> None:
    clients, others = Clients(config(tmp_path), FLEET), Clients(config(tmp_path), FLEET)
    name = clients.identify(bearer("sk-secret"), None).name
    assert re.fullmatch("anon-[0-9a-f]{6}", name)
    assert clients.identify({"x-api-key": "sk-secret"}, None).name == name
    assert clients.identify({"Authorization": "Basic x", "x-api-key": "sk-secret"}, None).name == name
    assert others.identify(bearer("sk-secret"), None).name == name  # after a restart, at another queen
    assert clients.identify(bearer("sk-other"), None).name != name
    assert Clients(config(tmp_path)).identify(bearer("sk-secret"), None).name != name
    assert clients.identify(bearer(""), None).name == ""
    assert clients.identify({"Authorization": "Basic x"}, None).name == ""


def test_of_many_strangers_the_last_are_one(tmp_path: Path) -> None:
    clients = Clients(config(tmp_path))
    names = {clients.identify(bearer(f"program-{n}"), None).name for n in range(5000)}
    assert len(names) <= 1025
    assert "anon-others" in names
    assert clients.identify(bearer("program-1"), None).name != "anon-others"
    assert clients.identify(bearer(ALICE), None).name == "alice"


def test_many_forms_of_one_key_take_no_memory(tmp_path: Path) -> None:
    clients = Clients(config(tmp_path))
    for n in range(10_000):
        assert clients.identify({"Authorization": f"Bearer {' ' * n}{ALICE}"}, FLEET).name == "alice"
    assert len(clients._known) <= 4096


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["Authorization", "x-api-key"]), st.text(max_size=40)))
def test_nonsense_is_nobody(tmp_path: Path, headers: dict[str, str]) -> None:
    clients = Clients(config(tmp_path), FLEET)
    with pytest.raises(Unauthorized):
        clients.identify(headers, FLEET)
    assert clients.identify(headers, None).name not in ("alice", "fleet")


def test_concurrency_is_counted_by_name() -> None:
    limits, rates = Limits(), LocalRates()
    client = Client(name="a", concurrent=2)
    for _ in range(2):
        limits.check(client, 0.0, Means(), ("m",))
        limits.enter(client)
    with pytest.raises(TooMany) as refused:
        limits.check(client, 0.0, Means(30.0), ("m",))
    assert (refused.value.code, refused.value.retry_after) == ("too_many_concurrent", 15.0)
    limits.leave(client)
    limits.check(client, 0.0, Means(), ("m",))
    limits.leave(client)
    limits.leave(client)  # more than came: never below none
    assert limits.running("a") == 0
    assert rates.left("a", 60, 0.0) == Left(limit=60, remaining=60, reset=0.0)


def test_what_is_refused_for_one_limit_costs_nothing_of_the_other() -> None:
    limits = Limits()
    client = Client(name="a", concurrent=1, requests_per_minute=60)
    limits.check(client, 0.0, Means(), ("m",))
    limits.enter(client)
    for _ in range(100):
        with pytest.raises(TooMany, match="as many as it may have"):
            limits.check(client, 0.0, Means(), ("m",))
    assert limits.rates.left("a", 60, 0.0).remaining == 59


def test_buckets_of_those_who_are_quiet_are_forgotten() -> None:
    rates = LocalRates()
    for n in range(10_000):
        assert rates.take(f"c{n}", 60, float(n)) == 0.0
    assert len(rates._buckets) <= 2048


def test_headers_as_openai_writes_them() -> None:
    assert headers_of(Left(limit=60, remaining=0, reset=59.0), 0.5) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "59s",
        "retry-after-ms": "501",
    }
    resets = [headers_of(Left(limit=1, remaining=0, reset=s))["x-ratelimit-reset-requests"] for s in (0.12, 1.5, 360.0)]
    assert resets == ["120ms", "1.5s", "6m0s"]


class Means:
    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds

    def mean(self, models: tuple[str, ...]) -> float | None:
        return self._seconds
