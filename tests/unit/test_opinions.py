# SPDX-License-Identifier: GPL-3.0-or-later
"""What policies said before: it comes to the same choice as asking them, and is never of other facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.contracts.decisions import DecisionRecord
from rbee.contracts.openai import Peek
from rbee.core.deciding import route
from rbee.core.errors import RbeeError
from rbee.core.opinions import Listening, Opinion, Repeating, recalled
from rbee.core.policy import Policy, PolicyFailed, Ruling
from rbee.core.routing import Needs
from rbee.core.spec import PolicySpec
from rbee.daemons.queen.admission.clients import Client
from rbee.daemons.queen.routing.plans import MOST_OPINIONS, MOST_PASSED, Plan
from tests.unit.test_routing import CHAT, NOW, REQUESTS, STALE, W, some
from tests.unit.test_routing_router import Fleet, request

FACTS = ("worker.busy", "worker.slots", "worker.affine")
Heard = dict[tuple[object, ...], Opinion]


class Says:
    """An expression that a function stands for, which counts how often it is asked."""

    def __init__(self, value_of: Callable[[Mapping[str, Any]], Any], *names: str) -> None:
        self.value_of, self.names, self.asked = value_of, names, 0

    def value(self, facts: Mapping[str, Any]) -> Any:
        self.asked += 1
        return self.value_of(facts)


def look(worker: W, name: str, affine: bool) -> Any:
    return {"busy": worker.in_flight + worker.foreign, "slots": worker.slots, "affine": affine}[name]


def ruling(*policies: Policy) -> Ruling:
    return Ruling(policies=policies, name="m", request={}, look=look, clock=lambda: 0.0, watch=lambda: 0.0)


def facts_of(worker: W, model: str, affine: bool) -> tuple[object, ...]:
    return model, look(worker, "busy", affine), worker.slots, affine


#: One with a filter and a score, one for a model only: what they say depends on all of the facts.
POLICIES = (
    Policy(
        name="first",
        filter=Says(lambda f: (f["worker.busy"] + f["worker.slots"]) % 5 != 0, *FACTS),
        score=Says(lambda f: f["worker.busy"] * 0.3 - f["worker.affine"] * 0.7, *FACTS),
    ),
    Policy(
        name="second",
        models=("big",),
        filter=Says(lambda f: f["worker.slots"] != 3, *FACTS),
        score=Says(lambda f: f["worker.slots"] / 7, *FACTS),
    ),
)


@given(some(), some(), REQUESTS, st.sets(st.sampled_from([f"w{i}" for i in range(8)])), st.integers(0, 9))
def test_recalled_and_asked_it_is_the_same_choice(
    big: list[W], small: list[W], needs: Needs, tried: set[str], favourite: int
) -> None:
    for n, worker in enumerate(small):
        worker.worker_id = f"s{n}"
    groups = {"big": big, "small": small}
    every = [*big, *small]
    affine = (every[favourite].worker_id,) if favourite < len(every) else ()
    told = dict.fromkeys(tried, "tried")
    known: Heard = {}

    def recall(worker: W, model: str, affine: bool) -> Opinion | None:
        return known.get(facts_of(worker, model, affine))

    def quick() -> Any:
        return recalled(list(groups.items()), needs, NOW - STALE, told, affine, recall)

    listening = Listening(ruling(*POLICIES))
    slow = route(groups, needs, NOW, STALE, tried=told, affine=affine, judge=listening)
    if any(True for _ in listening.heard()):
        assert quick() is None, "nothing is known yet"
    for worker, model, is_affine, opinion in listening.heard():
        before = known.get(facts_of(worker, model, is_affine))
        if before is None or before.terms is None:
            known[facts_of(worker, model, is_affine)] = opinion
    found = quick()
    assert found is not None
    assert found[0] is slow.chosen
    # And told afterwards, it has the same reasons.
    repeating = Repeating({w.worker_id: said for w, said in found[1]})
    again = route(groups, needs, NOW, STALE, tried=told, affine=affine, judge=repeating)
    if slow.model == "big":  # of workers alike in a later model, one may have been asked for its score, another not
        assert again == slow


def test_one_that_was_never_asked_for_its_score_has_to_be() -> None:
    said = Opinion(None, None)
    free, full = W("a"), W("b", in_flight=4)
    assert recalled([("m", [full])], Needs(), NOW - STALE, {}, (), lambda *_: said) == (None, [(full, said)])
    assert recalled([("m", [free])], Needs(), NOW - STALE, {}, (), lambda *_: said) is None


def test_of_a_worker_that_nobody_spoke_of_nothing_is_repeated() -> None:
    known, unknown = W("a"), W("b")
    workers = [(known, "m", False), (unknown, "m", False)]
    repeating = Repeating({"a": Opinion("p", {})})
    assert repeating.excluded(workers) == {0: "p"}
    assert Repeating({"a": Opinion(None, {"p": 1.0})}).terms(workers) == [{"p": 1.0}, {}]


# With the router.


def fleet_of(*workers: str, **policies: Policy) -> Fleet:
    def compile(name: str, spec: PolicySpec) -> tuple[Policy, Sequence[Any]]:
        return policies[name], ()

    specs: dict[str, Any] = {name: PolicySpec(score="x") for name in policies}
    return Fleet(*workers, compile=compile, **specs)


def told(fleet: Fleet, number: int, **more: Any) -> DecisionRecord:
    """The decision of one request, as it is explained."""
    asked = request(number, **more)
    fleet.router.admit(asked)
    worker = fleet.router.choose(asked)
    fleet.router.note(asked, "sent", "", worker)
    return fleet.router.explain(asked.request_id)


def alike(record: DecisionRecord) -> tuple[Any, ...]:
    return record.reason, record.worker_id, [(c.id, c.excluded, c.terms) for c in record.candidates], record.notes


def test_policies_are_asked_once_for_the_same_facts_and_explained_alike() -> None:
    score = Says(lambda f: 5.0 if f["worker.id"] == "b" else 1.0, "worker.id", "worker.busy")
    fleet = fleet_of(
        "a", "b", "c", p=Policy(name="p", score=score, filter=Says(lambda f: f["worker.id"] != "c", "worker.id"))
    )
    first = told(fleet, 1)
    assert (first.worker_id, score.asked) == ("b", 2)
    again = told(fleet, 2)
    assert (alike(again), score.asked) == (alike(first), 2)
    fleet.registry.workers["b"].in_flight = 1
    assert told(fleet, 3).worker_id == "b"
    assert score.asked == 4, "of b it had to be asked, and then all were"
    fleet.registry.workers["b"].in_flight = 2
    assert told(fleet, 4).worker_id == "a"


def test_of_many_workers_only_those_that_are_shown_are_kept() -> None:
    names = [f"w{n:02}" for n in range(20)]
    fleet = fleet_of(*names, p=Policy(name="p", score=Says(lambda f: int(f["worker.id"][1:]), "worker.id")))
    first, again = told(fleet, 1), told(fleet, 2)
    assert first.worker_id == again.worker_id == "w19"
    assert (len(again.candidates), again.others) == (len(first.candidates), first.others) == (16, 4)
    assert [(c.id, c.terms) for c in again.candidates] == [(c.id, c.terms) for c in first.candidates]


def test_what_a_policy_says_of_the_request_is_not_said_of_another() -> None:
    filtering = Says(lambda f: f["request.key"] == "vip" or f["worker.id"] == "a", "request.key", "worker.id")
    fleet = fleet_of(
        "a",
        "b",
        p=Policy(name="p", filter=filtering, score=Says(lambda f: (f["worker.id"] == "b" and 1) or 0, "worker.id")),
    )
    for number in (1, 3):
        assert told(fleet, number, client=Client(name="vip")).worker_id == "b"
        assert told(fleet, number + 1, client=Client(name="other")).worker_id == "a"
    assert filtering.asked == 4


def test_a_policy_that_looks_at_headers_is_asked_for_each_request() -> None:
    filtering = Says(lambda f: f["request.headers"].get("x-a") == "1", "request.headers")
    looking = Says(lambda f: "x" not in f["worker.labels"], "worker.labels")
    for policy, count in ((Policy(name="p", filter=filtering), 2), (Policy(name="p", filter=looking), 2)):
        fleet = fleet_of("a", p=policy)
        assert [told(fleet, n, headers={"X-A": "1"}).worker_id for n in (1, 2)] == ["a", "a"]
        assert isinstance(policy.filter, Says)
        assert policy.filter.asked == count


def test_nothing_is_learnt_of_a_policy_that_failed() -> None:
    bad = [True]

    def score(facts: Mapping[str, Any]) -> float:
        if bad:
            raise PolicyFailed("not now")
        return 9.0 if facts["worker.id"] == "b" else 1.0

    fleet = fleet_of("a", "b", p=Policy(name="p", score=Says(score, "worker.id")))
    assert told(fleet, 1).notes == ("The policy 'p' was left out: its score: not now.",)
    bad.clear()
    second = told(fleet, 2)
    assert (second.worker_id, second.notes) == ("b", ())
    assert alike(told(fleet, 3)) == alike(second)


def test_one_that_failed_at_admission_is_out_for_the_rest_of_its_request() -> None:
    def reject(facts: Mapping[str, Any]) -> bool:
        if facts["request.max_tokens"] == 1:
            raise PolicyFailed("odd")
        return bool(facts["request.max_tokens"] == 2)

    policy = Policy(
        name="p",
        reject=Says(reject, "request.max_tokens", "request.stream"),
        score=Says(lambda f: (f["worker.id"] == "b" and 1) or 0, "worker.id"),
    )
    fleet = fleet_of("a", "b", p=policy)
    assert told(fleet, 1).worker_id == told(fleet, 2).worker_id == "b"
    assert isinstance(policy.reject, Says)
    assert policy.reject.asked == 1, "it let such a request pass"
    failed = told(fleet, 3, peek=Peek(model="m", max_tokens=1))
    assert (failed.worker_id, failed.notes) == ("a", ("The policy 'p' was left out: its reject: odd.",))
    for number in (4, 5):
        with pytest.raises(RbeeError):
            told(fleet, number, peek=Peek(model="m", max_tokens=2))


def test_memory_has_an_end() -> None:
    plan = Plan(
        (Policy(name="p", reject=Says(bool, "request.messages"), score=Says(bool, "worker.busy", "request.messages")),),
        "m",
        ("m",),
    )
    worker = Fleet("a").registry.workers["a"]
    for number in range(max(MOST_OPINIONS, MOST_PASSED) + 2):
        asked = request(peek=Peek(model="m", messages=number))
        plan.let_pass(asked)
        plan.learn(asked, [(worker, "m", False, Opinion(None, {}))])
        plan.learn(asked, [(worker, "m", False, Opinion(None, None))])  # another such worker has no free slot
        assert plan.passed(asked)
        recall = plan.recall(asked)
        assert recall is not None
        assert recall(worker, "m", False) == Opinion(None, {})
    assert not plan.passed(request(peek=Peek(model="m", messages=0)))
    forgotten = plan.recall(request(peek=Peek(model="m", messages=0)))
    assert forgotten is not None
    assert forgotten(worker, "m", False) is None
    headers = Plan((Policy(name="p", reject=Says(bool, "request.headers")),), "m", ("m",))
    headers.let_pass(request())
    assert not headers.passed(request())


def test_the_best_of_those_that_were_spoken_of_is_chosen_whichever_comes_first() -> None:
    good, bad = W("good"), W("bad")
    said = {"good": Opinion(None, {"p": 2.0}), "bad": Opinion(None, {"p": 1.0})}
    for workers in ([good, bad], [bad, good]):
        found = recalled([("m", workers)], Needs(), NOW - STALE, {}, (), lambda w, *_: said[w.worker_id])
        assert found is not None
        assert found[0] is good


def test_the_one_that_knows_the_beginning_is_chosen_unless_it_is_too_busy() -> None:
    said = Opinion(None, {})
    other = W("a")
    for busy, chosen in ((2, "b"), (3, "a")):
        knows = W("b", in_flight=busy)
        found = recalled([("m", [other, knows])], Needs(), NOW - STALE, {}, ("b",), lambda *_: said)
        assert found is not None
        assert found[0] is not None
        assert found[0].worker_id == chosen


def test_those_that_cannot_do_not_count_and_a_context_that_is_likely_too_short_only_for_want_of_another() -> None:
    said = Opinion(None, {})
    away, short, long = W("away", unreachable="x"), W("short", context_length=100), W("long", in_flight=3)
    needs = Needs(CHAT, size=1000)
    for workers, chosen in (([away, short, long], long), ([away, short], short), ([away], None)):
        found = recalled([("m", workers)], needs, NOW - STALE, {}, (), lambda *_: said)
        assert found is not None
        assert found[0] is chosen
