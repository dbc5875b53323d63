# SPDX-License-Identifier: GPL-3.0-or-later
"""Hives that see this machine under a name that is not its own must not fail the others."""

from __future__ import annotations

import pytest

from rbee.contracts.configs import QueenConfig
from rbee.core.actual import Actual, HiveActual, QueenActual, Unknown
from rbee.core.spec import Spec
from rbee.core.spec_queen import QueenSpec
from rbee.fleet.observe import Survey
from rbee.fleet.reach import bindable, without_cut_off

OURS = frozenset({"127.0.0.1", "10.0.0.1", "::1"})


def survey(**controller: str | None) -> Survey:
    hives: dict[str, HiveActual | Unknown] = {
        name: HiveActual(address="10.0.0.9", platform="linux-x86_64", controller_address=seen)
        for name, seen in controller.items()
    }
    hives["dark"] = Unknown(why="off")
    return Survey(actual=Actual(queen=QueenActual(running=False), hives=hives))


def spec(listen: str = "127.0.0.1:7833", advertise: str | None = None) -> Spec:
    return Spec(version=1, fleet="home", queen=QueenSpec(listen=listen, advertise=advertise))


def test_only_the_hive_that_is_cut_off_has_a_problem() -> None:
    found = without_cut_off(spec(), survey(near="10.0.0.1", far="172.16.0.7", here=None, looped="127.0.0.1"), OURS)
    told = {n: [p.subject for p in h.problems] for n, h in found.actual.hives.items() if isinstance(h, HiveActual)}
    assert told == {"near": [], "far": ["hives.far"], "here": [], "looped": []}
    far = found.actual.hives["far"]
    assert isinstance(far, HiveActual)
    assert "172.16.0.7" in far.problems[0].detail and "queen.advertise" in far.problems[0].mend


@pytest.mark.parametrize("said", [spec(advertise="10.0.0.1"), spec(listen="0.0.0.0:7833")])
def test_who_says_where_the_queen_is_is_believed(said: Spec) -> None:
    before = survey(far="172.16.0.7")
    assert without_cut_off(said, before, OURS) == before


def test_the_queen_binds_only_what_is_hers() -> None:
    queen = QueenConfig(fleet="home", fleet_listen=("10.0.0.1:7833", "172.16.0.7:7833"), token_file="/t")
    kept, problems = bindable(spec(), queen, OURS)
    assert kept.fleet_listen == ("10.0.0.1:7833",)
    assert problems == []


def test_an_advertised_address_that_is_not_ours_is_told() -> None:
    queen = QueenConfig(fleet="home", fleet_listen=("203.0.113.5:7833",), token_file="/t")
    kept, [problem] = bindable(spec(advertise="203.0.113.5"), queen, OURS)
    assert kept.fleet_listen == ()
    assert problem.subject == "queen" and "203.0.113.5" in problem.summary
