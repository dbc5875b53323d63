# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies: who they are for, what they say, and that one which fails is as though it were not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters.yaml_nodes import parse
from rbee.adapters.yaml_source import YamlFiles
from rbee.core.policy import Fault, Policy, PolicyFailed, Ruling
from rbee.core.problems import Problem, ProblemsError
from rbee.core.spec import PolicySpec
from rbee.fleet.load import load


@dataclass
class Says:
    """An expression that a function stands for."""

    value_of: Callable[[Mapping[str, Any]], Any]
    names: tuple[str, ...] = ("worker.id",)

    def value(self, facts: Mapping[str, Any]) -> Any:
        assert set(facts) == set(self.names)
        return self.value_of(facts)


def failing(facts: Mapping[str, Any]) -> Any:
    raise PolicyFailed("no such key")


def ruling(
    *policies: Policy,
    name: str = "m",
    clock: Callable[[], float] = lambda: 0.0,
    watch: Callable[[], float] | None = None,
    **more: Any,
) -> Ruling:
    return Ruling(
        policies=policies,
        name=name,
        request={"request.model": name},
        look=lambda worker, field, affine: {"id": worker, "affine": affine}[field],
        clock=clock,
        watch=watch or clock,
        **more,
    )


def workers(*names: str) -> list[tuple[Any, str, bool]]:
    return [(n, "m", False) for n in names]


def test_filters_all_hold_and_scores_add() -> None:
    first = Policy(name="first", filter=Says(lambda f: f["worker.id"] != "a"), score=Says(lambda f: 2))
    second = Policy(name="second", filter=Says(lambda f: f["worker.id"] != "b"), score=Says(lambda f: 0.5))
    rules = ruling(first, second, Policy(name="nothing"))
    assert rules.excluded(workers("a", "b", "c")) == {0: "first", 1: "second"}
    assert rules.terms(workers("a", "b")) == [{"first": 2.0, "second": 0.5}] * 2
    assert rules.rejected(("m",)) is None
    assert rules.notes == []


def test_what_is_said_of_the_request_alone_is_asked_once() -> None:
    asked: list[str] = []

    def no(facts: Mapping[str, Any]) -> bool:
        asked.append(facts["request.model"])
        return False

    of_request = Says(no, ("request.model",))
    rules = ruling(Policy(name="p", models=("m",), filter=of_request), name="gpt")
    assert rules.excluded([*workers("a", "b"), ("c", "n", False)]) == {0: "p", 1: "p"}
    assert asked == ["gpt"]


def test_what_a_policy_looks_at() -> None:
    policy = Policy(
        name="p", filter=Says(bool), score=Says(bool, ("worker.load",)), reject=Says(bool, ("request.key",))
    )
    assert policy.names == {"worker.id", "worker.load", "request.key"}


def test_who_a_policy_is_for() -> None:
    every, model, alias = Policy(name="e"), Policy(name="m", models=("m",)), Policy(name="a", models=("gpt",))
    for name, models, asked, rejects in (
        ("m", ("m",), (True, True, False), (True, True, False)),
        ("gpt", ("m", "n"), (True, True, True), (True, True, True)),
        ("gpt", ("n", "m"), (True, True, True), (True, False, True)),
        ("other", ("n",), (True, False, False), (True, False, False)),
    ):
        assert tuple(p.asked(name, models) for p in (every, model, alias)) == asked
        assert tuple(p.rejects(name, models) for p in (every, model, alias)) == rejects


def test_a_model_s_policy_is_for_workers_of_that_model_an_alias_one_for_all() -> None:
    no = Says(lambda f: False)
    asked = [("a", "m", False), ("b", "n", False)]
    assert ruling(Policy(name="p", models=("m",), filter=no), name="gpt").excluded(asked) == {0: "p"}
    assert ruling(Policy(name="p", models=("gpt",), filter=no), name="gpt").excluded(asked) == {0: "p", 1: "p"}
    score = Policy(name="p", models=("n",), score=Says(lambda f: 1))
    assert ruling(score, name="gpt").terms(asked) == [{}, {"p": 1.0}]


