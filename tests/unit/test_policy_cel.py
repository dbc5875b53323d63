# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies in CEL: what compiles, what is said of what does not, what it may cost."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from rbee.adapters import cel, cel_tree, cel_words
from rbee.core.policy import Expression, Fault, PolicyFailed
from rbee.core.spec import PolicySpec

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the library wants Python 3.11")

FACTS: dict[str, Any] = {
    "request.model": "llama",
    "request.models": ["llama"],
    "request.stream": True,
    "request.max_tokens": 0,
    "request.headers": {"x-tier": "gold"},
    "worker.id": "w1",
    "worker.busy": 1,
    "worker.slots": 4,
    "worker.load": 0.25,
    "worker.labels": {"region": "eu"},
    "worker.capabilities": ["tools"],
}


def spec(field: str, text: str) -> PolicySpec:
    said: dict[str, Any] = {field: text}
    return PolicySpec(**said)


def expression(text: str, field: str = "filter") -> Expression:
    policy, faults = cel.compile_policy("p", spec(field, text))
    assert policy is not None, faults
    found = getattr(policy, field)
    assert isinstance(found, cel.Compiled)
    return found


def value(text: str, field: str = "filter") -> Any:
    made = expression(text, field)
    return made.value({n: FACTS[n] for n in made.names})


def faults(text: str, field: str = "filter") -> list[Fault]:
    policy, found = cel.compile_policy("p", spec(field, text))
    assert policy is None
    assert {f.field for f in found} == {field}
    return list(found)


def test_the_library_is_here() -> None:
    assert cel.compiler() is cel.compile_policy


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("worker.busy < worker.slots && worker.labels.region == 'eu'", True),
        ("has(worker.labels.power) && worker.labels.power == 'quiet'", False),
        ("worker.labels.?power.orValue('loud') == 'loud'", True),
        ("'tools' in worker.capabilities && request.headers['x-tier'] == 'gold'", True),
        ("worker.capabilities.exists(c, c.startsWith('t')) || worker.id.matches('^w[0-9]$')", True),
        ("request.max_tokens > 8192", False),
        ("{'a': [worker.busy]}.size() == 1", True),
        ("dyn(worker.id) == 'w1'", True),
    ],
)
def test_filters(text: str, wanted: bool) -> None:
    assert value(text) is wanted


def test_scores() -> None:
    assert value("-worker.busy", "score") == -1
    assert value("1.0 - worker.load", "score") == 0.75
    assert value("double(worker.busy) / double(worker.slots)", "score") == 0.25
    assert value("math.greatest(worker.busy, 3)", "score") == 3
    assert value("request.stream ? 2.5 : 0.0", "score") == 2.5


def test_it_says_what_it_looks_at() -> None:
    made = expression("worker.capabilities.exists(c, c == request.model) && worker.labels.region == 'eu'")
    assert set(made.names) == {"worker.capabilities", "request.model", "worker.labels"}


