# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's router without a network: what it keeps, how much of it, and what it leaves alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from rbee.contracts.configs import QueenConfig
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.contracts.openai import Peek
from rbee.core.errors import InvalidRequest, NotFound, RbeeError
from rbee.core.policy import Fault, Policy, PolicyFailed
from rbee.core.spec import PolicySpec
from rbee.daemons.queen.admission.clients import Client
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.front.incoming import Headers
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing import decisions
from rbee.daemons.queen.routing.facts import look, own_headers, request_facts, shown
from rbee.daemons.queen.routing.router import Router, may_again


class Fleet:
    """A registry and its router on a clock of the test."""

    def __init__(self, *names: str, model: str = "m", compile: Any = None, **specs: PolicySpec) -> None:
        self.now = 100.0
        self.registry = Registry(lambda: self.now, stale_after=90.0)
        self.config = QueenConfig(fleet="f", policies=specs)
        self.router = Router(
            self.registry, self.config, lambda: self.now, compile=compile, wall=lambda: 1_767_225_600.5
        )
        for name in names:
            self.add(name, model=model)

    def add(self, name: str, **changes: Any) -> Worker:
        said: dict[str, Any] = {
            "worker_id": name,
            "hive_id": "h",
            "model": "m",
            "engine": "e",
            "worker_type": "cpu",
            "device": "cpu",
            "url": f"http://127.0.0.1:{9000 + len(self.registry.workers)}",
            "status": "ready",
            "slots": 2,
        }
        worker = self.registry.heartbeat(WorkerHeartbeat(**{**said, **changes}))
        assert isinstance(worker, Worker)
        return worker

    def choose(self, asked: Asked) -> str | None:
        worker = self.router.choose(asked)
        return worker.worker_id if worker is not None else None


def request(number: int = 0, *, prefix: int | None = None, models: Sequence[str] = ("m",), **more: Any) -> Asked:
    said: dict[str, Any] = {
        "request_id": f"r{number}",
        "path": "/v1/chat/completions",
        "name": "m",
        "models": tuple(models),
        "peek": Peek(model="m", prefix=prefix),
        "size": 100,
        "client": Client(),
        "headers": {},
        "arrived": 0.0,
        "ends": None,
    }
    return Asked(**{**said, **more})


def test_only_the_last_decisions_are_kept() -> None:
    fleet = Fleet("a")
    for number in range(decisions.MOST_DECISIONS + 5):
        asked = request(number)
        fleet.router.note(asked, "sent", "", fleet.router.choose(asked))
    assert len(fleet.router.decisions) == decisions.MOST_DECISIONS
    with pytest.raises(NotFound):
        fleet.router.explain("r4")
    assert fleet.router.explain("r5").at == "2026-01-01T00:00:00.500Z"
    assert [d.request_id for d in fleet.router.decisions.recent(2)] == ["r2003", "r2004"]
    # A later note of the same request replaces the one before.
    fleet.router.note(request(7), "refused", "Because.", None)
    assert fleet.router.explain("r7").reason == "Because."
    assert len(fleet.router.decisions) == decisions.MOST_DECISIONS


def test_only_the_last_beginnings_are_remembered() -> None:
    fleet = Fleet("a", "b")
    first = fleet.choose(request(prefix=0))
    for number in range(1, 20_000):
        fleet.router.choose(request(number, prefix=number))
    assert fleet.choose(request(prefix=0)) == first
    fleet.router.choose(request(prefix=20_000))
    fleet.router.choose(request(prefix=20_001))
    asked = request(prefix=1)
    fleet.router.note(asked, "sent", "", fleet.router.choose(asked))
    assert not any(c.affine for c in fleet.router.explain("r0").candidates)
    asked = request(prefix=0)
    fleet.router.note(asked, "sent", "", fleet.router.choose(asked))
    assert [c.id for c in fleet.router.explain("r0").candidates if c.affine] == [first]


def test_a_decision_tells_how_it_was_then() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.workers["a"].in_flight = 1
    asked = request()
    worker = fleet.router.choose(asked)
    assert worker is not None
    worker.in_flight += 2
    fleet.router.note(asked, "sent", "", worker)
    fleet.registry.forget("a")
    found = fleet.router.explain("r0")
    assert {c.id: (c.busy, c.load, c.terms) for c in found.candidates} == {
        "a": (1, 0.5, {"load": -0.5}),
        "b": (0, 0.0, {"load": 0.0}),
    }
    assert (found.worker_id, found.reason) == ("b", "The least busy of 2.")


def test_nobody_is_asked_more_often_than_may_be() -> None:
    fleet = Fleet(*"abcdef")
    asked = request()
    asked.tried = dict.fromkeys("abc", "refused")
    assert fleet.choose(asked) == "d"
    assert fleet.router.able(asked)
    asked.tried["d"] = "refused"
    assert fleet.choose(asked) is None
    assert not fleet.router.able(asked)
    assert fleet.router.reasons(asked) == tuple(f"{w}: refused" for w in "abcd")


