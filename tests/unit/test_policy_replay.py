# SPDX-License-Identifier: GPL-3.0-or-later
"""Recorded decisions decided again, and how a decision is shown."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from rbee.cli.views import decision as view
from rbee.contracts import codec
from rbee.contracts.decisions import CandidateRecord, DecisionRecord, RequestRecord
from rbee.core.errors import InvalidRequest
from rbee.core.policy import Policy, PolicyFailed
from rbee.fleet.replay import records, replay

GOLDENS = Path(__file__).parent / "goldens"

REQUEST = RequestRecord(
    model="gpt",
    models=("llama", "tiny"),
    path="/v1/chat/completions",
    stream=True,
    body_bytes=912,
    messages=3,
    tools=True,
    max_tokens=256,
    key="team-a",
    priority="batch",
    require={"region": "eu"},
)
CANDIDATES = (
    CandidateRecord(
        id="w1", hive="h1", model="llama", slots=4, busy=1, load=0.25, affine=True,
        terms={"load": -0.25, "affinity": 1.0},
    ),
    CandidateRecord(id="w2", hive="h2", model="llama", slots=4, terms={"load": 0.0, "warm": 0.05}),
    CandidateRecord(id="w3", hive="h2", model="llama", status="starting", excluded="starting"),
    CandidateRecord(id="t1", hive="h3", model="tiny", excluded="is of another model, llama is served first"),
)  # fmt: skip
SENT = DecisionRecord(
    request_id="req1",
    at="2026-01-01T00:00:00.000Z",
    request=REQUEST,
    outcome="sent",
    reason="It answered for the same leading messages before; the best of 2.",
    worker_id="w1",
    waited_ms=12.3,
    attempts=("w9: unreachable: refused",),
    candidates=CANDIDATES,
    others=3,
    notes=("The policy 'p' was left out: its filter: divide by zero.",),
)
REFUSED = DecisionRecord(
    request_id="req\x1b[31m2",
    at="2026-01-01T00:00:01.000Z",
    request=RequestRecord(
        model="llama", models=("llama",), path="/v1/embeddings", body_bytes=1, images=True, messages=1
    ),
    outcome="refused",
    reason="No worker can serve it.",
    candidates=CANDIDATES[2:3],
)


def shown(parts: Iterable[RenderableType]) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, color_system=None)
    for part in parts:
        console.print(part, highlight=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize(("name", "decision"), [("sent", SENT), ("refused", REFUSED)])
def test_a_decision_for_people(name: str, decision: DecisionRecord) -> None:
    """Goldens: goldens/explain/NAME.txt is what a person sees."""
    assert shown(view.render(decision)) == (GOLDENS / "explain" / f"{name}.txt").read_text()


@dataclass
class Says:
    """An expression that a table stands for: its value for each worker or model."""

    table: Mapping[Any, Any]
    names: tuple[str, ...] = ("worker.id",)

    def value(self, facts: Mapping[str, Any]) -> Any:
        found = self.table[facts[self.names[0]]]
        if isinstance(found, Exception):
            raise found
        return found


def again(*policies: Policy, record: DecisionRecord = SENT) -> Any:
    return replay(record, policies, lambda: 0.0)


def test_without_policies_the_same_is_chosen() -> None:
    found = again()
    assert (found.then, found.now, found.changed, found.partial) == ("w1", "w1", False, True)
    assert found.terms == {"load": -0.25, "affinity": 1.0}
    assert set(found.excluded) == {"w3"}


def test_a_filter_and_a_score_change_it() -> None:
    only = Policy(name="p", filter=Says({"w1": False, "w2": True, "t1": True}))
    found = again(only)
    assert (found.now, found.changed) == ("w2", True)
    assert found.excluded["w1"] == "left out by the policy 'p'"
    assert again(Policy(name="s", score=Says({"w1": 0.0, "w2": 3.0}))).terms == {"load": 0.0, "warm": 0.05, "s": 3.0}
    # With nobody of the first model left, the next one serves.
    assert again(Policy(name="p", filter=Says({"w1": False, "w2": False, "t1": True}))).now == "t1"
    assert again(Policy(name="p", filter=Says({"w1": False, "w2": False, "t1": False}))).now is None


def test_what_another_policy_left_out_then_may_be_chosen_now() -> None:
    out = replace(CANDIDATES[0], excluded="left out by the policy 'old'", terms={})
    record = replace(SENT, worker_id="w2", candidates=(out, CANDIDATES[1]), others=0)
    found = again(record=record)
    assert (found.now, found.partial) == ("w1", False)
    assert found.terms == {"load": -0.25, "affinity": 1.0}
    busier = replace(out, busy=3, load=0.75)
    assert again(record=replace(record, candidates=(busier, CANDIDATES[1]))).now == "w2"
    plain = replace(out, affine=False)
    assert again(record=replace(record, candidates=(plain, CANDIDATES[1]))).now == "w2"


def test_of_equals_the_one_of_then() -> None:
    pair = tuple(CandidateRecord(id=name, hive="h", model="llama", terms={"load": 0.0}) for name in "abc")
    assert [again(record=replace(SENT, worker_id=n, candidates=pair)).now for n in "abc"] == ["a", "b", "c"]


def test_refusals_and_failures() -> None:
    reject = Policy(name="r", models=("llama",), reject=Says({"gpt": True}, ("request.model",)), reason="No.")
    found = again(reject)
    assert (found.now, found.rejected, found.changed) == (None, ("r", "No."), True)
    found = again(Policy(name="f", filter=Says({"w1": PolicyFailed("boom"), "w2": True})))
    assert (found.now, found.failures) == ("w1", ("f: filter: boom",))
    assert again(Policy(name="x", models=("other",), filter=Says({}))).now == "w1"
    limit = Policy(name="l", reject=Says({0: False}, ("request.max_tokens",)))
    assert again(limit, record=replace(SENT, request=replace(REQUEST, max_tokens=None))).rejected is None


def test_what_routing_did_not_refuse_is_no_change() -> None:
    refused = replace(SENT, outcome="refused", worker_id=None)
    assert [again(record=replace(refused, code=code)).changed for code in ("rate_limited", "invalid_header")] == [
        False,
        False,
    ]
    assert again(record=replace(refused, code="rate_limited")).refused == "rate_limited"
    assert [again(record=replace(refused, code=code)).changed for code in ("policy_rejected", "")] == [True, True]


def test_what_changed_for_people() -> None:
    """Golden: goldens/explain/replayed.txt."""
    policies = (
        Policy(name="p", filter=Says({"w1": False, "w2": True, "t1": True})),
        Policy(name="q", score=Says({"w2": PolicyFailed("boom"), "w1": 0.0, "t1": 0.0})),
        Policy(name="r", models=("no",), reject=Says({"no": True}, ("request.model",)), reason="Not this one."),
    )
    unwanted = replace(SENT, request_id="req3", request=replace(REQUEST, model="no"), others=0)
    found = [again(*policies, record=r) for r in (SENT, REFUSED, unwanted)]
    found.append(again(record=replace(SENT, request_id="req4", candidates=(), worker_id=None)))
    assert shown(view.replayed(found)) == (GOLDENS / "explain" / "replayed.txt").read_text()
    assert shown(view.replayed([])) == "0 requests: 0 changed, 0 rejected, 0 with a policy that failed.\n"


def test_a_recording_is_read_back_and_a_bad_line_named() -> None:
    lines = [codec.encode(SENT), b"", b"\n", codec.encode(REFUSED)]
    assert list(records(lines, "f")) == [SENT, REFUSED]
    for bad in (b"{}", b"nonsense", b"[" * 100_000, b" " * 5 * 2**20 + b"1"):
        with pytest.raises(InvalidRequest) as e:
            list(records([codec.encode(SENT), bad], "calls.jsonl"))
        assert str(e.value).startswith("calls.jsonl:2: no recorded decision:")