def test_refusing_a_request() -> None:
    of_request = Says(lambda f: f["request.model"] == "m", ("request.model",))
    assert ruling(Policy(name="p", reject=of_request, reason="Not here.")).rejected(("m",)) == ("p", "Not here.")
    refused = ruling(Policy(name="p", reject=of_request)).rejected(("m",))
    assert refused == ("p", "The policy 'p' refuses this request.")
    assert ruling(Policy(name="p", reject=of_request), name="x").rejected(("x",)) is None
    assert ruling(Policy(name="p", models=("m",), reject=of_request), name="m2").rejected(("n", "m")) is None


def test_who_has_a_say_about_workers() -> None:
    says = Says(lambda f: True)
    assert not ruling(Policy(name="p", reject=says)).of_workers
    assert ruling(Policy(name="p", reject=says), Policy(name="q", filter=says)).of_workers
    assert ruling(Policy(name="p", score=says)).of_workers


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (failing, "no such key"),
        (lambda f: 1, "gave '1' instead of true or false"),
        (lambda f: "x" * 500, f"gave '{'x' * 80}' instead of true or false"),
    ],
)
def test_one_that_fails_is_out_for_all_workers_and_for_the_rest_of_the_request(
    value: Callable[[Mapping[str, Any]], Any], why: str
) -> None:
    told: list[tuple[str, str]] = []
    policy = Policy(
        name="p", filter=Says(lambda f: False if f["worker.id"] == "a" else value(f)), score=Says(lambda f: 1)
    )
    other = Policy(name="q", filter=Says(lambda f: f["worker.id"] != "c"))
    rules = ruling(policy, other, failed=lambda name, why: told.append((name, why)))
    assert rules.excluded(workers("a", "b", "c")) == {2: "q"}
    assert rules.terms(workers("a")) == [{}]
    assert rules.excluded(workers("a", "b")) == {}
    assert told == [("p", f"filter: {why}")]
    assert rules.notes == [f"The policy 'p' was left out: its filter: {why}."]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", None])
def test_a_score_is_a_finite_number(value: Any) -> None:
    rules = ruling(Policy(name="p", score=Says(lambda f: value)))
    assert rules.terms(workers("a")) == [{}]
    assert rules.out == {"p"}


def test_a_policy_that_takes_too_long_is_left_out() -> None:
    now = [0.0]

    def slow(facts: Mapping[str, Any]) -> bool:
        now[0] += 0.002
        return False

    rules = ruling(Policy(name="p", filter=Says(slow, ("worker.affine",))), clock=lambda: now[0])
    assert rules.excluded(workers("a", "b")) == {0: "p", 1: "p"}
    assert rules.excluded(workers("a", "b", "c")) == {}
    assert rules.notes == ["The policy 'p' was left out: its filter: took longer than 5 ms."]


def test_a_policy_is_not_left_out_because_the_machine_was_busy_with_others() -> None:
    by_watch, by_processor = [0.0], [0.0]

    def interrupted(facts: Mapping[str, Any]) -> bool:
        by_watch[0] += 10.0
        by_processor[0] += 0.00001
        return False

    rules = ruling(
        Policy(name="p", filter=Says(interrupted, ("worker.affine",))),
        clock=lambda: by_processor[0],
        watch=lambda: by_watch[0],
    )
    assert set(rules.excluded(workers(*"abcdefgh"))) == set(range(8))
    assert not rules.notes


# In the file.

HEAD = "version: 1\nfleet: home\nhives: {here: {labels: {power: quiet}}, far: {ssh: far}}\n"
HEAD += "models: {m: {source: 'builtin:bee-tiny'}}\naliases: {gpt: m}\n"


def compiler(name: str, spec: PolicySpec) -> tuple[Policy | None, Sequence[Fault]]:
    """Knows no expression with `bad` in it."""
    faults = [
        Fault(field=what, summary=f"bad {what}.", offset=text.index("bad"), detail="Why.", mend="How.")
        for what in ("filter", "score", "reject")
        if "bad" in (text := getattr(spec, what) or "")
    ]
    return (None if faults else Policy(name=name)), faults