@pytest.mark.parametrize(
    ("text", "offset", "summary", "mend"),
    [
        ("worker.bsuy > 1", 7, "`worker` has no 'bsuy'.", "Did you mean 'busy'?"),
        ("true &&\n worker.lables.x == 'a'", 16, "`worker` has no 'lables'.", "Did you mean 'labels'?"),
        ("wrker.busy > 1", 0, "There is no 'wrker'.", "Did you mean 'worker'?"),
        ("'é' == wroker.id", 7, "There is no 'wroker'.", "Did you mean 'worker'?"),
        ("worker == 1", 0, "`worker` is no value by itself.", "It has: id, hive, model"),
        ("request['model'] == 'x'", 0, "`request` is no value by itself.", "It has: model, models"),
        ("worker.id.matchs('x')", 10, "There is no function 'matchs'.", "Did you mean 'matches'?"),
        ("matchs(worker.id, 'x')", 0, "There is no function 'matchs'.", "Did you mean 'matches'?"),
        ("worker.busy == 'a'", 12, "`==` does not take int and string.", "A text is in quotes, a number is not"),
        ("worker.load * 100 < 5.0", 12, "`*` does not take double and int.", "CEL does not mix whole numbers"),
        ("worker.busy && true", 12, "`&&` does not take int and bool.", ""),
        ("worker.id ? true : false", 10, "`? :` does not take string and bool and bool.", ""),
        ("worker.labels.x.y == 'a'", 15, "expression of type 'string' cannot be the operand", ""),
        ("worker.busy = 1", 12, "'=' cannot stand here.", "Write == to compare."),
        ("worker.busy > 1 and true", 16, "'and' cannot stand here.", "Write &&."),
        ("worker.busy ==", 14, "The expression ends too early.", "Is a bracket still open"),
        ("(" * 100, 0, "The expression is nested too deeply.", ""),
        ("1" + "+1" * 600, 0, "The expression is nested too deeply.", "Split the policy"),
        ("worker.busy", 0, "`filter` must give true or false; this gives int.", "Compare it with something"),
        (" ", 0, "The expression is empty.", "Remove it, or write one."),
        ("true ||" * 300 + "true", 0, "The expression has 2104 characters.", "At most 2000"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, offset: int, summary: str, mend: str) -> None:
    first = faults(text)[0]
    assert (first.offset, first.summary[: len(summary)]) == (offset, summary)
    assert first.mend.startswith(mend)


def test_a_score_is_a_number_and_a_request_is_refused_for_itself() -> None:
    assert faults("worker.id", "score")[0].summary == "`score` must give a number; this gives string."
    refused = faults("request.stream && worker.busy > 1", "reject")[0]
    assert (refused.offset, refused.mend) == (18, "Use `filter` for workers.")
    assert value("request.model == 'llama'", "reject") is True


def test_all_places_are_told_at_once() -> None:
    assert [f.offset for f in faults("worker.a > 1 || worker.b > 1")] == [7, 23]
    policy, found = cel.compile_policy("p", PolicySpec(filter="x", score="y", reject="z"))
    assert policy is None
    assert [f.field for f in found] == ["filter", "score", "reject"]


@pytest.mark.parametrize(
    "text",
    [
        "[[1]].all(x, x.all(y, y > 1))",
        "[worker.id].map(a, a + a).map(b, b + b).size() > 1",
        "[worker.id].exists(a, [a].map(b, b + b).size() > 1)",
        "optional.of(worker.id).optMap(a, a + a).optMap(b, b + b).hasValue()",
        "{'a': [1].map(x, [x].map(y, y))}.size() > 0",
        "(true ? [worker.id].map(a, a + a) : [worker.id]).exists(b, b == 'x')",
    ],
)
def test_what_would_grow_with_each_step_is_refused(text: str) -> None:
    assert faults(text)[0].summary == "A comprehension stands in another, or on the result of another."


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("request.headers['x-p']", "takes a pattern that is written out, not one that is computed"),
        ("'a' + request.model", "takes a pattern that is written out, not one that is computed"),
        (f"'{'a' * 101}'", "has a pattern of 101 characters; at most 100"),
        ("'((a{0,30}){30}){,2}b'", "repeats 1800 times; at most 100"),
    ],
)
def test_a_pattern_is_short_and_written_out(pattern: str, why: str) -> None:
    for text in (f"request.model == 'x' || worker.id.matches({pattern})", f"true || matches(worker.id, {pattern})"):
        (fault,) = faults(text)
        assert fault.summary == f"`matches` {why}."
        assert text[fault.offset :].startswith("matches")
    assert value("worker.id.matches('^w[0-9]{1,9}$')") is True


def test_several_side_by_side_are_fine_but_not_any_number() -> None:
    one = "worker.capabilities.exists(c, c == 'x')"
    assert value(" || ".join([one] * 8)) is False
    assert faults(" || ".join([one] * 9))[0].summary == "9 comprehensions; at most 8."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("worker.labels.power == 'quiet'", 'there is no key "power"; ask with has(...) first'),
        ("request.models[7] == 'x'", "Index error: index=7 size=1"),
        ("worker.slots / (worker.busy - 1) > 1", "divide by zero"),
        ("worker.id.matches('(')", "invalid regular expression"),
    ],
)
def test_what_fails_while_it_runs_says_why(text: str, why: str) -> None:
    with pytest.raises(PolicyFailed) as e:
        value(text)
    assert str(e.value).startswith(why)


def test_facts_that_are_missing_or_of_another_type_fail_too() -> None:
    made = expression("worker.busy > 1")
    for facts in ({}, {"worker.busy": "x"}, {"worker.busy": (1,)}, {"worker.busy": None}):
        with pytest.raises(PolicyFailed):
            made.value(facts)


def test_what_was_said_before_counts_for_the_same_facts_alone() -> None:
    busy = expression("worker.busy * 2", "score")
    for _ in range(2):  # more of them than are remembered
        for number in range(2 * cel.REMEMBERED):
            assert busy.value({"worker.busy": number}) == 2 * number
    assert isinstance(busy, cel.Compiled)
    assert 0 < busy.remembered <= cel.REMEMBERED
    labels = expression("worker.labels['region'] == 'eu' && worker.slots > 1")
    for region in ("eu", "us", "eu"):
        assert labels.value({"worker.labels": {"region": region}, "worker.slots": 4}) is (region == "eu")
    assert isinstance(labels, cel.Compiled)
    assert labels.remembered == 0


def test_hostile_bytes_are_no_tree() -> None:
    for data in (b"\x12\xff", b"\x0b", b"\xff" * 20, b"\x12\x05a"):
        with pytest.raises(ValueError, match=r"field|number"):
            cel_tree.read(data)
    assert cel_tree.read(b"\x12\x00\x0d\x00\x00\x00\x00") == cel_tree.Tree(names=(), depth=0, comprehensions=0)


def test_words_for_what_the_library_may_say_yet() -> None:
    assert cel_words.other("") == "It cannot be read."
    assert cel_words.other("CANCELLED: What now. [CANCELLED]") == "What now."
    assert cel_words.refusal("some news.", "x", 0, (), "filter") == ("some news.", "", 0)