def test_who_died_under_a_request_has_one_more_chance() -> None:
    fleet = Fleet("a", "b")
    asked = request()
    asked.tried = {"a": "unreachable: refused"}
    missed = fleet.router.missed
    assert [w.worker_id for w in missed(asked)] == ["a", "b"]
    assert may_again(asked, "a")
    asked.again = ("a",)
    assert not may_again(asked, "a")
    assert [w.worker_id for w in missed(asked)] == ["b"]
    asked.tried["b"] = "unreachable: refused"
    assert may_again(asked, "b")
    asked.again = ("a", "b")  # asked for the fourth time
    assert missed(asked) == []
    assert fleet.choose(asked) is None


def test_nobody_is_missed_that_could_not_serve_it() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.workers["a"].labels = {"region": "eu"}
    fleet.registry.workers["b"].labels = {"region": "us"}
    asked = request(client=Client(require={"region": "eu"}))
    assert fleet.router.labels(asked) == (("region", "eu"),)
    assert [w.worker_id for w in fleet.router.missed(asked)] == ["a"]


def test_nobody_is_missed_that_a_policy_leaves_out() -> None:
    class NotB:
        names = ("worker.id",)

        def value(self, facts: Any) -> Any:
            return facts["worker.id"] != "b"

    def not_b(name: str, spec: PolicySpec) -> tuple[Policy | None, Sequence[Fault]]:
        return Policy(name=name, models=(), filter=NotB()), ()

    fleet = Fleet("a", "b", compile=not_b, p=PolicySpec(filter="x"))
    asked = request()
    fleet.router.admit(asked)
    assert [w.worker_id for w in fleet.router.missed(asked)] == ["a"]


def test_a_model_that_is_busy_is_waited_for_and_one_that_is_gone_is_not() -> None:
    fleet = Fleet("a")
    fleet.add("b", model="n")
    asked = request(models=("m", "n"))
    fleet.registry.workers["a"].in_flight = 2
    assert fleet.choose(asked) is None
    assert fleet.router.able(asked)
    fleet.router.note(asked, "queued", "", None)
    told = fleet.router.explain("r0")
    assert (told.outcome, told.reason) == ("queued", "Every worker that could serve it is busy.")
    fleet.registry.workers["a"].unreachable = "gone"
    assert fleet.choose(asked) == "b"
    fleet.now += 91
    assert fleet.choose(asked) is None
    assert not fleet.router.able(asked)


def test_labels_of_the_key_and_of_the_request_hold_both() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.workers["a"].labels = {"region": "eu", "power": "quiet"}
    fleet.registry.workers["b"].labels = {"region": "eu"}
    client = Client(require={"region": "eu"})
    assert {fleet.choose(request(client=client)) for _ in range(4)} == {"a", "b"}
    assert fleet.choose(request(client=client, headers={"X-Rbee-Require": "power=quiet"})) == "a"
    # A request cannot loosen what its key requires.
    assert fleet.choose(request(client=client, headers={"X-Rbee-Require": "region=us"})) is None
    bad = request(headers={"X-Rbee-Require": "?"})
    with pytest.raises(InvalidRequest, match="is not LABEL=VALUE"):
        fleet.router.admit(bad)
    fleet.router.note(bad, "refused", "Bad.", None)
    assert fleet.router.explain("r0").outcome == "refused"


class Fails:
    names = ("worker.id",)

    def value(self, facts: Any) -> Any:
        raise PolicyFailed("boom")


def compiled(name: str, spec: PolicySpec) -> tuple[Policy | None, Sequence[Fault]]:
    if spec.filter == "bad":
        return None, [Fault(field="filter", summary="bad.")]
    return Policy(name=name, models=spec.models, filter=Fails()), ()


def test_what_does_not_compile_or_cannot_be_evaluated_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        fleet = Fleet("a", p=PolicySpec(filter="x"))
        assert "no library for CEL" in fleet.router.policies.broken["p"]
        assert not fleet.router.policies
        taken = Fleet("a", compile=compiled, p=PolicySpec(filter="bad"), load=PolicySpec(score="1"))
    assert taken.router.policies.broken == {
        "p": "filter: bad.",
        "load": "its name is that of a term of routing's own",
    }
    assert len([r for r in caplog.records if "is left out" in r.message]) == 3
    assert taken.choose(request()) == "a"