def told(tmp_path: Path, policies: str, compile: Any = compiler) -> list[str]:
    file = tmp_path / "rbee.yaml"
    file.write_text(HEAD + "policies:\n" + policies)
    found: Sequence[Problem]
    try:
        found = load(file, {}, files=YamlFiles(), home=Path("/home/bee"), compile=compile).warnings
    except ProblemsError as e:
        found = e.problems
    return [f"{p.where.line}:{p.where.column} {p.severity}: {p.summary} {p.mend}" for p in found if p.where]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  p: {filter: x bad}", ["7:17 error: bad filter. How."]),
        ("  p: {filter: 'x bad'}", ["7:18 error: bad filter. How."]),
        ('  p: {score: "bad"}', ["7:15 error: bad score. How."]),
        ('  p: {score: "\\x62ad"}', ["7:14 error: bad score. How."]),
        ("  p:\n    reject: |\n      true &&\n\n      bad", ["11:7 error: bad reject. How."]),
        ("  p:\n    reject: >-\n      true\n      && bad", ["10:10 error: bad reject. How."]),
        ("  p:\n    reject: bad\n    filter: bad", ["8:13 error: bad reject. How.", "9:13 error: bad filter. How."]),
        ("  p:\n    score: one\n      + bad", ["9:9 error: bad score. How."]),
        ("  p: {filter: x, models: [gpt, m, n]}", ["7:35 error: There is no model or alias 'n'. Known: gpt, m."]),
        ("  p:", ["7:3 warning: The policy 'p' does nothing. Say `filter`, `score` or `reject`."]),
        ("  p: {score: x, reason: y}",
         ["7:25 warning: The policy 'p' has a `reason` and rejects nothing. Add `reject`."]),
        ("  p: {filter: 'worker.labels.power == 1', reject: x, reason: y}",
         ["7:16 warning: Not every hive has the label 'power': far has none. "
          "Ask first: `has(worker.labels.power) && ...`."]),
        ("  p: {score: \"worker.labels['no'] + worker.labels['no']\"}",
         ["7:15 warning: Not every hive has the label 'no': far, here has none. "
          "Ask first: `'no' in worker.labels && ...`."]),
        ("  p: {filter: 'has(worker.labels.power) && worker.labels.power == 1'}", []),
        ("  p: {filter: \"'power' in worker.labels && worker.labels.power == 1\"}", []),
        ("  warm: {score: x}", ["7:3 error: 'warm' is the name of a term of routing's own. Rename the policy."]),
        ("  warm: {filter: x}", []),
        ("  p: {filter: 3}", ["7:15 error: `policies.p.filter` must be a text, not 3. Put it in quotes: \"3\"."]),
    ],
)  # fmt: skip
def test_problems_have_their_place(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert told(tmp_path, text) == expected


def test_without_a_library_nothing_is_said_of_expressions(tmp_path: Path) -> None:
    assert told(tmp_path, "  p: {filter: bad}", compile=None) == []


def test_a_place_in_a_text_is_its_beginning_where_it_was_written_otherwise() -> None:
    text = "a: &x 'ab'\nb: [1, 'two words']\nc: |\n  one\nd: '${env.X}!'\ne: ''\nf: x\ng: |"
    document = parse(text, "f", {"X": "y"})

    def place(path: tuple[str | int, ...], offset: int) -> tuple[int, int]:
        where = document.within(path, offset)
        return where.line, where.column

    assert place(("a",), 1) == (1, 4)
    assert place(("b", 1), 4) == (2, 13)
    assert place(("b", 1), 3) == (2, 12)
    assert place(("b", 0), 1) == (2, 5)
    assert place(("b", 7), 1) == (2, 4)
    assert place(("gone", "x"), 0) == (1, 1)
    assert place(("c",), 4) == (4, 6)
    assert place(("d",), 1) == (5, 4)
    assert place(("e",), 0) == (6, 4)
    assert place(("f",), 1) == (7, 5)
    assert place(("f",), 0) == (7, 4)
    assert place(("g",), 0) == (8, 4)