def test_a_failing_policy_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet("a", compile=compiled, p=PolicySpec(filter="x"))
    with caplog.at_level(logging.WARNING):
        for seconds in (0, 30, 31, 59, 1):
            fleet.now += seconds
            fleet.registry.workers["a"].last_seen = fleet.now
            assert fleet.choose(request()) == "a"
    assert [r.message for r in caplog.records] == [
        f"the policy 'p' was left out of a decision: filter: boom ({n} so far)" for n in (1, 3, 5)
    ]
    assert fleet.router.failures == {"p": 5}
    # Once for each request, however often it is looked at.
    asked = request()
    assert [fleet.router.able(asked), fleet.choose(asked), fleet.router.reasons(asked)] == [True, "a", ()]
    assert fleet.router.failures == {"p": 6}


def test_policies_of_a_request_are_looked_up_once_and_not_for_ever() -> None:
    fleet = Fleet("a", compile=compiled, p=PolicySpec(filter="x", models=("m",)))
    for number in range(1100):
        fleet.router.choose(request(name=f"n{number}", models=("n",)))
    assert fleet.choose(request()) == "a"
    assert fleet.router.failures == {"p": 1}
    # The same settings again compile nothing.
    before = fleet.router.policies._all
    fleet.router.configure(fleet.config)
    assert fleet.router.policies._all is before


def test_headers_that_may_be_seen() -> None:
    said = {f"X-H{i}": "v" * 1000 for i in range(50)}
    kept = own_headers(said)
    assert (len(kept), {len(v) for _, v in kept}) == (32, {256})
    assert shown([("X-A", "1"), ("x-a", "2"), ("X-Auth-Token", "t"), ("X-Csrf", "c"), ("X-Url", "http://u:p@h")]) == {
        "x-a": "1"
    }
    assert own_headers({"Authorization": "Bearer x", "x": "y", "X-B": "z"}) == (("X-B", "z"),)


def test_of_a_head_nothing_is_kept_that_is_a_secret_by_its_name() -> None:
    head = Headers({b"authorization": b"Bearer s", b"x-api-key": b"s", b"x-a": b"1", b"x-" + b"b" * 300: b"2"})
    assert own_headers(head) == (("x-a", "1"),)
    assert own_headers(head) is own_headers(head), "the same head again costs nothing"


def test_those_that_are_missed_are_those_that_policies_let_through() -> None:
    class NotA:
        names = ("worker.id",)

        def value(self, facts: Any) -> Any:
            return facts["worker.id"] != "a"

    fleet = Fleet("a", "b", compile=lambda n, s: (Policy(name=n, filter=NotA()), ()), p=PolicySpec(filter="x"))
    for number in range(2):  # asked, and recalled
        asked = request(number)
        fleet.router.admit(asked)
        assert fleet.choose(asked) == "b"
        assert [w.worker_id for w in fleet.router.missed(asked)] == ["b"]


def test_every_field_of_the_records_is_a_fact() -> None:
    """What policies may name (the records' fields) is there for each request and each worker."""
    from rbee.adapters.cel import variables

    names = variables()
    facts = request_facts(request(), (("a", "b"),), names)
    worker = Fleet("a").registry.workers["a"]
    looked = {n: look(worker, n.partition(".")[2], False) for n in names if n.startswith("worker.")}
    kinds = {
        "string": str,
        "int": int,
        "double": float,
        "bool": bool,
        "list(string)": list,
        "map(string, string)": dict,
    }
    assert {n: type(v) for n, v in {**facts, **looked}.items()} == {n: kinds[kind] for n, kind in names.items()}


def test_policies_of_the_request_alone_leave_the_choice_of_a_worker_alone() -> None:
    class Fails:
        names = ("request.model",)

        def value(self, facts: Any) -> Any:
            raise PolicyFailed("no such key")

    fleet = Fleet("a", "b", compile=lambda n, s: (Policy(name=n, reject=Fails()), ()), p=PolicySpec(reject="x"))
    asked = request()
    fleet.router.admit(asked)
    assert asked.choice.ruling is None
    worker = fleet.router.choose(asked)
    assert worker is not None
    fleet.router.note(asked, "sent", "", worker)
    told = fleet.router.explain("r0")
    assert told.notes == ("The policy 'p' was left out: its reject: no such key.",)
    assert {c.id for c in told.candidates} == {"a", "b"}
    assert fleet.router.failures == {"p": 1}


def test_a_policy_that_rejects_is_an_error_with_its_reason() -> None:
    class Always:
        names = ("request.model",)

        def value(self, facts: Any) -> Any:
            return True

    fleet = Fleet(
        "a", compile=lambda n, s: (Policy(name=n, reject=Always(), reason="No."), ()), p=PolicySpec(reject="x")
    )
    with pytest.raises(RbeeError) as e:
        fleet.router.admit(request())
    assert (e.value.code, e.value.message) == ("policy_rejected", "No.")
    assert fleet.router.explain("r0").notes == ("The policy 'p' refused it.",)
